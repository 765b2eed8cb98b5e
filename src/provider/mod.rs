//! Who gives the credential? [`AuthProvider`] and what implements it.
//!
//! | provider | gives |
//! | --- | --- |
//! | [`Credential`] itself | always the same one: a personal access token, an API key |
//! | [`provider_fn`] | whatever your closure returns |
//! | [`TokenCache`] | a token that is minted once, kept, and renewed before it ends |
#![cfg_attr(
    feature = "jwt",
    doc = "| [`JwtBearer`] | a token minted with a signed assertion, through a `TokenCache` |"
)]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request;

use crate::classify::Rejection;
use crate::credential::Credential;
use crate::observe::Observe;
use crate::preference::Slot;

mod clock;
mod error;
mod fixed;
mod from_fn;
#[cfg(feature = "jwt")]
mod jwt_bearer;
pub(crate) mod observers;
pub(crate) mod panic;
pub(crate) mod token_cache;
#[cfg(any(feature = "jwt", feature = "oauth"))]
pub(crate) mod token_endpoint;

pub use clock::{Clock, SystemClock};
pub use error::CredentialError;
pub use from_fn::{ProviderFn, provider_fn};
#[cfg(feature = "jwt")]
pub use jwt_bearer::{JwtBearer, JwtBearerBuilder, JwtGrant, JwtKey};
pub use token_cache::{TokenCache, TokenCacheBuilder, TokenSource};
#[cfg(any(feature = "jwt", feature = "oauth"))]
pub use token_endpoint::{ExpiresIn, HttpClient, RequestStyle};

/// Gives the credential that a request is sent with.
///
/// The trait is object-safe: `Arc<dyn AuthProvider>` is a provider too.
pub trait AuthProvider: Send + Sync {
    /// The credential for a request with this head.
    ///
    /// A provider that has one at hand returns [`CredentialFuture::ready`], which costs no allocation and
    /// no await.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the caller gives up. Work that others wait for (a token being minted)
    /// must not be lost with it.
    fn credential(&self, request: &request::Parts) -> CredentialFuture;

    /// The server refused `credential`, which this provider gave.
    ///
    /// Called once for each refused answer, on the request's way: it must not block. The default does
    /// nothing.
    fn rejected(&self, credential: &Credential, reason: &Rejection) {
        let _ = (credential, reason);
    }

    /// A layer has put this provider into a slot, and `observer` wants to hear of its tokens.
    ///
    /// Called when the layer is built, once for each observer. A provider that mints tokens keeps the two, the observer as a
    /// [`Weak`](std::sync::Weak): the layer and its services keep it alive, and the provider may outlive them. The default
    /// does nothing.
    fn observed_by(&self, slot: Slot, observer: &Arc<dyn Observe>) {
        let _ = (slot, observer);
    }

    /// The credential, if there is only ever one and it is known now.
    ///
    /// It lets [`CredentialFallbackLayer::new`](crate::CredentialFallbackLayer::new) refuse two slots that
    /// hold the same secret. It is asked for when the layer is made, and handed out in copies from then on: `credential`
    /// is not called at all. The default is `None`: not known.
    fn fixed(&self) -> Option<&Credential> {
        None
    }
}

impl<T: AuthProvider + ?Sized> AuthProvider for Arc<T> {
    fn credential(&self, request: &request::Parts) -> CredentialFuture {
        (**self).credential(request)
    }

    fn rejected(&self, credential: &Credential, reason: &Rejection) {
        (**self).rejected(credential, reason);
    }

    fn observed_by(&self, slot: Slot, observer: &Arc<dyn Observe>) {
        (**self).observed_by(slot, observer);
    }

    fn fixed(&self) -> Option<&Credential> {
        (**self).fixed()
    }
}

/// The answer of a provider: at hand already, or on its way.
#[must_use = "futures do nothing unless polled"]
pub struct CredentialFuture {
    inner: Inner,
}

type BoxCredentialFuture = Pin<Box<dyn Future<Output = Result<Credential, CredentialError>> + Send>>;

enum Inner {
    /// `None` once it was taken.
    Ready(Option<Result<Credential, CredentialError>>),
    Boxed(BoxCredentialFuture),
}

impl CredentialFuture {
    /// An answer that is at hand.
    #[inline]
    pub fn ready(result: Result<Credential, CredentialError>) -> Self {
        Self { inner: Inner::Ready(Some(result)) }
    }

    /// An answer that has to be waited for.
    pub fn boxed<F>(future: F) -> Self
    where
        F: Future<Output = Result<Credential, CredentialError>> + Send + 'static,
    {
        Self { inner: Inner::Boxed(Box::pin(future)) }
    }
}

impl CredentialFuture {
    /// The answer if it is at hand, or the future to wait for.
    #[inline]
    pub(crate) fn at_hand(self) -> Result<Result<Credential, CredentialError>, Self> {
        match self.inner {
            Inner::Ready(Some(result)) => Ok(result),
            inner => Err(Self { inner }),
        }
    }
}

impl Future for CredentialFuture {
    type Output = Result<Credential, CredentialError>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.inner {
            Inner::Ready(result) => {
                Poll::Ready(result.take().expect("`CredentialFuture` polled after it was ready"))
            }
            Inner::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for CredentialFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.inner {
            Inner::Ready(_) => "ready",
            Inner::Boxed(_) => "boxed",
        };
        f.debug_tuple("CredentialFuture").field(&state).finish()
    }
}
