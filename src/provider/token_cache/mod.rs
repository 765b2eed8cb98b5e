//! [`TokenCache`]: a token that is minted once, shared by every call, and renewed before it ends.
//!
//! ```text
//! credential() ── a live token? ── yes ──→ ready, at once ── refresh due? ── yes ──→ one flight, nobody waits
//!                      │ no                                        (back-off running? then not yet)
//!                      ▼
//!                a flight under way? ── yes ──→ wait for it
//!                      │ no
//!                      ▼
//!                back-off running? ── yes ──→ the last error, at once
//!                      │ no
//!                      ▼
//!                start the one flight, wait for it
//! ```
//!
//! `live.rs` answers how long one token is good for, `backoff.rs` when a failed source may be asked again,
//! `shared.rs` who asks it and who waits, and `flight.rs` how it is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request;

use super::observers::Observers;
use super::{AuthProvider, Clock, CredentialError, CredentialFuture};
use crate::classify::{Rejection, RejectionKind};
use crate::credential::Credential;
use crate::error::Error;
use crate::observe::Observe;
use crate::preference::Slot;

mod backoff;
mod builder;
mod flight;
mod live;
mod shared;
mod source;
#[cfg(test)]
mod tests;

pub use builder::TokenCacheBuilder;
use shared::Shared;
use source::DynSource;
pub use source::TokenSource;

/// How long a mint may take. Long enough for two round trips on a bad line, short enough that a caller
/// with the usual 30 s limit still has time for the request itself.
pub(crate) const DEFAULT_LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Nobody waits an hour for a token, and it keeps every deadline far from the end of the clock's range.
const MAX_LOAD_TIMEOUT: Duration = Duration::from_secs(60 * 60);

pub(crate) fn check_load_timeout(limit: Duration) -> Result<(), Error> {
    if limit.is_zero() || limit > MAX_LOAD_TIMEOUT {
        return Err(Error::config("load_timeout", "expected more than zero and at most one hour"));
    }
    Ok(())
}

/// How often a rejected token may cost a mint. A resource that is closed to this account answers 401 on
/// every call; without a bound, so many calls would be so many mints.
pub(crate) const DEFAULT_REMINT_INTERVAL: Duration = Duration::from_secs(30);

/// Keeps one token for all calls, and mints the next one before it ends.
///
/// - While there is a valid token, [`credential`](AuthProvider::credential) gives it without a lock, an
///   allocation or an await.
/// - However many calls find no token, the source is asked once, in a task of its own. They share the token,
///   or the failure. The call that came first may be cancelled: the mint goes on.
/// - Near its end, the token is renewed in the background; the calls go on with the one there is. There is no
///   timer: a cache that nobody uses mints nothing.
/// - A failed renewal leaves the valid token where it is. The source is asked again after a back-off that
///   doubles from half a second to a minute, or later if it said so
///   ([`CredentialError::retry_after`], heeded up to an hour). Without a valid token, calls during the back-off
///   fail at once with the last error.
/// - The wall clock ([`Clock`]) decides when a token ends. An ended token is never given, and it counts as
///   ended a little early, so that it is still good when it reaches the server.
/// - A token without an expiry is kept until it is refused.
///
/// Clones share one token. When the last clone and the last waiting call are gone, a mint under way is
/// aborted.
///
/// # Refused tokens
///
/// [`rejected`](AuthProvider::rejected) drops the token only if it is the one in use *and* the refusal is
/// [`RejectionKind::Unauthenticated`]: "may not do this" and "does not exist for you" say nothing about the
/// token, and a late 401 for its predecessor says nothing either. At most one token per
/// [`with_remint_interval`](TokenCacheBuilder::with_remint_interval) is dropped like this; within the interval, a refused
/// token is kept and sent on.
///
/// # Runtime
///
/// Minting needs a tokio runtime, with its timer enabled: tokio panics where it is not. Outside of a runtime, a
/// call that needs a mint fails; a call that finds a valid token does not. The cache may be shared by several runtimes: a mint whose runtime
/// went away, or stands still, is given up and the next call starts another.
///
/// # Example
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_credential_fallback::{Credential, CredentialError, TokenCache};
///
/// # async fn ask_the_identity_server() -> Result<String, std::io::Error> { Ok("token".into()) }
/// let cache = TokenCache::new(|| async {
///     let token = ask_the_identity_server()
///         .await
///         .map_err(|error| CredentialError::new("the identity server did not answer").with_source(error))?;
///     let credential = Credential::bearer(token)
///         .map_err(|error| CredentialError::new("the identity server sent no token").with_source(error))?;
///     Ok(credential.with_expiry(SystemTime::now() + Duration::from_secs(900)))
/// });
/// # let _ = cache;
/// ```
#[derive(Clone)]
pub struct TokenCache {
    shared: Arc<Shared>,
}

/// What a cache is built with. Fixed from then on.
#[derive(Clone)]
struct Settings {
    source: Arc<dyn DynSource>,
    clock: Arc<dyn Clock>,
    /// Over zero, up to [`MAX_LOAD_TIMEOUT`].
    load_timeout: Duration,
    remint_interval: Duration,
}

impl TokenCache {
    /// An empty cache before `source`, with every setting at its default. Nothing is minted before the first call.
    pub fn new(source: impl TokenSource) -> Self {
        Self::builder(source).build_unchecked()
    }

    /// Settings of a cache before `source`, to be changed and then [built](TokenCacheBuilder::build).
    pub fn builder(source: impl TokenSource) -> TokenCacheBuilder {
        TokenCacheBuilder::new(source)
    }

    /// The token, minted now if there is none: for use outside of a layer, or to fail early at start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: a mint under way goes on, and the next call finds its token.
    pub fn get(&self) -> CredentialFuture {
        let now = self.shared.settings().clock.now();
        match self.shared.live_credential(now) {
            Some(credential) => CredentialFuture::ready(Ok(credential)),
            None => CredentialFuture::boxed(Arc::clone(&self.shared).obtain()),
        }
    }

    /// How often the source has been asked so far, whatever came of it.
    pub fn mints(&self) -> u64 {
        self.shared.mints()
    }

    /// Why the last mint failed; `None` if it succeeded, or if there was none.
    ///
    /// A failed renewal is not seen by any call as long as the old token is valid: a health check sees it
    /// here first.
    pub fn last_error(&self) -> Option<CredentialError> {
        self.shared.last_error()
    }

    fn with_settings(settings: Settings, observers: Arc<Observers>) -> Self {
        Self { shared: Arc::new(Shared::new(settings, observers)) }
    }
}

impl AuthProvider for TokenCache {
    fn credential(&self, _request: &request::Parts) -> CredentialFuture {
        self.get()
    }

    fn rejected(&self, credential: &Credential, reason: &Rejection) {
        if reason.kind() == RejectionKind::Unauthenticated {
            self.shared.evict(credential.generation());
        }
    }

    fn observed_by(&self, slot: Slot, observer: &Arc<dyn Observe>) {
        self.shared.observers.add(slot, observer);
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("credential", &self.shared.peek())
            .field("mints", &self.mints())
            .field("load_timeout", &self.shared.settings().load_timeout)
            .field("remint_interval", &self.shared.settings().remint_interval)
            .finish_non_exhaustive()
    }
}
