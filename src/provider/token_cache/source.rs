//! [`TokenSource`]: where a [`TokenCache`](super::TokenCache) gets its tokens from.

use std::future::Future;
use std::pin::Pin;

use crate::credential::Credential;
use crate::provider::CredentialError;

/// Mints tokens, one for each time it is asked.
///
/// A closure that returns a future is one. The cache around it sees to it that there is never more than one
/// mint under way, that it ends in time, and that failures are not repeated too fast: a source needs no
/// retries, limits or locks of its own.
pub trait TokenSource: Send + Sync + 'static {
    /// A new token, with its expiry ([`Credential::with_expiry`]) if that is known.
    ///
    /// The failure is shown to every call that waits, and in logs: it must not hold a secret. If the
    /// source was told when to come back, the error says so with [`CredentialError::with_retry_after`].
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the load timeout has passed or when the cache is dropped.
    fn mint(&self) -> impl Future<Output = Result<Credential, CredentialError>> + Send;
}

impl<F, Fut> TokenSource for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Credential, CredentialError>> + Send,
{
    fn mint(&self) -> impl Future<Output = Result<Credential, CredentialError>> + Send {
        self()
    }
}

/// [`TokenSource`] as an object, so that a cache can be named without its source's type. The box is one
/// allocation per mint, which is a network exchange.
pub(super) trait DynSource: Send + Sync {
    fn mint(&self) -> Pin<Box<dyn Future<Output = Result<Credential, CredentialError>> + Send + '_>>;
}

impl<T: TokenSource> DynSource for T {
    fn mint(&self) -> Pin<Box<dyn Future<Output = Result<Credential, CredentialError>> + Send + '_>> {
        // `async` around the call, so that a panic of the call itself comes out of the first poll, where
        // panics are caught.
        Box::pin(async move { TokenSource::mint(self).await })
    }
}
