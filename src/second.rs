//! [`Second`]: the way from a refusal to the second attempt.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, request};
use http_body::Body;
use tower_service::Service;

use crate::answer::{Answer, Patience, poll_drain};
use crate::body::{ReplayBody, Rewind};
use crate::call::Call;
use crate::credential::Credential;
use crate::error::BoxError;
use crate::outcome::NoReplay;
use crate::provider::{AuthProvider, CredentialFuture};
use crate::service::Base;

/// A call between its refusal and its second attempt. The `Option`s are there to be taken when a step ends.
pub(crate) struct Second<S, B, RB: Body> {
    /// The first attempt's answer, for as long as it may be the last word.
    refused: Option<Answer<RB>>,
    step: Step<S, B>,
}

enum Step<S, B> {
    /// The refusal is read on, so that its connection can be used again.
    Drain {
        patience: Patience,
    },
    Credential {
        credential: CredentialFuture,
        head: Option<request::Parts>,
    },
    /// The refusal is given up early if readiness may depend on it; `body` is taken over at the last moment.
    Ready {
        inner: Option<S>,
        head: Option<request::Parts>,
        body: Option<ReplayBody<B>>,
        credential: Option<Credential>,
    },
}

/// Where the way leads.
pub(crate) enum Way<S, B, RB: Body> {
    /// This inner service is ready for this request.
    Send(S, Request<ReplayBody<B>>),
    /// The refusal goes to the caller after all.
    Back(Answer<RB>),
    /// The inner service failed, and the refusal had to be given up before.
    Failed(BoxError),
}

const TAKEN: &str = "what a step holds is taken only when the step ends";

impl<S, B, RB> Second<S, B, RB>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Unpin,
{
    pub(crate) fn new(refused: Answer<RB>) -> Self {
        Self { refused: Some(refused), step: Step::Drain { patience: None } }
    }

    pub(crate) fn poll<P, E>(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        rewind: &mut Option<Rewind<B>>,
        base: &Base<S, P, E>,
    ) -> Poll<Way<S, B, RB>>
    where
        S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
        S::Error: Into<BoxError>,
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let shared = &*base.shared;
        let policy = &shared.policy;
        let Self { refused, step } = self;
        let back = |call: &mut Call, rewind: &mut _, refused: &mut Option<Answer<RB>>, reason| {
            let mut refused = refused.take().expect(TAKEN);
            call.refuse(policy, &mut refused, reason, rewind);
            Poll::Ready(Way::Back(refused))
        };
        loop {
            *step = match step {
                Step::Drain { patience } => {
                    let draining = &mut refused.as_mut().expect(TAKEN).body;
                    ready!(poll_drain(draining, patience, policy.inspect_limit, cx));
                    let head = call.second_head(shared);
                    Step::Credential { credential: shared.credential(call.next(), &head), head: Some(head) }
                }

                Step::Credential { credential, head } => {
                    let given = ready!(Pin::new(credential).poll(cx));
                    let content = rewind.as_ref().and_then(Rewind::content);
                    match call.accept_other(shared, given, content) {
                        Ok(credential) => {
                            let mut head = head.take().expect(TAKEN);
                            policy.put(call.next(), &credential, &mut head.headers);
                            Step::Ready {
                                inner: Some(base.inner()),
                                head: Some(head),
                                body: None,
                                credential: Some(credential),
                            }
                        }
                        Err(reason) => return back(call, rewind, refused, reason),
                    }
                }

                Step::Ready { inner, head, body, credential } => {
                    let readiness = inner.as_mut().expect(TAKEN).poll_ready(cx);
                    if let Poll::Ready(Err(error)) = readiness {
                        if refused.is_some() {
                            return back(call, rewind, refused, NoReplay::InnerNotReady);
                        }
                        return Poll::Ready(Way::Failed(error.into()));
                    }
                    // Only now: up to here the refusal might have become the answer, and taking the body over
                    // may cut off what is left of it.
                    if body.is_none() {
                        match rewind.take().expect(TAKEN).rewind() {
                            Ok(taken) => *body = Some(taken),
                            Err(reason) => return back(call, rewind, refused, reason.into()),
                        }
                    }
                    if readiness.is_pending() {
                        // An answer that still holds its connection may be what the inner service waits
                        // for. Losing it is better than waiting for ever.
                        refused.take_if(|refused| !refused.body.is_whole());
                        return Poll::Pending;
                    }
                    call.send_again(policy, credential.take().expect(TAKEN));
                    let (head, body) = (head.take().expect(TAKEN), body.take().expect(TAKEN));
                    let inner = inner.take().expect(TAKEN);
                    return Poll::Ready(Way::Send(inner, Request::from_parts(head, body)));
                }
            };
        }
    }
}
