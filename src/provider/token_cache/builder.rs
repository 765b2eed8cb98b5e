//! [`TokenCacheBuilder`]: a [`TokenCache`]'s settings, checked together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{
    DEFAULT_LOAD_TIMEOUT, DEFAULT_REMINT_INTERVAL, Settings, TokenCache, TokenSource, check_load_timeout,
};
use crate::error::Error;
use crate::provider::observers::Observers;
use crate::provider::{Clock, SystemClock};

/// Settings of a [`TokenCache`]. Made by [`TokenCache::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct TokenCacheBuilder {
    settings: Settings,
    observers: Arc<Observers>,
}

impl TokenCacheBuilder {
    pub(super) fn new(source: impl TokenSource) -> Self {
        let settings = Settings {
            source: Arc::new(source),
            clock: Arc::new(SystemClock),
            load_timeout: DEFAULT_LOAD_TIMEOUT,
            remint_interval: DEFAULT_REMINT_INTERVAL,
        };
        Self { settings, observers: Arc::default() }
    }

    /// The wall clock that tells when a token has ended. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock + 'static) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// How long one mint may take before it is given up as failed: more than zero, up to one hour. Default: 10 s.
    pub fn with_load_timeout(mut self, limit: Duration) -> Self {
        self.settings.load_timeout = limit;
        self
    }

    /// The shortest time between two tokens dropped because they were rejected. Default: 30 s. Zero drops
    /// every rejected token.
    pub fn with_remint_interval(mut self, interval: Duration) -> Self {
        self.settings.remint_interval = interval;
        self
    }

    /// Observers that hear of other providers' tokens too. Default: the cache's own.
    #[cfg(feature = "oauth")]
    pub(crate) fn with_observers(mut self, observers: Arc<Observers>) -> Self {
        self.observers = observers;
        self
    }

    /// An empty cache. Nothing is minted before the first call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `load_timeout`, if it is zero or
    /// over an hour.
    pub fn build(self) -> Result<TokenCache, Error> {
        check_load_timeout(self.settings.load_timeout)?;
        Ok(self.build_unchecked())
    }

    pub(super) fn build_unchecked(self) -> TokenCache {
        TokenCache::with_settings(self.settings, self.observers)
    }
}

impl fmt::Debug for TokenCacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCacheBuilder")
            .field("load_timeout", &self.settings.load_timeout)
            .field("remint_interval", &self.settings.remint_interval)
            .finish_non_exhaustive()
    }
}
