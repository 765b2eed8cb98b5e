//! [`CredentialFallback`]: the service that the layer makes.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
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
use crate::pooled::Pooled;
use crate::provider::AuthProvider;

/// A client that sends each request with one credential and, if that is refused, with the other.
///
/// Made by [`CredentialFallbackLayer`](crate::CredentialFallbackLayer).
///
/// The inner service is asked for readiness before *each* attempt, so it may be a concurrency or rate limit,
/// a buffer, or anything else that gives out permits. Bodies have to be `Unpin`: box those that are not
/// (`http_body_util::combinators::UnsyncBoxBody`).
///
/// A second attempt is made by a clone of the service that the layer was given, not of the one that made the first: what a
/// clone does not share, such as a connection of its own, is not there.
///
/// If the credential is at hand, the first attempt is sent by `call` itself, as if the layer were not there; if it has
/// to be waited for, when the future is polled.
///
/// # Errors
///
/// Those of the inner service, unchanged, and [`Error`](crate::Error) where no request could be sent.
pub struct CredentialFallback<S, P, E> {
    inner: S,
    base: Arc<Base<S, P, E>>,
}

/// What a service, its clones, and their calls have in common.
pub(crate) struct Base<S, P, E> {
    pub(crate) shared: Arc<Shared<P, E>>,
    /// Never called itself: second attempts are made by clones of it. Kept here once, so that a call that needs no second
    /// attempt clones nothing.
    inner: Mutex<S>,
}

impl<S: Clone, P, E> Base<S, P, E> {
    /// An inner service for one more attempt. It has yet to become ready.
    pub(crate) fn inner(&self) -> S {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Clone, P, E> CredentialFallback<S, P, E> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<P, E>>) -> Self {
        let base = Arc::new(Base { shared, inner: Mutex::new(inner.clone()) });
        Self { inner, base }
    }
}

/// A call from its begin to its end. Dropped before that, it is settled: whoever panicked, or did not wait.
pub(crate) struct OpenCall<S, P, E> {
    base: Arc<Base<S, P, E>>,
    call: Pooled,
    /// Whether `call` or `poll` is under way. If it is when the call is dropped, somebody's code has panicked.
    pub(crate) is_running: bool,
}

impl<S, P, E> OpenCall<S, P, E> {
    fn new(base: &Arc<Base<S, P, E>>) -> Self {
        Self { base: Arc::clone(base), call: Pooled::take(), is_running: true }
    }

    #[inline]
    pub(crate) fn parts(&mut self) -> (&mut Call, &Base<S, P, E>) {
        (&mut self.call, &self.base)
    }
}

impl<S, P, E> Drop for OpenCall<S, P, E> {
    #[inline]
    fn drop(&mut self) {
        self.call.settle(&self.base.shared.policy, self.is_running);
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
        let mut open = OpenCall::new(&self.base);
        let (call, base) = open.parts();
        let shared = &*base.shared;
        call.open(&shared.policy, &request);
        let is_for_a_proxy = is_for_a_proxy(&request);
        let (mut head, body) = request.into_parts();
        let mut way_back = None;
        let state = match call.start(shared, is_for_a_proxy, &mut head, body) {
            Start::Send(body, rewind) => {
                way_back = rewind;
                // Put together in each branch, since a request is long to move.
                let response = if call.ledger().is_watched() {
                    call.ledger().enter(|| self.inner.call(Request::from_parts(head, body)))
                } else {
                    self.inner.call(Request::from_parts(head, body))
                };
                State::Attempt { response }
            }
            Start::Wait(slot, credential, body) => {
                // The service that was polled ready goes into the call; its clone has yet to become ready.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let waiting = FirstCredential { inner, slot, credential, head, body };
                State::FirstCredential { waiting: Some(Box::new(waiting)) }
            }
            Start::Fail(error) => {
                // It may hold a permit, which is no use to a call that sends nothing.
                self.inner = self.inner.clone();
                State::Failed { error: Some(error) }
            }
        };
        open.is_running = false;
        ResponseFuture { open, rewind: way_back, state }
    }
}

impl<S: Clone, P, E> Clone for CredentialFallback<S, P, E> {
    fn clone(&self) -> Self {
        // The inner service last, so that its clone can be made where it belongs: clients are long to move.
        let base = Arc::clone(&self.base);
        Self { inner: self.inner.clone(), base }
    }
}

impl<S: fmt::Debug, P: fmt::Debug, E: fmt::Debug> fmt::Debug for CredentialFallback<S, P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialFallback")
            .field("inner", &self.inner)
            .field("shared", &self.base.shared)
            .finish()
    }
}
