//! [`ResponseFuture`]: one call, from its first credential to its one answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, request};
use http_body::Body;
use pin_project::{pin_project, pinned_drop};
use tokio::time::Sleep;
use tower_service::Service;

use crate::answer::{Answer, Peeking, poll_drain};
use crate::body::{PeekBody, ReplayBody};
use crate::call::{Call, Step};
use crate::classify::Decision;
use crate::credential::Credential;
use crate::error::{BoxError, Error};
use crate::layer::Shared;
use crate::outcome::NoReplay;
use crate::policy::is_for_a_proxy;
use crate::preference::Slot;
use crate::provider::{AuthProvider, CredentialFuture};

/// The future of [`CredentialFallback`](crate::CredentialFallback).
///
/// # Cancel safety
///
/// Dropping it drops the request or the answer under way. What providers do for several calls at once (a
/// token being minted) is theirs and goes on.
///
/// # Panics
///
/// In a Tokio runtime without its time driver, if an answer that is looked at is slow to come.
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    /// Was polled ready before the future was made; is polled ready again before the second attempt.
    inner: S,
    shared: Arc<Shared<P, E>>,
    call: Call<B>,
    #[pin]
    state: State<S::Future, B, RB>,
}

/// Where the call is. The `Option`s are there to be taken when the state is left.
///
/// What does not have to wait goes through no state: most calls are in `Attempt` and `Done` alone.
#[pin_project(project = StateProj)]
enum State<F, B, RB: Body> {
    Failed {
        error: Option<Error>,
    },
    FirstCredential {
        slot: Slot,
        credential: CredentialFuture,
        request: Option<(request::Parts, ReplayBody<B>)>,
    },
    Attempt {
        #[pin]
        response: F,
    },
    Peek {
        answer: Option<Answer<RB>>,
        peeking: Peeking,
    },
    Drain {
        refused: Option<Answer<RB>>,
        patience: Option<Pin<Box<Sleep>>>,
    },
    OtherCredential {
        credential: CredentialFuture,
        refused: Option<Answer<RB>>,
        head: Option<request::Parts>,
    },
    /// `refused` is given up early if readiness may depend on it; `body` is taken over at the last moment.
    Ready {
        head: Option<request::Parts>,
        body: Option<ReplayBody<B>>,
        credential: Option<Credential>,
        refused: Option<Answer<RB>>,
    },
    Done,
}

const TAKEN: &str = "what a state holds is taken only when the state is left";

impl<S, P, E, B, RB> ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body,
{
    /// `ready` has been polled ready and not been called since. It is called at once, if the credential is at hand.
    pub(crate) fn new(mut ready: S, shared: Arc<Shared<P, E>>, request: Request<B>) -> Self {
        let mut call = Call::new(&shared.policy, &request);
        let state = start(&mut ready, &shared, &mut call, request);
        Self { inner: ready, shared, call, state }
    }
}

fn start<S, P, E, B, RB>(
    ready: &mut S,
    shared: &Shared<P, E>,
    call: &mut Call<B>,
    request: Request<B>,
) -> State<S::Future, B, RB>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body,
{
    let policy = &shared.policy;
    if !policy.is_in_scope(&call.uri) || is_for_a_proxy(&request) {
        call.outcome.record_no_replay(NoReplay::OutOfScope);
        let request = request.map(ReplayBody::new);
        return State::Attempt { response: call.watch.enter(|| ready.call(request)) };
    }
    if policy.is_insecure(&call.uri) {
        call.fail(policy);
        return State::Failed { error: Some(Error::insecure_origin(&call.uri)) };
    }
    let (head, body) = request.into_parts();
    let body = ReplayBody::new(body);
    let slot = call.plan(policy, &head, body.content());
    let credential = match shared.provider(slot).credential(&head).at_hand() {
        Ok(Ok(credential)) => {
            let request = call.first_request(policy, slot, credential, head, body);
            return State::Attempt { response: call.watch.enter(|| ready.call(request)) };
        }
        Ok(Err(error)) => CredentialFuture::ready(Err(error)),
        Err(waiting) => waiting,
    };
    State::FirstCredential { slot, credential, request: Some((head, body)) }
}

impl<S, P, E, B, RB> Future for ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Unpin,
{
    type Output = Result<Response<PeekBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (call, shared) = (this.call, &**this.shared);
        let policy = &shared.policy;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Failed { error } => {
                    let error = error.take().expect(TAKEN);
                    this.state.set(State::Done);
                    return Poll::Ready(Err(error.into()));
                }

                StateProj::FirstCredential { slot, credential, request } => {
                    let (slot, given) = (*slot, ready!(Pin::new(credential).poll(cx)));
                    let (head, body) = request.take().expect(TAKEN);
                    match given {
                        Ok(credential) => {
                            let request = call.first_request(policy, slot, credential, head, body);
                            State::Attempt { response: call.watch.enter(|| this.inner.call(request)) }
                        }
                        Err(error) => match call.turn_to_other(policy, slot, error) {
                            Ok(other) => State::FirstCredential {
                                slot: other,
                                credential: shared.provider(other).credential(&head),
                                request: Some((head, body)),
                            },
                            Err(error) => {
                                call.fail(policy);
                                this.state.set(State::Done);
                                return Poll::Ready(Err(error.into()));
                            }
                        },
                    }
                }

                StateProj::Attempt { response } => {
                    let response = match ready!(call.watch.enter(|| response.poll(cx))) {
                        Ok(response) => response,
                        Err(error) => {
                            call.fail(policy);
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error.into()));
                        }
                    };
                    // The inner service's future goes before its answer is looked at.
                    this.state.set(State::Done);
                    let mut answer = Answer::new(response);
                    if call.sent.is_none() {
                        return Poll::Ready(Ok(call.finish(policy, answer)));
                    }
                    let decision = match policy.classifier.head(&answer.head) {
                        Decision::Inspect if call.may_peek && policy.may_inspect(&answer.head) => {
                            let mut peeking = Peeking::default();
                            match answer.poll_decision(cx, policy, &mut peeking) {
                                Poll::Ready(decision) => decision,
                                Poll::Pending => {
                                    this.state.set(State::Peek { answer: Some(answer), peeking });
                                    return Poll::Pending;
                                }
                            }
                        }
                        decision => decision,
                    };
                    match call.judge(shared, &answer.head, decision) {
                        Step::Final => return Poll::Ready(Ok(call.finish(policy, answer))),
                        Step::Refuse(reason) => return Poll::Ready(Ok(call.refuse(policy, answer, reason))),
                        Step::Replay => State::Drain { refused: Some(answer), patience: None },
                    }
                }

                StateProj::Peek { answer, peeking } => {
                    let looked = answer.as_mut().expect(TAKEN);
                    let decision = ready!(looked.poll_decision(cx, policy, peeking));
                    let answer = answer.take().expect(TAKEN);
                    this.state.set(State::Done);
                    match call.judge(shared, &answer.head, decision) {
                        Step::Final => return Poll::Ready(Ok(call.finish(policy, answer))),
                        Step::Refuse(reason) => return Poll::Ready(Ok(call.refuse(policy, answer, reason))),
                        Step::Replay => State::Drain { refused: Some(answer), patience: None },
                    }
                }

                StateProj::Drain { refused, patience } => {
                    let draining = &mut refused.as_mut().expect(TAKEN).body;
                    ready!(poll_drain(draining, patience, policy.inspect_limit, cx));
                    let head = call.second_head(policy);
                    State::OtherCredential {
                        credential: shared.provider(call.next).credential(&head),
                        refused: refused.take(),
                        head: Some(head),
                    }
                }

                StateProj::OtherCredential { credential, refused, head } => {
                    let given = ready!(Pin::new(credential).poll(cx));
                    match call.accept_other(policy, given) {
                        Ok(credential) => {
                            let mut head = head.take().expect(TAKEN);
                            policy.put(&credential, &mut head.headers);
                            State::Ready {
                                head: Some(head),
                                body: None,
                                credential: Some(credential),
                                refused: refused.take(),
                            }
                        }
                        Err(reason) => {
                            let refused = refused.take().expect(TAKEN);
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(call.refuse(policy, refused, reason)));
                        }
                    }
                }

                StateProj::Ready { head, body, credential, refused } => {
                    let readiness = this.inner.poll_ready(cx);
                    if let Poll::Ready(Err(error)) = readiness {
                        let refused = refused.take();
                        this.state.set(State::Done);
                        return Poll::Ready(match refused {
                            Some(refused) => Ok(call.refuse(policy, refused, NoReplay::InnerNotReady)),
                            None => {
                                call.fail(policy);
                                Err(error.into())
                            }
                        });
                    }
                    // Only now: up to here the refusal might have become the answer, and taking the body over
                    // may cut off what is left of it.
                    if body.is_none() {
                        match call.take_body() {
                            Ok(taken) => *body = Some(taken),
                            Err(reason) => {
                                let refused = refused.take().expect(TAKEN);
                                this.state.set(State::Done);
                                return Poll::Ready(Ok(call.refuse(policy, refused, reason)));
                            }
                        }
                    }
                    if readiness.is_pending() {
                        // An answer that still holds its connection may be what the inner service waits
                        // for. Losing it is better than waiting for ever.
                        if refused.as_ref().is_some_and(|refused| !refused.body.is_whole()) {
                            *refused = None;
                        }
                        return Poll::Pending;
                    }
                    let request = Request::from_parts(head.take().expect(TAKEN), body.take().expect(TAKEN));
                    call.send(policy, call.next, credential.take().expect(TAKEN));
                    State::Attempt { response: call.watch.enter(|| this.inner.call(request)) }
                }

                StateProj::Done => panic!("`ResponseFuture` polled after it was ready"),
            };
            this.state.set(next);
        }
    }
}

#[pinned_drop]
impl<S, P, E, B, RB> PinnedDrop for ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        this.call.give_up(&this.shared.policy);
    }
}

impl<S, P, E, B, RB> fmt::Debug for ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Failed { .. } => "failed",
            State::FirstCredential { .. } => "first credential",
            State::Attempt { .. } => "attempt",
            State::Peek { .. } => "peek",
            State::Drain { .. } => "drain",
            State::OtherCredential { .. } => "other credential",
            State::Ready { .. } => "ready",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
