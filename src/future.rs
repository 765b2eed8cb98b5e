//! [`ResponseFuture`]: one call, from its first credential to its one answer.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, request};
use http_body::Body;
use pin_project::pin_project;
use tower_service::Service;

use crate::answer::{Answer, Inspection};
use crate::body::{PeekBody, ReplayBody, Rewind};
use crate::call::Call;
use crate::classify::Decision;
use crate::error::{BoxError, Error};
use crate::preference::Slot;
use crate::provider::{AuthProvider, CredentialFuture};
use crate::second::{Second, Way};
use crate::service::{Base, OpenCall};

/// The future of [`CredentialFallback`](crate::CredentialFallback).
///
/// # Cancel safety
///
/// Dropping it drops the request or the answer under way. What providers do for several calls at once (a
/// token being minted) is theirs and goes on.
///
/// # Panics
///
/// If it is polled after it was ready. A panic of the inner service, a provider, a classifier or an observer goes through.
/// Its observers are told then that the call has failed. It is counted as failed, unless its answer was counted before.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    /// First, so that the call is settled before anything else of it is dropped.
    pub(crate) open: OpenCall<S, P, E>,
    /// The way back to the start of the request's body, if a second attempt may follow.
    pub(crate) rewind: Option<Rewind<B>>,
    #[pin]
    pub(crate) state: State<S, S::Future, B, RB>,
}

/// Where the call is. The `Option`s are there to be taken when the state is left.
///
/// What does not have to wait goes through no state: most calls are in `Attempt` and `Done` alone. The others are
/// boxed, so that the future is small to move.
#[pin_project(project = StateProj)]
pub(crate) enum State<S, F, B, RB: Body> {
    Failed {
        error: Option<Error>,
    },
    FirstCredential {
        waiting: Option<Box<FirstCredential<S, B>>>,
    },
    Attempt {
        #[pin]
        response: F,
    },
    Peek {
        peek: Option<Box<(Answer<RB>, Inspection)>>,
    },
    Second {
        second: Option<Box<Second<S, B, RB>>>,
    },
    Done,
}

impl<S, F, B, RB> State<S, F, B, RB>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Unpin,
{
    /// What follows a refusal that is not the last word.
    fn second(refused: Answer<RB>) -> Self {
        Self::Second { second: Some(Box::new(Second::new(refused))) }
    }
}

pub(crate) struct FirstCredential<S, B> {
    /// Was polled ready before the future was made.
    pub(crate) inner: S,
    pub(crate) slot: Slot,
    pub(crate) credential: CredentialFuture,
    pub(crate) head: request::Parts,
    pub(crate) body: ReplayBody<B>,
}

const TAKEN: &str = "what a state holds is taken only when the state is left";

impl<S, P, E, B, RB> Future for ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Unpin,
{
    type Output = Result<Response<PeekBody<RB>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.as_mut().project().open.is_running = true;
        let polled = self.as_mut().advance(cx);
        self.project().open.is_running = false;
        polled
    }
}

impl<S, P, E, B, RB> ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Unpin,
{
    #[inline]
    fn advance(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let mut this = self.project();
        let (call, base) = this.open.parts();
        let rewind = this.rewind;
        let shared = &*base.shared;
        let policy = &shared.policy;
        loop {
            let StateProj::Attempt { response } = this.state.as_mut().project() else {
                match ready!(wait(this.state.as_mut().project(), cx, base, call, rewind)) {
                    Waited::For(next) => this.state.set(next),
                    Waited::End(end) => {
                        this.state.set(State::Done);
                        return Poll::Ready(end);
                    }
                }
                continue;
            };
            let polled = if call.ledger().is_watched() {
                call.ledger().enter(|| response.poll(cx))
            } else {
                // Not through a closure, which would move the response once more.
                response.poll(cx)
            };
            let mut answer = match ready!(polled) {
                Ok(response) => Answer::new(response),
                Err(error) => {
                    call.fail(policy, rewind);
                    this.state.set(State::Done);
                    return Poll::Ready(Err(error.into()));
                }
            };
            // The inner service's future goes before its answer is looked at.
            this.state.set(State::Done);
            if call.is_signed() {
                let decision = policy.classifier.head(&answer.head);
                let verdict =
                    if decision == Decision::Inspect && call.may_peek() && policy.may_inspect(&answer.head) {
                        let mut inspection = Inspection::default();
                        match answer.poll_verdict(cx, policy, &mut inspection) {
                            Poll::Ready(verdict) => verdict,
                            Poll::Pending => {
                                this.state.set(State::Peek { peek: Some(Box::new((answer, inspection))) });
                                return Poll::Pending;
                            }
                        }
                    } else {
                        answer.judge_by_head(policy, decision)
                    };
                if !call.conclude(shared, &mut answer, verdict, rewind) {
                    this.state.set(State::second(answer));
                    continue;
                }
            } else {
                call.finish(policy, &mut answer, rewind);
            }
            return Poll::Ready(Ok(answer.into_response()));
        }
    }
}

/// What a state that is waited in leads to.
enum Waited<S: Service<Request<ReplayBody<B>>>, B, RB: Body> {
    For(State<S, S::Future, B, RB>),
    End(Result<Response<PeekBody<RB>>, BoxError>),
}

/// Goes on with a call that is in any state but `Attempt`.
// Out of line, for the sake of the calls that never come here.
#[inline(never)]
fn wait<S, P, E, B, RB>(
    state: StateProj<'_, S, S::Future, B, RB>,
    cx: &mut Context<'_>,
    base: &Base<S, P, E>,
    call: &mut Call,
    rewind: &mut Option<Rewind<B>>,
) -> Poll<Waited<S, B, RB>>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Unpin,
{
    let shared = &*base.shared;
    let policy = &shared.policy;
    Poll::Ready(match state {
        StateProj::FirstCredential { waiting } => {
            let credential = &mut waiting.as_mut().expect(TAKEN).credential;
            let given = ready!(Pin::new(credential).poll(cx));
            let mut first = waiting.take().expect(TAKEN);
            match given {
                Ok(credential) => {
                    let FirstCredential { mut inner, slot, mut head, body, .. } = *first;
                    let (body, way_back) = call.begin(policy, slot, Cow::Owned(credential), &mut head, body);
                    *rewind = way_back;
                    let request = Request::from_parts(head, body);
                    Waited::For(State::Attempt { response: call.ledger().enter(|| inner.call(request)) })
                }
                Err(error) => match call.turn_to_other(policy, first.slot, error) {
                    Ok(other) => {
                        first.slot = other;
                        first.credential = shared.credential(other, &first.head);
                        Waited::For(State::FirstCredential { waiting: Some(first) })
                    }
                    Err(error) => {
                        call.fail(policy, rewind);
                        Waited::End(Err(error.into()))
                    }
                },
            }
        }

        StateProj::Peek { peek } => {
            let (answer, inspection) = &mut **peek.as_mut().expect(TAKEN);
            let verdict = ready!(answer.poll_verdict(cx, policy, inspection));
            let (mut answer, _) = *peek.take().expect(TAKEN);
            if call.conclude(shared, &mut answer, verdict, rewind) {
                Waited::End(Ok(answer.into_response()))
            } else {
                Waited::For(State::second(answer))
            }
        }

        StateProj::Second { second } => {
            let second = second.as_mut().expect(TAKEN);
            match ready!(second.poll(cx, call, rewind, base)) {
                Way::Send(mut inner, request) => {
                    Waited::For(State::Attempt { response: call.ledger().enter(|| inner.call(request)) })
                }
                Way::Back(refused) => Waited::End(Ok(refused.into_response())),
                Way::Failed(error) => {
                    call.fail(policy, rewind);
                    Waited::End(Err(error))
                }
            }
        }

        StateProj::Failed { error } => Waited::End(Err(error.take().expect(TAKEN).into())),

        StateProj::Attempt { .. } | StateProj::Done => panic!("`ResponseFuture` polled after it was ready"),
    })
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
            State::Second { .. } => "second attempt",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
