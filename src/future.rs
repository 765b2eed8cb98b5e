//! [`ResponseFuture`]: one call, from its first credential to its one answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, request, response};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use crate::attempt::Snapshot;
use crate::body::{PeekBody, Progress, ReplayBody};
use crate::classify::{Decision, Rejection};
use crate::credential::Credential;
use crate::error::{BoxError, Error};
use crate::layer::{Policy, Shared};
use crate::origin::led_to_another_origin;
use crate::outcome::{NoReplay, Outcome};
use crate::preference::{CredentialChoice, Order, Slot};
use crate::provider::{AuthProvider, CredentialFuture};

/// How long a refused answer that is slow to come is read on, so that its connection can be used again.
/// A new connection costs about as much; waiting longer than that gains nothing.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// The future of [`CredentialFallback`](crate::CredentialFallback).
///
/// # Cancel safety
///
/// Dropping it drops the request or the answer under way. What providers do for several calls at once (a
/// token being minted) is theirs and goes on.
///
/// # Panics
///
/// In a Tokio runtime without its time driver, if a refused answer is slow to come.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    /// Was polled ready before the future was made; is polled ready again before the second attempt.
    inner: S,
    shared: Arc<Shared<P, E>>,
    call: Call,
    #[pin]
    state: State<S::Future, B, RB>,
}

/// Where the call is. The `Option`s are there to be taken when the state is left.
#[pin_project(project = StateProj)]
enum State<F, B, RB: Body> {
    Start {
        request: Option<Request<B>>,
    },
    FirstCredential {
        slot: Slot,
        credential: CredentialFuture,
        request: Option<Request<ReplayBody<B>>>,
    },
    Attempt {
        #[pin]
        response: F,
    },
    Peek {
        answer: Option<Answer<RB>>,
        asked_at: usize,
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
    /// `refused` is given up early if readiness may depend on it.
    Ready {
        request: Option<Request<ReplayBody<B>>>,
        credential: Option<Credential>,
        refused: Option<Answer<RB>>,
    },
    Done,
}

const TAKEN: &str = "what a state holds is taken only when the state is left";

/// A response whose body may have been looked at.
struct Answer<RB: Body> {
    head: response::Parts,
    body: PeekBody<RB>,
}

/// What is known of the call, whatever state it is in.
struct Call {
    outcome: Outcome,
    uri: Uri,
    /// Whether an answer to this method has a body that may be looked at.
    may_peek: bool,
    /// The resource, as the memory knows it.
    key: Option<u64>,
    /// Why a refusal of the first attempt would be final; `None` if a second attempt may follow.
    final_because: Option<NoReplay>,
    /// The request's body, if it is wholly in memory.
    content: Option<Bytes>,
    /// The request's head, if a second attempt may follow.
    snapshot: Option<Snapshot>,
    /// The credential of the attempt under way; `None` if it bears none.
    sent: Option<(Slot, Credential)>,
}

impl<S, P, E, B, RB> ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    /// `ready` has been polled ready and not been called since.
    pub(crate) fn new(ready: S, shared: Arc<Shared<P, E>>, request: Request<B>) -> Self {
        Self {
            inner: ready,
            shared,
            call: Call {
                outcome: Outcome::new(),
                uri: request.uri().clone(),
                may_peek: !matches!(*request.method(), Method::HEAD | Method::CONNECT),
                key: None,
                final_because: None,
                content: None,
                snapshot: None,
                sent: None,
            },
            state: State::Start { request: Some(request) },
        }
    }
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
                StateProj::Start { request } => {
                    let request = request.take().expect(TAKEN);
                    if !policy.is_in_scope(&call.uri) || is_for_a_proxy(&request) {
                        call.outcome.record_no_replay(NoReplay::OutOfScope);
                        State::Attempt { response: this.inner.call(request.map(ReplayBody::untouched)) }
                    } else if policy.is_insecure(&call.uri) {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(Error::insecure_origin(&call.uri).into()));
                    } else {
                        let (head, body) = request.into_parts();
                        let (body, content) = ReplayBody::capture(body, cx);
                        call.content = content;
                        let slot = call.plan(policy, &head);
                        State::FirstCredential {
                            slot,
                            credential: shared.provider(slot).credential(&head),
                            request: Some(Request::from_parts(head, body)),
                        }
                    }
                }

                StateProj::FirstCredential { slot, credential, request } => {
                    let (slot, given) = (*slot, ready!(Pin::new(credential).poll(cx)));
                    let mut request = request.take().expect(TAKEN);
                    match given {
                        Ok(credential) => {
                            // Frozen before anybody else, the credential included, touches the head.
                            if call.final_because.is_none() {
                                call.snapshot = Some(Snapshot::of(&request, credential.name()));
                            }
                            policy.put(&credential, request.headers_mut());
                            call.sent = Some((slot, credential));
                            State::Attempt { response: this.inner.call(request) }
                        }
                        Err(error) => match call.turn_to_other(slot, error) {
                            Ok(other) => {
                                let (head, body) = request.into_parts();
                                State::FirstCredential {
                                    slot: other,
                                    credential: shared.provider(other).credential(&head),
                                    request: Some(Request::from_parts(head, body)),
                                }
                            }
                            Err(error) => {
                                this.state.set(State::Done);
                                return Poll::Ready(Err(error.into()));
                            }
                        },
                    }
                }

                StateProj::Attempt { response } => {
                    let response = match ready!(response.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error.into()));
                        }
                    };
                    let answer = Answer::new(response);
                    if call.sent.is_none() {
                        this.state.set(State::Done);
                        return Poll::Ready(Ok(call.finish(answer)));
                    }
                    match policy.classifier.head(&answer.head) {
                        Decision::Inspect if call.may_peek && policy.may_inspect(&answer.head) => {
                            State::Peek { answer: Some(answer), asked_at: 0 }
                        }
                        decision => match call.judge(shared, answer, decision) {
                            Step::Answer(answer) => {
                                this.state.set(State::Done);
                                return Poll::Ready(Ok(answer));
                            }
                            Step::Replay(refused) => State::Drain { refused: Some(refused), patience: None },
                        },
                    }
                }

                StateProj::Peek { answer, asked_at } => {
                    let looked = answer.as_mut().expect(TAKEN);
                    let decision = ready!(looked.poll_decision(cx, policy, asked_at));
                    let answer = answer.take().expect(TAKEN);
                    match call.judge(shared, answer, decision) {
                        Step::Answer(answer) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(answer));
                        }
                        Step::Replay(refused) => State::Drain { refused: Some(refused), patience: None },
                    }
                }

                StateProj::Drain { refused, patience } => {
                    let draining = &mut refused.as_mut().expect(TAKEN).body;
                    ready!(poll_drain(draining, patience, policy.inspect_limit, cx));
                    let head = call.snapshot.take().expect(TAKEN).thaw(call.uri.clone());
                    let other = call.sent_slot().other();
                    State::OtherCredential {
                        credential: shared.provider(other).credential(&head),
                        refused: refused.take(),
                        head: Some(head),
                    }
                }

                StateProj::OtherCredential { credential, refused, head } => {
                    let given = ready!(Pin::new(credential).poll(cx));
                    match call.accept_other(given) {
                        Ok(credential) => {
                            let content = call.content.take().unwrap_or_default();
                            let head = head.take().expect(TAKEN);
                            let mut request = Request::from_parts(head, ReplayBody::from_content(content));
                            policy.put(&credential, request.headers_mut());
                            State::Ready {
                                request: Some(request),
                                credential: Some(credential),
                                refused: refused.take(),
                            }
                        }
                        Err(reason) => {
                            call.outcome.record_no_replay(reason);
                            let refused = refused.take().expect(TAKEN);
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(call.finish(refused)));
                        }
                    }
                }

                StateProj::Ready { request, credential, refused } => match this.inner.poll_ready(cx) {
                    Poll::Pending => {
                        // An answer that still holds its connection may be what the inner service waits
                        // for. Losing it is better than waiting for ever.
                        if refused.as_ref().is_some_and(|refused| !refused.body.is_whole()) {
                            *refused = None;
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) => {
                        let request = request.take().expect(TAKEN);
                        let slot = call.sent_slot().other();
                        call.sent = credential.take().map(|credential| (slot, credential));
                        State::Attempt { response: this.inner.call(request) }
                    }
                    Poll::Ready(Err(error)) => {
                        let refused = refused.take();
                        this.state.set(State::Done);
                        call.outcome.record_no_replay(NoReplay::InnerNotReady);
                        return Poll::Ready(refused.map(|refused| call.finish(refused)).ok_or(error.into()));
                    }
                },

                StateProj::Done => panic!("`ResponseFuture` polled after it was ready"),
            };
            this.state.set(next);
        }
    }
}

/// What follows from a judgement.
enum Step<RB: Body> {
    Answer(Response<PeekBody<RB>>),
    Replay(Answer<RB>),
}

impl Call {
    /// Says which slot comes first, and notes whether the other may follow.
    fn plan(&mut self, policy: &Policy, head: &request::Parts) -> Slot {
        self.key = policy.key(head, self.content.as_deref().unwrap_or_default());
        let known = self.key.map(|key| policy.memory.recall(key));
        let (slot, is_only) = match head.extensions.get() {
            Some(CredentialChoice::First(slot)) => (*slot, false),
            Some(CredentialChoice::Only(slot)) => (*slot, true),
            None => match policy.order {
                Order::Adaptive => (known.map_or(Slot::Primary, |known| known.slot), false),
                Order::PrimaryFirst => (Slot::Primary, false),
                Order::FallbackFirst => (Slot::Fallback, false),
                Order::PrimaryOnly => (Slot::Primary, true),
                Order::FallbackOnly => (Slot::Fallback, true),
            },
        };
        self.final_because = if is_only {
            Some(NoReplay::OnlyOne)
        } else if self.content.is_none() {
            Some(NoReplay::StreamingBody)
        } else if known.is_some_and(|known| known.is_cooling) {
            Some(NoReplay::CoolingDown)
        } else {
            None
        };
        slot
    }

    /// The first provider failed: says whose turn it is, unless both have failed or there is only one.
    fn turn_to_other(&mut self, slot: Slot, error: crate::CredentialError) -> Result<Slot, Error> {
        if let Some((first, cause)) = self.outcome.unavailable() {
            return Err(Error::no_credential((first, cause.clone()), Some((slot, error))));
        }
        if matches!(self.final_because, Some(NoReplay::OnlyOne)) {
            return Err(Error::no_credential((slot, error), None));
        }
        self.final_because = Some(error.clone().into());
        self.outcome.record_unavailable(slot, error);
        Ok(slot.other())
    }

    /// Takes note of the verdict on an answer, and says whether it goes to the caller.
    fn judge<P, E, RB>(&mut self, shared: &Shared<P, E>, answer: Answer<RB>, decision: Decision) -> Step<RB>
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
        RB: Body,
    {
        let policy = &shared.policy;
        let rejection = policy.settle(decision, &answer.head);
        let slot = self.sent_slot();
        self.outcome.record(slot, rejection);
        let is_second = self.outcome.attempts().count() == 2;
        let Some(rejection) = rejection else {
            if let (Some(key), true) = (self.key, is_second) {
                policy.memory.learn(key, slot);
            }
            return Step::Answer(self.finish(answer));
        };

        if led_to_another_origin(&self.uri, &answer.head.extensions) {
            // Whoever refused there never was to see our credential: it says nothing about it.
            self.final_because = Some(NoReplay::Redirected);
        } else if let Some((_, credential)) = &self.sent {
            shared.provider(slot).rejected(credential, &rejection);
        }
        if is_second {
            if let Some(key) = self.key {
                policy.memory.cool(key, policy.cooldown);
            }
            return Step::Answer(self.finish(answer));
        }
        match self.final_because.take() {
            Some(reason) => {
                if let (Some(key), NoReplay::StreamingBody) = (self.key, &reason) {
                    // We cannot send it again, but the caller may: then the other goes first.
                    policy.memory.learn(key, slot.other());
                }
                self.outcome.record_no_replay(reason);
                Step::Answer(self.finish(answer))
            }
            None => Step::Replay(answer),
        }
    }

    /// The other provider's credential, if it may be shown.
    fn accept_other(&self, given: <CredentialFuture as Future>::Output) -> Result<Credential, NoReplay> {
        let credential = given?;
        match &self.sent {
            Some((_, sent)) if sent.is_same_secret(&credential) => Err(NoReplay::SameCredential),
            _ => Ok(credential),
        }
    }

    fn finish<RB: Body>(&mut self, answer: Answer<RB>) -> Response<PeekBody<RB>> {
        let Answer { mut head, body } = answer;
        std::mem::replace(&mut self.outcome, Outcome::new()).store(&mut head.extensions);
        Response::from_parts(head, body)
    }

    fn sent_slot(&self) -> Slot {
        self.sent.as_ref().map_or(Slot::Primary, |(slot, _)| *slot)
    }
}

impl Policy {
    fn key(&self, head: &request::Parts, content: &[u8]) -> Option<u64> {
        let Some(resource) = &self.resource else { return Some(self.memory.key(&head.uri, None)) };
        let name = resource.resource(head, content)?;
        Some(self.memory.key(&head.uri, Some(name)))
    }

    /// Puts the credential into a head, in place of whatever the caller had put there.
    fn put(&self, credential: &Credential, headers: &mut HeaderMap) {
        if let [_, _, ..] = &*self.known_headers {
            self.known_headers.iter().for_each(|name| drop(headers.remove(name)));
        }
        credential.apply(headers);
    }

    fn may_inspect(&self, head: &response::Parts) -> bool {
        self.inspect_limit > 0 && has_readable_body(head)
    }

    /// The last word on an answer: what is still open is decided by status alone.
    fn settle(&self, decision: Decision, head: &response::Parts) -> Option<Rejection> {
        let decision = match decision {
            Decision::Inspect => self.classifier.body(head, b""),
            decided => decided,
        };
        match decision {
            Decision::Reject(rejection) => Some(rejection),
            Decision::Accept | Decision::Inspect => None,
        }
    }
}

impl<RB: Body> Answer<RB> {
    fn new(response: Response<RB>) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body: PeekBody::new(body) }
    }
}

impl<RB: Body + Unpin> Answer<RB> {
    /// Reads and asks until there is a decision, or nothing more to look at (`Inspect`).
    ///
    /// The classifier is asked when no more is at hand, rather than at every frame: a body that comes byte
    /// by byte is not searched once a byte, and one that pauses is not waited for without need.
    fn poll_decision(
        &mut self,
        cx: &mut Context<'_>,
        policy: &Policy,
        asked_at: &mut usize,
    ) -> Poll<Decision> {
        let progress = loop {
            match self.body.poll_peek(cx, policy.inspect_limit) {
                Poll::Ready(Progress::More) => {}
                Poll::Ready(Progress::Done) => break Poll::Ready(Decision::Inspect),
                Poll::Pending => break Poll::Pending,
            }
        };
        let prefix = self.body.prefix(policy.inspect_limit);
        if prefix.len() == *asked_at {
            return progress;
        }
        *asked_at = prefix.len();
        match policy.classifier.body(&self.head, prefix) {
            Decision::Inspect => progress,
            decided => Poll::Ready(decided),
        }
    }
}

/// Reads a refused answer on, so that its connection can be used again: until its end, the limit, or the end
/// of our patience.
fn poll_drain<RB: Body + Unpin>(
    body: &mut PeekBody<RB>,
    patience: &mut Option<Pin<Box<Sleep>>>,
    limit: usize,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while let Poll::Ready(progress) = body.poll_peek(cx, limit) {
        if progress == Progress::Done {
            return Poll::Ready(());
        }
    }
    if patience.is_none() && tokio::runtime::Handle::try_current().is_err() {
        // Another executor: no timer to trust in, so no wait.
        return Poll::Ready(());
    }
    patience.get_or_insert_with(|| Box::pin(sleep(DRAIN_PATIENCE))).as_mut().poll(cx)
}

/// `CONNECT` in authority form is spoken to a proxy, which must not see the credential
/// ([RFC 9110, 9.3.6](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6)). With a scheme, it is the extended
/// form of [RFC 8441](https://www.rfc-editor.org/rfc/rfc8441), spoken to the origin.
fn is_for_a_proxy<B>(request: &Request<B>) -> bool {
    *request.method() == Method::CONNECT && request.uri().scheme().is_none()
}

/// Whether the answer has a body that ends by itself and is in plain text as far as HTTP can tell.
fn has_readable_body(head: &response::Parts) -> bool {
    let is_bodiless = head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let is_encoded = head
        .headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let is_event_stream = head.headers.get(CONTENT_TYPE).is_some_and(|value| {
        const EVENTS: &[u8] = b"text/event-stream";
        value.as_bytes().get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
    });
    !(is_bodiless || is_encoded || is_event_stream)
}

impl<S, P, E, B, RB> fmt::Debug for ResponseFuture<S, P, E, B, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Start { .. } => "start",
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
