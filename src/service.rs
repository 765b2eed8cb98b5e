//! [`CredentialFallback`]: the service that the layer makes.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::body::{PeekBody, ReplayBody};
use crate::call::{Call, Start};
use crate::error::BoxError;
use crate::future::{FirstCredential, ResponseFuture, State};
use crate::layer::Shared;
use crate::policy::is_for_a_proxy;
use crate::provider::AuthProvider;

/// A client that sends each request with one credential and, if that is refused, with the other.
///
/// Made by [`CredentialFallbackLayer`](crate::CredentialFallbackLayer).
///
/// The inner service is asked for readiness before *each* attempt, so it may be a concurrency or rate limit,
/// a buffer, or anything else that gives out permits. Bodies have to be `Unpin`: box those that are not
/// (`http_body_util::combinators::UnsyncBoxBody`).
///
/// If the credential is at hand, the first attempt is sent by `call` itself, as if the layer were not there; if it has
/// to be waited for, when the future is polled.
///
/// # Errors
///
/// Those of the inner service, unchanged, and [`Error`](crate::Error) where no request could be sent.
pub struct CredentialFallback<S, P, E> {
    inner: S,
    shared: Arc<Shared<P, E>>,
}

impl<S, P, E> CredentialFallback<S, P, E> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<P, E>>) -> Self {
        Self { inner, shared }
    }
}

impl<S, P, E, B, RB> Service<Request<B>> for CredentialFallback<S, P, E>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Unpin,
{
    type Response = Response<PeekBody<RB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, P, E, B, RB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was polled ready goes into the call; its clone has yet to become ready.
        let clone = self.inner.clone();
        let mut ready = mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);

        let mut call = Call::new(&shared.policy, &request);
        let is_for_a_proxy = is_for_a_proxy(&request);
        let (mut head, body) = request.into_parts();
        let state = match call.start(&shared, is_for_a_proxy, &mut head, body) {
            Start::Send(body) => {
                let request = Request::from_parts(head, body);
                let response = if call.ledger.is_watched() {
                    call.ledger.enter(|| ready.call(request))
                } else {
                    // Not through a closure, which would move the request once more.
                    ready.call(request)
                };
                State::Attempt { response }
            }
            Start::Wait(slot, credential, body) => {
                let waiting = FirstCredential { slot, credential, head, body };
                State::FirstCredential { waiting: Some(Box::new(waiting)) }
            }
            Start::Fail(error) => State::Failed { error: Some(error) },
        };
        ResponseFuture { inner: ready, shared, call, state }
    }
}

impl<S: Clone, P, E> Clone for CredentialFallback<S, P, E> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: fmt::Debug, P: fmt::Debug, E: fmt::Debug> fmt::Debug for CredentialFallback<S, P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialFallback")
            .field("inner", &self.inner)
            .field("shared", &self.shared)
            .finish()
    }
}
