//! [`UserTokensBuilder`]: the settings of [`UserTokens`], checked together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::round::{LEAST_EXCHANGE, SAVE_TIME};
use super::user_tokens::{AuthorizeUrl, Settings};
use super::{OAuthClient, UserTokens};
use crate::error::Error;
use crate::provider::token_cache::{DEFAULT_LOAD_TIMEOUT, check_load_timeout};
use crate::store::TokenStore;

/// Users whose tokens are kept at hand by default.
const CAPACITY: usize = 10_000;

/// Longer than any call waits, and than a store is down that restarts.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// Room for waiting for a mark's end, and for marking, an exchange and a save after that.
const MIN_LEASE: Duration = Duration::from_secs(5);

const _: () = assert!(
    SAVE_TIME.as_millis() + LEAST_EXCHANGE.as_millis() < MIN_LEASE.as_millis()
        && SAVE_TIME.as_millis() * 2 <= MIN_LEASE.as_millis()
);

const MAX_LEASE: Duration = Duration::from_secs(3600);

/// Settings of [`UserTokens`]. Made by [`UserTokens::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct UserTokensBuilder {
    settings: Settings,
}

impl UserTokensBuilder {
    pub(super) fn new(client: OAuthClient, store: Arc<dyn TokenStore>, authorize_url: AuthorizeUrl) -> Self {
        let (lease, load_timeout, capacity) = (DEFAULT_LEASE, DEFAULT_LOAD_TIMEOUT, CAPACITY);
        Self { settings: Settings { client, store, authorize_url, lease, load_timeout, capacity } }
    }

    /// How long one refresh has for itself, from taking the lease to saving the new grant: the last two and a half
    /// seconds are for the save, the rest for the exchange, whether its caller still waits or not. After a replica died in
    /// a refresh, its user's calls fail for so long, and two and a half seconds. Default: 30 s. It is 5 s to one hour, and
    /// longer than the load timeout.
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long one call waits for its token: more than zero, up to one hour. Default: 10 s.
    pub fn with_load_timeout(mut self, limit: Duration) -> Self {
        self.settings.load_timeout = limit;
        self
    }

    /// How many users' tokens are kept at hand, one at the least; those beyond are loaded from the store for each use.
    /// Default: 10,000.
    pub fn with_capacity(mut self, users: usize) -> Self {
        self.settings.capacity = users.max(1);
        self
    }

    /// The provider. Asks nobody for anything yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `load_timeout`, if it is zero or over an hour; for
    /// `lease`, if it is less than 5 s or over an hour, or not longer than the load timeout.
    pub fn build(self) -> Result<UserTokens, Error> {
        let Settings { lease, load_timeout, .. } = self.settings;
        check_load_timeout(load_timeout)?;
        if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
            return Err(Error::config("lease", "expected 5 s to one hour"));
        }
        if lease <= load_timeout {
            return Err(Error::config("lease", "expected longer than the load timeout"));
        }
        Ok(UserTokens::with_settings(self.settings))
    }
}

impl fmt::Debug for UserTokensBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserTokensBuilder")
            .field("client", &self.settings.client)
            .field("lease", &self.settings.lease)
            .field("load_timeout", &self.settings.load_timeout)
            .field("capacity", &self.settings.capacity)
            .finish_non_exhaustive()
    }
}
