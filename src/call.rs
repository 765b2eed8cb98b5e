//! [`Call`]: what is known of one call, and what follows from each answer.

use std::future::Future;

use http::{Method, Request, Response, Uri, request};
use http_body::Body;

use crate::answer::Answer;
use crate::attempt::Snapshot;
use crate::body::{PeekBody, ReplayBody, Rewind};
use crate::classify::Decision;
use crate::credential::Credential;
use crate::error::{BoxError, Error};
use crate::layer::Shared;
use crate::origin::led_to_another_origin;
use crate::outcome::{NoReplay, Outcome};
use crate::policy::Policy;
use crate::preference::{CredentialChoice, Order, Slot};
use crate::provider::{AuthProvider, CredentialError, CredentialFuture};

/// What is known of the call, whatever state it is in.
pub(crate) struct Call<B> {
    pub(crate) outcome: Outcome,
    pub(crate) uri: Uri,
    /// Whether an answer to this method has a body that may be looked at.
    pub(crate) may_peek: bool,
    /// The resource, as the memory knows it.
    key: Option<u64>,
    /// Why a refusal of the first attempt would be final; `None` if a second attempt may follow.
    pub(crate) final_because: Option<NoReplay>,
    /// The request's head, if a second attempt may follow.
    pub(crate) snapshot: Option<Snapshot>,
    /// The way back to the start of the request's body, if a second attempt may follow.
    pub(crate) rewind: Option<Rewind<B>>,
    /// The credential of the attempt under way; `None` if it bears none.
    pub(crate) sent: Option<(Slot, Credential)>,
}

/// What follows from a judgement.
pub(crate) enum Step<RB: Body> {
    Answer(Response<PeekBody<RB>>),
    Replay(Answer<RB>),
}

impl<B> Call<B> {
    pub(crate) fn new(request: &Request<B>) -> Self {
        Self {
            outcome: Outcome::new(),
            uri: request.uri().clone(),
            may_peek: !matches!(*request.method(), Method::HEAD | Method::CONNECT),
            key: None,
            final_because: None,
            snapshot: None,
            rewind: None,
            sent: None,
        }
    }

    /// Says which slot comes first, and notes whether the other may follow.
    ///
    /// `content` is the request's body, if that is in memory.
    pub(crate) fn plan(&mut self, policy: &Policy, head: &request::Parts, content: Option<&[u8]>) -> Slot {
        self.key = policy.key(head, content.unwrap_or_default());
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
        } else if known.is_some_and(|known| known.is_cooling) {
            Some(NoReplay::CoolingDown)
        } else {
            None
        };
        slot
    }

    /// The first provider failed: says whose turn it is, unless both have failed or there is only one.
    pub(crate) fn turn_to_other(&mut self, slot: Slot, error: CredentialError) -> Result<Slot, Error> {
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
    pub(crate) fn judge<P, E, RB>(
        &mut self,
        shared: &Shared<P, E>,
        answer: Answer<RB>,
        decision: Decision,
    ) -> Step<RB>
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
        if let Some(reason) = self.final_because.take() {
            return Step::Answer(self.refuse(answer, reason));
        }
        // Held from here on: it must not pass the limit while the second attempt is prepared.
        match self.rewind.as_ref().map_or(Ok(()), Rewind::hold) {
            Ok(()) => Step::Replay(answer),
            Err(reason) => {
                if let Some(key) = self.key {
                    // We cannot send it again, but the caller may: then the other goes first.
                    policy.memory.learn(key, slot.other());
                }
                Step::Answer(self.refuse(answer, reason.into()))
            }
        }
    }

    /// Keeps what a second attempt needs.
    pub(crate) fn prepare_replay(&mut self, request: &mut Request<ReplayBody<B>>, policy: &Policy)
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        let (body, rewind) = std::mem::take(request.body_mut()).rewindable(policy.replay_limit);
        *request.body_mut() = body;
        self.rewind = Some(rewind);
    }

    /// Takes the body over from the first attempt.
    pub(crate) fn take_body(&mut self) -> Result<ReplayBody<B>, NoReplay> {
        let rewind = self.rewind.take().expect("nothing is replayed without a way back, which is used once");
        rewind.rewind().map_err(Into::into)
    }

    /// The answer is a refusal, and stays the last word.
    pub(crate) fn refuse<RB: Body>(
        &mut self,
        refused: Answer<RB>,
        reason: NoReplay,
    ) -> Response<PeekBody<RB>> {
        self.outcome.record_no_replay(reason);
        self.finish(refused)
    }

    /// The other provider's credential, if it may be shown.
    pub(crate) fn accept_other(
        &self,
        given: <CredentialFuture as Future>::Output,
    ) -> Result<Credential, NoReplay> {
        let credential = given?;
        match &self.sent {
            Some((_, sent)) if sent.is_same_secret(&credential) => Err(NoReplay::SameCredential),
            _ => Ok(credential),
        }
    }

    pub(crate) fn finish<RB: Body>(&mut self, answer: Answer<RB>) -> Response<PeekBody<RB>> {
        if let Some(rewind) = self.rewind.take() {
            rewind.release();
        }
        let Answer { mut head, body } = answer;
        std::mem::replace(&mut self.outcome, Outcome::new()).store(&mut head.extensions);
        Response::from_parts(head, body)
    }

    pub(crate) fn sent_slot(&self) -> Slot {
        self.sent.as_ref().map_or(Slot::Primary, |(slot, _)| *slot)
    }
}
