//! [`provider_fn`]: a closure as a provider.

use std::fmt;
use std::future::Future;

use http::request;

use super::{AuthProvider, CredentialFuture};
use crate::credential::Credential;
use crate::provider::CredentialError;

/// A provider made of a closure that returns a future.
///
/// The closure is called for every attempt, so it should keep what is expensive: wrap a slow source in a
/// [`TokenCache`](crate::TokenCache) instead.
///
/// ```
/// use tower_credential_fallback::{Credential, CredentialError, provider_fn};
///
/// let from_file = provider_fn(|_request: &http::request::Parts| async {
///     let token = std::fs::read_to_string("/run/secrets/api-token")
///         .map_err(|error| CredentialError::new("the token file cannot be read").with_source(error))?;
///     Credential::bearer(token.trim())
///         .map_err(|error| CredentialError::new("the token file holds no token").with_source(error))
/// });
/// # let _ = from_file;
/// ```
pub fn provider_fn<F, Fut>(function: F) -> ProviderFn<F>
where
    F: Fn(&request::Parts) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Credential, CredentialError>> + Send + 'static,
{
    ProviderFn { function }
}

/// The provider that [`provider_fn`] makes.
#[derive(Clone)]
pub struct ProviderFn<F> {
    function: F,
}

impl<F, Fut> AuthProvider for ProviderFn<F>
where
    F: Fn(&request::Parts) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Credential, CredentialError>> + Send + 'static,
{
    fn credential(&self, request: &request::Parts) -> CredentialFuture {
        CredentialFuture::boxed((self.function)(request))
    }
}

impl<F> fmt::Debug for ProviderFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderFn").finish_non_exhaustive()
    }
}
