//! [`CredentialError`]: why a provider has no credential.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::BoxError;
use crate::escape::Escaped;

/// Why a provider has no credential to give.
///
/// Cloning is cheap: when many calls wait for one token, they all get the same failure.
///
/// Whoever makes one keeps secrets out of the message and out of the source: both are shown in logs. `Display` and `Debug`
/// escape control characters, line ends among them, so that text from a server forges no log line.
/// [`source`](StdError::source) gives the source as it is: whoever prints that has its own text.
#[derive(Clone)]
pub struct CredentialError {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    message: Cow<'static, str>,
    authorize_url: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl CredentialError {
    /// The provider cannot give a credential now.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                message: message.into(),
                authorize_url: None,
                retry_after: None,
                source: None,
            }),
        }
    }

    /// Only the user can give it: by visiting `authorize_url` and consenting.
    pub fn interaction_required(authorize_url: impl Into<String>) -> Self {
        Self::new("the user has to authorise again").edit(|inner| {
            inner.authorize_url = Some(authorize_url.into());
        })
    }

    /// The same error, caused by `source`.
    #[must_use]
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        self.edit(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// The same error; the identity server asked to wait this long before the next try.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        self.edit(|inner| inner.retry_after = Some(wait))
    }

    /// Where the user can authorise again, if that is what is missing.
    pub fn authorize_url(&self) -> Option<&str> {
        self.inner.authorize_url.as_deref()
    }

    /// How long the identity server asked to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Escaped(&self.inner.message), f)
    }
}

impl fmt::Debug for CredentialError {
    /// The URL may carry a `state` that belongs to one user: it is said to be there, not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialError")
            .field("message", &self.inner.message)
            .field("interaction_required", &self.inner.authorize_url.is_some())
            .field("retry_after", &self.inner.retry_after)
            .field("source", &self.inner.source.as_ref().map(Escaped))
            .finish()
    }
}

impl StdError for CredentialError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}
