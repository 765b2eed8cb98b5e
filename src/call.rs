//! [`Call`]: what is known of one call, and what follows from each answer.

use std::future::Future;

use http::{Method, Request, Response, StatusCode, Uri, request, response};
use http_body::Body;

use crate::answer::Answer;
use crate::attempt::Snapshot;
use crate::body::{PeekBody, ReplayBody, Rewind};
use crate::classify::{Decision, RejectionKind};
use crate::credential::Credential;
use crate::error::{BoxError, Error};
use crate::layer::Shared;
use crate::observe::{CallEvent, Ending, Watch};
use crate::origin::led_to_another_origin;
use crate::outcome::{Attempt, NoReplay, Outcome};
use crate::policy::Policy;
use crate::preference::{CredentialChoice, Left, Order, Slot};
use crate::provider::{AuthProvider, CredentialError, CredentialFuture};

/// What is known of the call, whatever state it is in.
pub(crate) struct Call<B> {
    pub(crate) outcome: Outcome,
    pub(crate) uri: Uri,
    /// Whether an answer to this method has a body that may be looked at.
    pub(crate) may_peek: bool,
    /// The resource, as the memory knows it.
    key: Option<u64>,
    /// Whom it is made for, as the memory knows them.
    user: u64,
    /// The slot that has been seen to serve it.
    known: Option<Slot>,
    /// Whether both were refused a moment ago.
    is_cooling: bool,
    /// What it refers to that may have stayed behind.
    left: Option<Box<Left>>,
    /// Whose turn it is at the second attempt.
    pub(crate) next: Slot,
    /// Why a refusal of the first attempt would be final; `None` if a second attempt may follow.
    pub(crate) final_because: Option<NoReplay>,
    /// The request's head, if a second attempt may follow.
    snapshot: Option<Snapshot>,
    /// The way back to the start of the request's body, if a second attempt may follow.
    rewind: Option<Rewind<B>>,
    /// The credential of the attempt under way; `None` if it bears none.
    pub(crate) sent: Option<(Slot, Credential)>,
    pub(crate) watch: Watch,
    /// Whether a request with it has been sent and not been answered.
    is_under_way: bool,
    /// Whether the last answer says nothing of the credential.
    is_unclear: bool,
    /// Whether its end has been told.
    has_ended: bool,
}

/// What follows from a judgement.
pub(crate) enum Step {
    /// The answer goes to the caller.
    Final,
    /// So does the refusal: it is not replayed.
    Refuse(NoReplay),
    Replay,
}

impl<B> Call<B> {
    pub(crate) fn new(policy: &Policy, request: &Request<impl Sized>) -> Self {
        Self {
            outcome: Outcome::new(),
            uri: request.uri().clone(),
            may_peek: !matches!(*request.method(), Method::HEAD | Method::CONNECT),
            key: None,
            user: 0,
            known: None,
            is_cooling: false,
            left: None,
            next: Slot::Fallback,
            final_because: None,
            snapshot: None,
            rewind: None,
            sent: None,
            watch: Watch::begin(&policy.observers, request.method(), request.uri()),
            is_under_way: false,
            is_unclear: false,
            has_ended: false,
        }
    }

    /// Says which slot comes first, and notes whether the other may follow.
    ///
    /// `content` is the request's body, if that is in memory.
    pub(crate) fn plan(&mut self, policy: &Policy, head: &request::Parts, content: Option<&[u8]>) -> Slot {
        self.key = policy.key(head, content.unwrap_or_default());
        self.user = policy.user(head);
        let memory = &policy.live.memory;
        let known = self.key.map(|key| memory.recall(key));
        self.known = known.filter(|known| known.is_learnt).map(|known| known.slot);
        self.is_cooling = memory.is_in_use()
            && self
                .key
                .is_some_and(|key| memory.recall(policy.cool_key(&self.uri, key, self.user)).is_cooling);
        if let Some((rule, memory)) = &policy.left_behind {
            let name = rule.find(head, content.unwrap_or_default());
            self.left = name.map(|name| Box::new(Left::new(memory, head, name)));
        }
        let (slot, is_only) = match head.extensions.get() {
            Some(CredentialChoice::First(slot)) => (*slot, false),
            Some(CredentialChoice::Only(slot)) => (*slot, true),
            None => match policy.live.order() {
                Order::Adaptive => (known.map_or(Slot::Primary, |known| known.slot), false),
                Order::PrimaryFirst => (Slot::Primary, false),
                Order::FallbackFirst => (Slot::Fallback, false),
                Order::PrimaryOnly => (Slot::Primary, true),
                Order::FallbackOnly => (Slot::Fallback, true),
            },
        };
        self.final_because = if is_only {
            Some(NoReplay::OnlyOne)
        } else if self.is_cooling {
            Some(NoReplay::CoolingDown)
        } else {
            None
        };
        slot
    }

    /// The first provider failed: says whose turn it is, unless both have failed or there is only one.
    pub(crate) fn turn_to_other(
        &mut self,
        policy: &Policy,
        slot: Slot,
        error: CredentialError,
    ) -> Result<Slot, Error> {
        self.note_unavailable(policy, slot, &error);
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
    pub(crate) fn judge<P, E>(
        &mut self,
        shared: &Shared<P, E>,
        head: &response::Parts,
        decision: Decision,
    ) -> Step
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let policy = &shared.policy;
        let rejection = policy.settle(decision, head);
        let slot = self.sent_slot();
        self.outcome.record(slot, rejection);
        let is_second = self.outcome.attempts().count() == 2;
        self.is_under_way = false;
        self.is_unclear = rejection.is_none() && says_nothing_of_the_credential(head.status);
        let status = head.status;
        self.watch.event(|| CallEvent::Answered {
            slot,
            status,
            refused: rejection,
            is_unclear: self.is_unclear,
        });
        let Some(rejection) = rejection else {
            if self.is_unclear {
                policy.live.stats.unclear(slot);
            } else {
                self.learn_from_acceptance(policy, slot, is_second);
            }
            return Step::Final;
        };
        policy.live.stats.refused(slot, &rejection);

        let is_strangers = led_to_another_origin(&self.uri, &head.extensions);
        if is_strangers {
            // Whoever refused there never was to see our credential: it says nothing about it.
            self.final_because = Some(NoReplay::Redirected);
        } else if let Some((_, credential)) = &self.sent {
            shared.provider(slot).rejected(credential, &rejection);
        }
        if is_second {
            if !is_strangers {
                self.learn_from_two_refusals(policy, slot);
            }
            return Step::Final;
        }
        if let Some(reason) = self.final_because.take() {
            return Step::Refuse(reason);
        }
        // Held from here on: it must not pass the limit while the second attempt is prepared.
        match self.rewind.as_ref().map_or(Ok(()), Rewind::hold) {
            Ok(()) => {
                // A token that is not valid says nothing of what the request refers to.
                let serves = self.known.filter(|_| rejection.kind() != RejectionKind::Unauthenticated);
                self.next = match (&mut self.left, &policy.left_behind) {
                    (Some(left), Some((_, memory))) => left.go_on(memory, slot, serves),
                    _ => slot.other(),
                };
                Step::Replay
            }
            Err(reason) => {
                if let Some(key) = self.key {
                    // We cannot send it again, but the caller may: then the other goes first.
                    policy.live.memory.learn(key, slot.other());
                }
                Step::Refuse(reason.into())
            }
        }
    }

    fn learn_from_acceptance(&self, policy: &Policy, slot: Slot, is_second: bool) {
        let memory = &policy.live.memory;
        if let Some(key) = self.key {
            // Only after a refusal: what either credential may do, such as a list, says nothing of the other.
            if is_second {
                memory.learn(key, slot);
            }
            if self.is_cooling {
                memory.warm(policy.cool_key(&self.uri, key, self.user));
            }
        }
        if let (Some(left), Some((_, memory))) = (&self.left, &policy.left_behind) {
            let is_telling = is_second && !self.was_a_token_invalid();
            let refused = self.outcome.attempts().next().filter(|_| is_telling).map(|first| first.slot);
            left.accepted(memory, slot, refused);
        }
        let is_needed = self.outcome.attempts().next().is_some_and(|first| first.slot != slot)
            || self.outcome.unavailable().is_some_and(|(unavailable, _)| unavailable != slot);
        policy.live.stats.accepted(slot, self.key, is_needed);
    }

    /// Whether the call ends without its being known whether the primary would have answered where the fallback did
    /// not.
    fn leaves_the_primary_open(&self) -> bool {
        let refused = |slot| self.outcome.attempts().any(|made| made.slot == slot && made.refused.is_some());
        let is_fallback_of_no_use = refused(Slot::Fallback)
            || self.outcome.unavailable().is_some_and(|(slot, _)| slot == Slot::Fallback);
        let is_accepted =
            self.outcome.attempts().last().is_some_and(|last| last.refused.is_none()) && !self.is_unclear;
        is_fallback_of_no_use
            && !is_accepted
            && !refused(Slot::Primary)
            && !matches!(self.outcome.no_replay(), Some(NoReplay::Redirected))
    }

    fn is_out_of_scope(&self) -> bool {
        matches!(self.outcome.no_replay(), Some(NoReplay::OutOfScope))
    }

    /// Whether a token was refused for its own sake, which says nothing of what the request refers to.
    fn was_a_token_invalid(&self) -> bool {
        let mut refused = self.outcome.attempts().filter_map(|attempt| attempt.refused);
        refused.any(|rejection| rejection.kind() == RejectionKind::Unauthenticated)
    }

    fn learn_from_two_refusals(&self, policy: &Policy, slot: Slot) {
        let Some(key) = self.key else { return };
        let memory = &policy.live.memory;
        if !self.was_a_token_invalid()
            && let (Some(left), Some((_, left_memory))) = (&self.left, &policy.left_behind)
        {
            let first = self.outcome.attempts().next().map_or(slot, |first| first.slot);
            if let Some(other) = left.refused(left_memory, first, slot) {
                memory.learn(key, other);
            }
        }
        memory.cool(policy.cool_key(&self.uri, key, self.user), policy.cooldown);
    }

    /// The first attempt's request. Keeps what a second attempt needs.
    pub(crate) fn first_request(
        &mut self,
        policy: &Policy,
        slot: Slot,
        credential: Credential,
        mut head: request::Parts,
        mut body: ReplayBody<B>,
    ) -> Request<ReplayBody<B>>
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        if self.final_because.is_none() {
            // Nobody but the caller has touched the head yet.
            self.snapshot = Some(Snapshot::of(&head));
            let (sent, rewind) = body.rewindable(policy.replay_limit);
            body = sent;
            self.rewind = Some(rewind);
        }
        if let (Some((rule, memory)), Some(left)) = (&policy.left_behind, &mut self.left)
            && left.begin(memory, slot)
        {
            rule.remove(&mut head);
        }
        policy.put(&credential, &mut head.headers);
        self.send(policy, slot, credential);
        Request::from_parts(head, body)
    }

    /// The second attempt's head, but for the credential.
    pub(crate) fn second_head(&mut self, policy: &Policy) -> request::Parts {
        let snapshot =
            self.snapshot.take().expect("nothing is replayed without a snapshot, which is used once");
        let without = self.sent.as_ref().map(|(_, credential)| credential.name());
        let mut head = snapshot.thaw(self.uri.clone(), without);
        if let (Some((rule, _)), Some(left)) = (&policy.left_behind, &self.left)
            && left.is_removed
        {
            rule.remove(&mut head);
        }
        head
    }

    /// Takes the body over from the first attempt.
    pub(crate) fn take_body(&mut self) -> Result<ReplayBody<B>, NoReplay> {
        let rewind = self.rewind.take().expect("nothing is replayed without a way back, which is used once");
        rewind.rewind().map_err(Into::into)
    }

    /// The answer is a refusal, and stays the last word.
    pub(crate) fn refuse<RB: Body>(
        &mut self,
        policy: &Policy,
        refused: Answer<RB>,
        reason: NoReplay,
    ) -> Response<PeekBody<RB>> {
        policy.live.stats.not_replayed(&reason);
        self.watch.event(|| CallEvent::NotReplayed { reason: &reason });
        self.outcome.record_no_replay(reason);
        self.finish(policy, refused)
    }

    /// The other provider's credential, if it may be shown.
    pub(crate) fn accept_other(
        &mut self,
        policy: &Policy,
        given: <CredentialFuture as Future>::Output,
    ) -> Result<Credential, NoReplay> {
        let credential = given.inspect_err(|error| self.note_unavailable(policy, self.next, error))?;
        match &self.sent {
            Some((slot, sent)) if *slot != self.next && sent.is_same_secret(&credential) => {
                Err(NoReplay::SameCredential)
            }
            _ => Ok(credential),
        }
    }

    fn note_unavailable(&mut self, policy: &Policy, slot: Slot, error: &CredentialError) {
        policy.live.stats.unavailable(slot);
        self.watch.event(|| CallEvent::Unavailable { slot, error });
    }

    /// A request is about to be sent with this credential.
    pub(crate) fn send(&mut self, policy: &Policy, slot: Slot, credential: Credential) {
        let is_replay = self.sent.replace((slot, credential)).is_some();
        if is_replay {
            policy.live.stats.replayed();
        }
        self.is_under_way = true;
        self.watch.event(|| CallEvent::Attempt { slot, is_replay });
    }

    /// The call ends with an error.
    pub(crate) fn fail(&mut self, policy: &Policy) {
        self.rewind = None;
        self.has_ended = true;
        if self.is_out_of_scope() {
            policy.live.stats.unsigned();
            return self.watch.end(|| Ending::Unsigned);
        }
        if self.leaves_the_primary_open() {
            policy.live.stats.left_open();
        }
        let sent = self.slot_under_way();
        policy.live.stats.failed(sent);
        if let Some(slot) = sent {
            self.watch.event(|| CallEvent::Failed { slot });
        }
        self.watch.end(|| Ending::Failed);
    }

    /// Its future is dropped. That is its end, if it had none before.
    pub(crate) fn give_up(&mut self, policy: &Policy) {
        if self.has_ended {
            return;
        }
        if self.is_out_of_scope() {
            policy.live.stats.unsigned();
            return self.watch.end(|| Ending::Unsigned);
        }
        if self.leaves_the_primary_open() {
            policy.live.stats.left_open();
        }
        policy.live.stats.abandoned(self.slot_under_way());
        self.watch.end(|| Ending::Abandoned);
    }

    fn slot_under_way(&self) -> Option<Slot> {
        self.sent.as_ref().filter(|_| self.is_under_way).map(|(slot, _)| *slot)
    }

    pub(crate) fn finish<RB: Body>(&mut self, policy: &Policy, answer: Answer<RB>) -> Response<PeekBody<RB>> {
        self.has_ended = true;
        if self.left.as_ref().is_some_and(|left| left.is_removed) {
            self.outcome.record_started_afresh();
        }
        let ending = match self.outcome.attempts().last() {
            None => {
                policy.live.stats.unsigned();
                Ending::Unsigned
            }
            Some(Attempt { slot, refused: None }) if self.is_unclear => {
                if self.leaves_the_primary_open() {
                    policy.live.stats.left_open();
                }
                Ending::Unclear(*slot)
            }
            Some(Attempt { slot, refused: None }) => Ending::Accepted(*slot),
            Some(Attempt { slot, refused: Some(_) }) => {
                policy.live.stats.ended_refused();
                if self.leaves_the_primary_open() {
                    policy.live.stats.left_open();
                }
                Ending::Refused(*slot)
            }
        };
        self.watch.end(|| ending);
        if let Some(rewind) = self.rewind.take() {
            rewind.release();
        }
        let Answer { mut head, body } = answer;
        // The plainest outcome is told by absence.
        if self.outcome.is_plain() {
            Outcome::forget(&mut head.extensions);
        } else {
            std::mem::replace(&mut self.outcome, Outcome::new()).store(&mut head.extensions);
        }
        Response::from_parts(head, body)
    }

    fn sent_slot(&self) -> Slot {
        self.sent.as_ref().map_or(Slot::Primary, |(slot, _)| *slot)
    }
}

/// Overload, timeouts and failures may come from something before the server's own look at the credential.
fn says_nothing_of_the_credential(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}
