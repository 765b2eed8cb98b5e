//! [`Call`]: what is known of one call, and what follows from each answer.

use std::future::Future;

use http::{Method, Request, Uri, request, response};
use http_body::Body;

use crate::answer::Answer;
use crate::attempt::Snapshot;
use crate::body::{ReplayBody, Rewind};
use crate::classify::{Decision, Rejection, RejectionKind};
use crate::credential::Credential;
use crate::error::{BoxError, Error};
use crate::layer::Shared;
use crate::ledger::Ledger;
use crate::origin::led_to_another_origin;
use crate::outcome::NoReplay;
use crate::policy::Policy;
use crate::preference::{CredentialChoice, Left, Order, Slot};
use crate::provider::{AuthProvider, CredentialError, CredentialFuture};

/// What is known of the call, whatever state it is in.
pub(crate) struct Call<B> {
    pub(crate) ledger: Ledger,
    /// Whether an answer to this method has a body that may be looked at.
    pub(crate) may_peek: bool,
    /// Whose turn it is at the second attempt.
    pub(crate) next: Slot,
    /// The slot that has been seen to serve the resource.
    known: Option<Slot>,
    /// Whether both were refused a moment ago.
    is_cooling: bool,
    /// The resource, as the memory knows it.
    key: Option<u64>,
    /// Whom it is made for, as the memory knows them.
    user: u64,
    /// What it refers to that may have stayed behind.
    left: Option<Box<Left>>,
    /// Why a refusal of the first attempt would be final; `None` if a second attempt may follow.
    final_because: Option<NoReplay>,
    /// The credential of the attempt under way; `None` if it bears none.
    sent: Option<(Slot, Credential)>,
    head: Head,
    /// The way back to the start of the request's body, if a second attempt may follow.
    rewind: Option<Rewind<B>>,
}

/// What is kept of the request's head.
enum Head {
    /// Nothing: no credential was sent.
    None,
    /// What a second attempt needs.
    Whole(Snapshot),
    /// Where it went.
    Uri(Box<Uri>),
}

impl Head {
    fn uri(&self) -> Uri {
        match self {
            Self::None => Uri::default(),
            Self::Whole(snapshot) => snapshot.uri(),
            Self::Uri(uri) => Uri::clone(uri),
        }
    }
}

/// What a call begins with.
pub(crate) enum Start<B> {
    /// The first attempt: the head, as it is by then, and this body.
    Send(ReplayBody<B>),
    /// The wait for this slot's credential.
    Wait(Slot, CredentialFuture, ReplayBody<B>),
    /// Its end.
    Fail(Error),
}

/// What follows from a judgement.
enum Step {
    /// The answer goes to the caller.
    Final,
    /// So does the refusal: it is not replayed.
    Refuse(NoReplay),
    Replay,
}

impl<B> Call<B> {
    #[inline]
    pub(crate) fn new(policy: &Policy, request: &Request<impl Sized>) -> Self {
        Self {
            ledger: Ledger::begin(policy, request.method(), request.uri()),
            may_peek: !matches!(*request.method(), Method::HEAD | Method::CONNECT),
            next: Slot::Fallback,
            known: None,
            is_cooling: false,
            key: None,
            user: 0,
            left: None,
            final_because: None,
            sent: None,
            head: Head::None,
            rewind: None,
        }
    }

    /// Whether the attempt under way bears a credential.
    pub(crate) fn is_signed(&self) -> bool {
        self.sent.is_some()
    }

    /// Makes the request the first attempt's, if that can be sent now.
    #[inline]
    pub(crate) fn start<P, E>(
        &mut self,
        shared: &Shared<P, E>,
        is_for_a_proxy: bool,
        head: &mut request::Parts,
        body: B,
    ) -> Start<B>
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        let policy = &shared.policy;
        if is_for_a_proxy || !policy.is_in_scope(&head.uri) {
            self.ledger.outcome_mut().record_no_replay(NoReplay::OutOfScope);
            return Start::Send(ReplayBody::new(body));
        }
        if policy.is_insecure(&head.uri) {
            self.fail(policy);
            return Start::Fail(Error::insecure_origin(&head.uri));
        }
        let body = ReplayBody::new(body);
        let slot = self.plan(policy, head, body.content());
        match shared.credential(slot, head).at_hand() {
            Ok(Ok(credential)) => Start::Send(self.begin(policy, slot, credential, head, body)),
            Ok(Err(error)) => Start::Wait(slot, CredentialFuture::ready(Err(error)), body),
            Err(waiting) => Start::Wait(slot, waiting, body),
        }
    }

    /// Says which slot comes first, and notes whether the other may follow.
    ///
    /// `content` is the request's body, if that is in memory.
    #[inline]
    fn plan(&mut self, policy: &Policy, head: &request::Parts, content: Option<&[u8]>) -> Slot {
        self.key = policy.key(head, content.unwrap_or_default());
        self.user = policy.user(head);
        let memory = &policy.live.memory;
        let known = self.key.map(|key| memory.recall(key));
        self.known = known.filter(|known| known.is_learnt).map(|known| known.slot);
        self.is_cooling = memory.is_in_use()
            && self
                .key
                .is_some_and(|key| memory.recall(policy.cool_key(&head.uri, key, self.user)).is_cooling);
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
        self.ledger.unavailable(&policy.live.stats, slot, &error);
        if let Some((first, cause)) = self.ledger.outcome().unavailable() {
            return Err(Error::no_credential((first, cause.clone()), Some((slot, error))));
        }
        if matches!(self.final_because, Some(NoReplay::OnlyOne)) {
            return Err(Error::no_credential((slot, error), None));
        }
        self.final_because = Some(error.clone().into());
        self.ledger.outcome_mut().record_unavailable(slot, error);
        Ok(slot.other())
    }

    /// The first attempt's head and body. Keeps what a second attempt needs.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        policy: &Policy,
        slot: Slot,
        credential: Credential,
        head: &mut request::Parts,
        body: ReplayBody<B>,
    ) -> ReplayBody<B>
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        let body = if self.final_because.is_none() {
            // Nobody but the caller has touched the head yet.
            self.head = Head::Whole(Snapshot::of(head));
            let (sent, rewind) = body.rewindable(policy.replay_limit);
            self.rewind = Some(rewind);
            sent
        } else {
            self.head = Head::Uri(Box::new(head.uri.clone()));
            body
        };
        if let (Some((rule, memory)), Some(left)) = (&policy.left_behind, &mut self.left)
            && left.begin(memory, slot)
        {
            rule.remove(head);
        }
        policy.put(slot, &credential, &mut head.headers);
        self.ledger.sent(&policy.live.stats, slot, false);
        self.sent = Some((slot, credential));
        body
    }

    /// Takes note of the verdict on an answer, and says whether the call ends with it. If not, the second attempt
    /// follows.
    #[inline]
    pub(crate) fn conclude<P, E, RB>(
        &mut self,
        shared: &Shared<P, E>,
        answer: &mut Answer<RB>,
        decision: Decision,
    ) -> bool
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
        RB: Body,
    {
        match self.judge(shared, &answer.head, decision) {
            Step::Final => self.finish(&shared.policy, answer),
            Step::Refuse(reason) => self.refuse(&shared.policy, answer, reason),
            Step::Replay => return false,
        }
        true
    }

    #[inline]
    fn judge<P, E>(&mut self, shared: &Shared<P, E>, head: &response::Parts, decision: Decision) -> Step
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let policy = &shared.policy;
        let rejection = policy.settle(decision, head);
        let slot = self.sent.as_ref().map_or(Slot::Primary, |(slot, _)| *slot);
        self.ledger.answered(&policy.live.stats, slot, head.status, rejection);
        let Some(rejection) = rejection else {
            if !self.ledger.is_unclear() {
                self.note_acceptance(policy, slot);
            }
            return Step::Final;
        };
        self.judge_refusal(shared, head, slot, rejection)
    }

    #[cold]
    fn judge_refusal<P, E>(
        &mut self,
        shared: &Shared<P, E>,
        head: &response::Parts,
        slot: Slot,
        rejection: Rejection,
    ) -> Step
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let policy = &shared.policy;
        let is_strangers = led_to_another_origin(|| self.head.uri(), &head.extensions);
        if is_strangers {
            // Whoever refused there never was to see our credential: it says nothing about it.
            self.final_because = Some(NoReplay::Redirected);
        } else if let Some((_, credential)) = &self.sent {
            shared.provider(slot).rejected(credential, &rejection);
        }
        if self.ledger.outcome().attempts().count() == 2 {
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

    #[inline]
    fn note_acceptance(&self, policy: &Policy, slot: Slot) {
        // Most are plain ones.
        let teaches = !self.ledger.is_at_once() || self.is_cooling || self.left.is_some();
        let is_needed = teaches && self.learn_from_acceptance(policy, slot);
        policy.live.stats.accepted(slot, self.key, is_needed);
    }

    /// Says whether the other slot was of no use.
    #[cold]
    fn learn_from_acceptance(&self, policy: &Policy, slot: Slot) -> bool {
        let outcome = self.ledger.outcome();
        let first = outcome.attempts().next();
        let is_second = first.is_some_and(|first| first.refused.is_some());
        let memory = &policy.live.memory;
        if let Some(key) = self.key {
            // Only after a refusal: what either credential may do, such as a list, says nothing of the other.
            if is_second {
                memory.learn(key, slot);
            }
            if self.is_cooling {
                memory.warm(policy.cool_key(&self.head.uri(), key, self.user));
            }
        }
        if let (Some(left), Some((_, memory))) = (&self.left, &policy.left_behind) {
            let is_telling = is_second && !self.ledger.was_a_token_invalid();
            let refused = first.filter(|_| is_telling).map(|first| first.slot);
            left.accepted(memory, slot, refused);
        }
        first.is_some_and(|first| first.slot != slot)
            || outcome.unavailable().is_some_and(|(unavailable, _)| unavailable != slot)
    }

    fn learn_from_two_refusals(&self, policy: &Policy, slot: Slot) {
        let Some(key) = self.key else { return };
        let memory = &policy.live.memory;
        if !self.ledger.was_a_token_invalid()
            && let (Some(left), Some((_, left_memory))) = (&self.left, &policy.left_behind)
        {
            let first = self.ledger.outcome().attempts().next().map_or(slot, |first| first.slot);
            if let Some(other) = left.refused(left_memory, first, slot) {
                memory.learn(key, other);
            }
        }
        memory.cool(policy.cool_key(&self.head.uri(), key, self.user), policy.cooldown);
    }

    /// The second attempt's head, but for the credential.
    pub(crate) fn second_head(&mut self, policy: &Policy) -> request::Parts {
        let Head::Whole(snapshot) = std::mem::replace(&mut self.head, Head::None) else {
            unreachable!("nothing is replayed without a snapshot, which is used once")
        };
        let without = self.sent.as_ref().map(|(_, credential)| credential.name());
        let mut head = snapshot.thaw(without);
        self.head = Head::Uri(Box::new(head.uri.clone()));
        if let (Some((rule, _)), Some(left)) = (&policy.left_behind, &self.left)
            && left.is_removed
        {
            rule.remove(&mut head);
        }
        head
    }

    /// The other provider's credential, if it may be shown.
    pub(crate) fn accept_other(
        &mut self,
        policy: &Policy,
        given: <CredentialFuture as Future>::Output,
    ) -> Result<Credential, NoReplay> {
        let credential =
            given.inspect_err(|error| self.ledger.unavailable(&policy.live.stats, self.next, error))?;
        match &self.sent {
            Some((slot, sent)) if *slot != self.next && sent.is_same_secret(&credential) => {
                Err(NoReplay::SameCredential)
            }
            _ => Ok(credential),
        }
    }

    /// Takes the body over from the first attempt.
    pub(crate) fn take_body(&mut self) -> Result<ReplayBody<B>, NoReplay> {
        let rewind = self.rewind.take().expect("nothing is replayed without a way back, which is used once");
        rewind.rewind().map_err(Into::into)
    }

    /// The second attempt is about to be sent.
    pub(crate) fn send_again(&mut self, policy: &Policy, credential: Credential) {
        self.ledger.sent(&policy.live.stats, self.next, true);
        self.sent = Some((self.next, credential));
    }

    /// The call ends with this answer, which is a refusal and is not replayed.
    pub(crate) fn refuse<RB: Body>(&mut self, policy: &Policy, refused: &mut Answer<RB>, reason: NoReplay) {
        self.ledger.not_replayed(&policy.live.stats, reason);
        self.finish(policy, refused);
    }

    /// The call ends with an error.
    pub(crate) fn fail(&mut self, policy: &Policy) {
        self.rewind = None;
        self.ledger.fail(&policy.live.stats);
    }

    /// The call ends with this answer.
    #[inline]
    pub(crate) fn finish<RB: Body>(&mut self, policy: &Policy, answer: &mut Answer<RB>) {
        if self.left.as_ref().is_some_and(|left| left.is_removed) {
            self.ledger.outcome_mut().record_started_afresh();
        }
        if let Some(rewind) = self.rewind.take() {
            rewind.release();
        }
        self.ledger.end(&policy.live.stats, &mut answer.head.extensions);
    }
}
