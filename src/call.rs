//! [`Call`]: what is known of one call, and what follows from each answer.

use std::borrow::Cow;
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
#[derive(Default)]
pub(crate) struct Call {
    facts: Facts,
    /// The request's head, if one was sent that may have to be sent again.
    snapshot: Snapshot,
}

/// What is forgotten when the call is over.
struct Facts {
    ledger: Ledger,
    /// Whether an answer to this method has a body that may be looked at.
    may_peek: bool,
    /// Whose turn it is at the second attempt.
    next: Slot,
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
    /// The slot of the attempt under way; `None` if it bears no credential.
    sent: Option<Slot>,
    /// Its credential, if that is not the slot's only one.
    credential: Option<Credential>,
    head: Head,
}

/// What is kept of the request's head.
enum Head {
    /// Nothing: no credential was sent.
    None,
    /// What a second attempt needs: the snapshot.
    Whole,
    /// Where it went.
    Uri(Box<Uri>),
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            ledger: Ledger::default(),
            may_peek: false,
            next: Slot::Fallback,
            known: None,
            is_cooling: false,
            key: None,
            user: 0,
            left: None,
            final_because: None,
            sent: None,
            credential: None,
            head: Head::None,
        }
    }
}

/// What a call begins with.
pub(crate) enum Start<B> {
    /// The first attempt: the head, as it is by then, and this body, with the way back to its start if a second attempt may
    /// follow.
    Send(ReplayBody<B>, Option<Rewind<B>>),
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

impl Call {
    /// The call with this request begins.
    #[inline]
    pub(crate) fn open(&mut self, policy: &Policy, request: &Request<impl Sized>) {
        self.facts.ledger.begin(policy, request.method(), request.uri());
        self.facts.may_peek = !matches!(*request.method(), Method::HEAD | Method::CONNECT);
    }

    /// Lets go of all that is known; returns whether its memory may be used for another call.
    #[inline]
    pub(crate) fn forget(&mut self) -> bool {
        self.facts = Facts::default();
        self.snapshot.forget()
    }

    #[inline]
    pub(crate) fn ledger(&mut self) -> &mut Ledger {
        &mut self.facts.ledger
    }

    /// Whether an answer may be looked at.
    #[inline]
    pub(crate) fn may_peek(&self) -> bool {
        self.facts.may_peek
    }

    /// Whose turn it is at the second attempt.
    pub(crate) fn next(&self) -> Slot {
        self.facts.next
    }

    /// Whether the attempt under way bears a credential.
    #[inline]
    pub(crate) fn is_signed(&self) -> bool {
        self.facts.sent.is_some()
    }

    /// The slot of the attempt under way, and the credential that it bears.
    fn sent<'c, P, E>(&'c self, shared: &'c Shared<P, E>) -> Option<(Slot, &'c Credential)> {
        let slot = self.facts.sent?;
        Some((slot, self.facts.credential.as_ref().or_else(|| shared.fixed(slot))?))
    }

    /// Where the request went.
    fn uri(&self) -> Uri {
        match &self.facts.head {
            Head::None => Uri::default(),
            Head::Whole => self.snapshot.uri(),
            Head::Uri(uri) => Uri::clone(uri),
        }
    }

    /// Makes the request the first attempt's, if that can be sent now.
    #[inline]
    pub(crate) fn start<P, E, B>(
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
            self.facts.ledger.outcome_mut().record_no_replay(NoReplay::OutOfScope);
            return Start::Send(ReplayBody::new(body), None);
        }
        if policy.is_insecure(&head.uri) {
            self.facts.ledger.fail(&policy.live.stats);
            return Start::Fail(Error::insecure_origin(&head.uri));
        }
        let body = ReplayBody::new(body);
        let slot = self.plan(policy, head, body.content());
        let credential = match shared.fixed(slot) {
            Some(fixed) => Cow::Borrowed(fixed),
            None => match shared.provider(slot).credential(head).at_hand() {
                Ok(Ok(credential)) => Cow::Owned(credential),
                Ok(Err(error)) => return Start::Wait(slot, CredentialFuture::ready(Err(error)), body),
                Err(waiting) => return Start::Wait(slot, waiting, body),
            },
        };
        let (body, rewind) = self.begin(policy, slot, credential, head, body);
        Start::Send(body, rewind)
    }

    /// Says which slot comes first, and notes whether the other may follow.
    ///
    /// `content` is the request's body, if that is in memory.
    #[inline]
    fn plan(&mut self, policy: &Policy, head: &request::Parts, content: Option<&[u8]>) -> Slot {
        self.facts.key = policy.key(head, content.unwrap_or_default());
        self.facts.user = policy.user(head);
        let memory = policy.live.memory();
        let known = self.facts.key.map(|key| memory.recall(key));
        self.facts.known = known.filter(|known| known.is_learnt).map(|known| known.slot);
        self.facts.is_cooling = memory.is_in_use()
            && self.facts.key.is_some_and(|key| {
                memory.recall(policy.cool_key(&head.uri, key, self.facts.user)).is_cooling
            });
        if let Some((rule, memory)) = &policy.left_behind {
            let name = rule.find(head, content.unwrap_or_default());
            self.facts.left = name.map(|name| Box::new(Left::new(memory, head, name)));
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
        self.facts.final_because = if is_only {
            Some(NoReplay::OnlyOne)
        } else if self.facts.is_cooling {
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
        self.facts.ledger.unavailable(&policy.live.stats, slot, &error);
        if let Some((first, cause)) = self.facts.ledger.outcome().unavailable() {
            return Err(Error::no_credential((first, cause.clone()), Some((slot, error))));
        }
        if matches!(self.facts.final_because, Some(NoReplay::OnlyOne)) {
            return Err(Error::no_credential((slot, error), None));
        }
        self.facts.final_because = Some(error.clone().into());
        self.facts.ledger.outcome_mut().record_unavailable(slot, error);
        Ok(slot.other())
    }

    /// The first attempt's head and body, and the way back to the body's start. Keeps what a second attempt needs.
    ///
    /// `credential` is borrowed if it is the slot's only one.
    #[inline]
    pub(crate) fn begin<B>(
        &mut self,
        policy: &Policy,
        slot: Slot,
        credential: Cow<'_, Credential>,
        head: &mut request::Parts,
        body: ReplayBody<B>,
    ) -> (ReplayBody<B>, Option<Rewind<B>>)
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        let begun = if self.facts.final_because.is_none() {
            // Nobody but the caller has touched the head yet.
            self.snapshot.take(head);
            self.facts.head = Head::Whole;
            let (sent, rewind) = body.rewindable(policy.replay_limit);
            (sent, Some(rewind))
        } else {
            self.facts.head = Head::Uri(Box::new(head.uri.clone()));
            (body, None)
        };
        if let (Some((rule, memory)), Some(left)) = (&policy.left_behind, &mut self.facts.left)
            && left.begin(memory, slot)
        {
            rule.remove(head);
        }
        policy.put(slot, &credential, &mut head.headers);
        self.facts.ledger.sent(&policy.live.stats, slot, false);
        self.facts.sent = Some(slot);
        if let Cow::Owned(credential) = credential {
            self.facts.credential = Some(credential);
        }
        begun
    }

    /// Takes note of the verdict on an answer, and says whether the call ends with it. If not, the second attempt
    /// follows.
    #[inline]
    pub(crate) fn conclude<P, E, B, RB>(
        &mut self,
        shared: &Shared<P, E>,
        answer: &mut Answer<RB>,
        decision: Decision,
        rewind: &mut Option<Rewind<B>>,
    ) -> bool
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
        RB: Body,
    {
        match self.judge(shared, &answer.head, decision, rewind) {
            Step::Final => self.finish(&shared.policy, answer, rewind),
            Step::Refuse(reason) => self.refuse(&shared.policy, answer, reason, rewind),
            Step::Replay => return false,
        }
        true
    }

    #[inline]
    fn judge<P, E, B>(
        &mut self,
        shared: &Shared<P, E>,
        head: &response::Parts,
        decision: Decision,
        rewind: &Option<Rewind<B>>,
    ) -> Step
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let policy = &shared.policy;
        let rejection = policy.settle(decision, head);
        let slot = self.facts.sent.unwrap_or(Slot::Primary);
        self.facts.ledger.answered(&policy.live.stats, slot, head.status, rejection);
        let Some(rejection) = rejection else {
            if !self.facts.ledger.is_unclear() {
                self.note_acceptance(policy, slot);
            }
            return Step::Final;
        };
        self.judge_refusal(shared, head, slot, rejection, rewind)
    }

    #[cold]
    fn judge_refusal<P, E, B>(
        &mut self,
        shared: &Shared<P, E>,
        head: &response::Parts,
        slot: Slot,
        rejection: Rejection,
        rewind: &Option<Rewind<B>>,
    ) -> Step
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let policy = &shared.policy;
        let is_strangers = led_to_another_origin(|| self.uri(), &head.extensions);
        if is_strangers {
            // Whoever refused there never was to see our credential: it says nothing about it.
            self.facts.final_because = Some(NoReplay::Redirected);
        } else if let Some((_, credential)) = self.sent(shared) {
            shared.provider(slot).rejected(credential, &rejection);
        }
        if self.facts.ledger.outcome().attempts().count() == 2 {
            if !is_strangers {
                self.learn_from_two_refusals(policy, slot);
            }
            return Step::Final;
        }
        if let Some(reason) = self.facts.final_because.take() {
            return Step::Refuse(reason);
        }
        // Held from here on: it must not pass the limit while the second attempt is prepared.
        match rewind.as_ref().map_or(Ok(()), Rewind::hold) {
            Ok(()) => {
                // A token that is not valid says nothing of what the request refers to.
                let serves = self.facts.known.filter(|_| rejection.kind() != RejectionKind::Unauthenticated);
                self.facts.next = match (&mut self.facts.left, &policy.left_behind) {
                    (Some(left), Some((_, memory))) => left.go_on(memory, slot, serves),
                    _ => slot.other(),
                };
                Step::Replay
            }
            Err(reason) => {
                if let Some(key) = self.facts.key {
                    // We cannot send it again, but the caller may: then the other goes first.
                    policy.live.memory().learn(key, slot.other());
                }
                Step::Refuse(reason.into())
            }
        }
    }

    #[inline]
    fn note_acceptance(&self, policy: &Policy, slot: Slot) {
        // Most are plain ones.
        let teaches = !self.facts.ledger.is_at_once() || self.facts.is_cooling || self.facts.left.is_some();
        let is_needed = teaches && self.learn_from_acceptance(policy, slot);
        policy.live.stats.accepted(slot, self.facts.key, is_needed);
    }

    /// Says whether the other slot was of no use.
    #[cold]
    fn learn_from_acceptance(&self, policy: &Policy, slot: Slot) -> bool {
        let outcome = self.facts.ledger.outcome();
        let first = outcome.attempts().next();
        let is_second = first.is_some_and(|first| first.refused.is_some());
        let memory = policy.live.memory();
        if let Some(key) = self.facts.key {
            // Only after a refusal: what either credential may do, such as a list, says nothing of the other.
            if is_second {
                memory.learn(key, slot);
            }
            if self.facts.is_cooling {
                memory.warm(policy.cool_key(&self.uri(), key, self.facts.user));
            }
        }
        if let (Some(left), Some((_, memory))) = (&self.facts.left, &policy.left_behind) {
            let is_telling = is_second && !self.facts.ledger.was_a_token_invalid();
            let refused = first.filter(|_| is_telling).map(|first| first.slot);
            left.accepted(memory, slot, refused);
        }
        first.is_some_and(|first| first.slot != slot)
            || outcome.unavailable().is_some_and(|(unavailable, _)| unavailable != slot)
    }

    fn learn_from_two_refusals(&self, policy: &Policy, slot: Slot) {
        let Some(key) = self.facts.key else { return };
        let memory = policy.live.memory();
        if !self.facts.ledger.was_a_token_invalid()
            && let (Some(left), Some((_, left_memory))) = (&self.facts.left, &policy.left_behind)
        {
            let first = self.facts.ledger.outcome().attempts().next().map_or(slot, |first| first.slot);
            if let Some(other) = left.refused(left_memory, first, slot) {
                memory.learn(key, other);
            }
        }
        memory.cool(policy.cool_key(&self.uri(), key, self.facts.user), policy.cooldown);
    }

    /// The second attempt's head, but for the credential.
    pub(crate) fn second_head<P, E>(&mut self, shared: &Shared<P, E>) -> request::Parts {
        let policy = &shared.policy;
        assert!(
            matches!(self.facts.head, Head::Whole),
            "nothing is replayed without a snapshot, which is used once"
        );
        let without = self.sent(shared).map(|(_, credential)| credential.name().clone());
        let mut head = self.snapshot.thaw(without.as_ref());
        self.facts.head = Head::Uri(Box::new(head.uri.clone()));
        if let (Some((rule, _)), Some(left)) = (&policy.left_behind, &self.facts.left)
            && left.is_removed
        {
            rule.remove(&mut head);
        }
        head
    }

    /// The other provider's credential, if it may be shown.
    pub(crate) fn accept_other<P, E>(
        &mut self,
        shared: &Shared<P, E>,
        given: <CredentialFuture as Future>::Output,
    ) -> Result<Credential, NoReplay> {
        let next = self.facts.next;
        let stats = &shared.policy.live.stats;
        let credential = given.inspect_err(|error| self.facts.ledger.unavailable(stats, next, error))?;
        match self.sent(shared) {
            Some((slot, sent)) if slot != next && sent.is_same_secret(&credential) => {
                Err(NoReplay::SameCredential)
            }
            _ => Ok(credential),
        }
    }

    /// The second attempt is about to be sent.
    pub(crate) fn send_again(&mut self, policy: &Policy, credential: Credential) {
        self.facts.ledger.sent(&policy.live.stats, self.facts.next, true);
        self.facts.sent = Some(self.facts.next);
        self.facts.credential = Some(credential);
    }

    /// The call ends with this answer, which is a refusal and is not replayed.
    pub(crate) fn refuse<B, RB: Body>(
        &mut self,
        policy: &Policy,
        refused: &mut Answer<RB>,
        reason: NoReplay,
        rewind: &mut Option<Rewind<B>>,
    ) {
        self.facts.ledger.not_replayed(&policy.live.stats, reason);
        self.finish(policy, refused, rewind);
    }

    /// The call ends with an error.
    pub(crate) fn fail<B>(&mut self, policy: &Policy, rewind: &mut Option<Rewind<B>>) {
        *rewind = None;
        self.facts.ledger.fail(&policy.live.stats);
    }

    /// The call ends with this answer.
    #[inline]
    pub(crate) fn finish<B, RB: Body>(
        &mut self,
        policy: &Policy,
        answer: &mut Answer<RB>,
        rewind: &mut Option<Rewind<B>>,
    ) {
        if self.facts.left.as_ref().is_some_and(|left| left.is_removed) {
            self.facts.ledger.outcome_mut().record_started_afresh();
        }
        if let Some(rewind) = rewind.take() {
            rewind.release();
        }
        self.facts.ledger.end(&policy.live.stats, &mut answer.head.extensions);
    }
}
