//! [`JwtBearerBuilder`]: a [`JwtBearer`]'s settings, checked together.

use std::fmt;
use std::time::Duration;

use super::exchange::Exchange;
use super::{JwtBearer, JwtGrant};
use crate::error::Error;
use crate::provider::HttpClient;
use crate::provider::token_cache::{DEFAULT_LOAD_TIMEOUT, DEFAULT_REMINT_INTERVAL, TokenCache};
use crate::provider::token_endpoint::shown;

/// Settings of a [`JwtBearer`]. Made by [`JwtBearer::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct JwtBearerBuilder<H> {
    http: H,
    grant: JwtGrant,
    load_timeout: Duration,
    remint_interval: Duration,
}

impl<H: HttpClient> JwtBearerBuilder<H> {
    pub(super) fn new(http: H, grant: JwtGrant) -> Self {
        let (load_timeout, remint_interval) = (DEFAULT_LOAD_TIMEOUT, DEFAULT_REMINT_INTERVAL);
        Self { http, grant, load_timeout, remint_interval }
    }

    /// How long one exchange may take before it is given up as failed: more than zero, up to one hour. Default: 10 s.
    pub fn with_load_timeout(mut self, limit: Duration) -> Self {
        self.load_timeout = limit;
        self
    }

    /// The shortest time between two tokens dropped because they were rejected. Default: 30 s. Zero drops
    /// every rejected token.
    pub fn with_remint_interval(mut self, interval: Duration) -> Self {
        self.remint_interval = interval;
        self
    }

    /// The provider. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `load_timeout`, if it is zero or over an hour;
    /// otherwise for the part of the grant that is not usable: `token_url`, `issuer`, `audience`, `assertion_lifetime`,
    /// `claim` or `parameter`.
    pub fn build(self) -> Result<JwtBearer, Error> {
        let checked = self.grant.check()?;
        let issuer = checked.issuer().to_owned();
        let key_id = checked.key_id().to_owned();
        let token_url = shown(&checked.token_url);
        let clock = checked.clock();
        let cache = TokenCache::builder(Exchange::new(self.http, checked))
            .with_clock(clock)
            .with_load_timeout(self.load_timeout)
            .with_remint_interval(self.remint_interval)
            .build()?;
        Ok(JwtBearer { issuer, key_id, token_url, cache })
    }
}

impl<H> fmt::Debug for JwtBearerBuilder<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtBearerBuilder")
            .field("grant", &self.grant)
            .field("load_timeout", &self.load_timeout)
            .field("remint_interval", &self.remint_interval)
            .finish_non_exhaustive()
    }
}
