//! [`Call`]: the state of one call. `plan.rs` chooses the first slot, `judge.rs` ends the call or goes on after an answer, and
//! `learn.rs` learns from it.

use std::borrow::Cow;
use std::future::Future;

use http::{Method, Request, Uri, request};
use http_body::Body;

use crate::answer::Answer;
use crate::attempt::Snapshot;
use crate::body::{ReplayBody, Rewind};
use crate::credential::Credential;
use crate::error::{BoxError, Error};
use crate::layer::Shared;
use crate::ledger::Ledger;
use crate::outcome::NoReplay;
use crate::policy::Policy;
use crate::preference::{Known, Left, Slot};
use crate::provider::{AuthProvider, CredentialError, CredentialFuture};

mod judge;
mod learn;
mod plan;
mod request_key;

use request_key::RequestKey;

/// The state of one call, kept from its first attempt to its end.
#[derive(Default)]
pub(crate) struct Call {
    facts: Facts,
    /// The request's head, if one was sent that may have to be sent again.
    snapshot: Snapshot,
}

/// The part that is reset when the call is over.
struct Facts {
    ledger: Ledger,
    /// Whether an answer to this method has a body that may be looked at.
    may_peek: bool,
    /// The slot of the second attempt.
    next: Slot,
    /// The memory's entry for the resource when the call began, and the memory's change count.
    known: Option<Known>,
    changes: u64,
    /// Whether the caller has chosen the first slot.
    is_pinned: bool,
    /// The slot that an earlier call with the same request has left as a hint: the other one was rejected then.
    hint: Option<Slot>,
    /// Whether the first attempt was rejected and the second is under way, or being prepared.
    is_replaying: bool,
    /// The resource, as the memory knows it.
    key: Option<u64>,
    /// The request, as hints know it: set when the first attempt is rejected.
    request_key: RequestKey,
    /// The request with its content and both credentials, as cooldowns know it: set when the second attempt is sent.
    cooldown_key: Option<u64>,
    /// The version of what is known of the resource, as of the last attempt.
    as_of: u64,
    /// The part of the request that may have stayed with the other account.
    left: Option<Box<Left>>,
    /// Why a refusal of the first attempt would be final; `None` if a second attempt may follow.
    final_because: Option<NoReplay>,
    /// The slot of the attempt under way; `None` if it bears no credential.
    sent: Option<Slot>,
    /// Its credential, if that is not the slot's only one.
    credential: Option<Credential>,
    head: Head,
}

/// The kept part of the request's head.
enum Head {
    /// Nothing: no credential was sent.
    None,
    /// The snapshot, for a second attempt.
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
            changes: 0,
            is_pinned: false,
            hint: None,
            is_replaying: false,
            key: None,
            request_key: RequestKey::default(),
            cooldown_key: None,
            as_of: 0,
            left: None,
            final_because: None,
            sent: None,
            credential: None,
            head: Head::None,
        }
    }
}

/// First step of a call.
pub(crate) enum Start<B> {
    /// The first attempt: the head, as it is by then, and this body, with the way back to its start if a second attempt may
    /// follow.
    Send(ReplayBody<B>, Option<Rewind<B>>),
    /// The wait for this slot's credential.
    Wait(Slot, CredentialFuture, ReplayBody<B>),
    /// Its end.
    Fail(Error),
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

    /// The slot of the second attempt.
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

    /// Whether this URI has the scheme and authority that were asked, as they are written.
    fn is_at_origin_of(&self, uri: &Uri) -> bool {
        match &self.facts.head {
            Head::None => false,
            Head::Whole => self.snapshot.is_at_origin_of(uri),
            Head::Uri(asked) => asked.scheme() == uri.scheme() && asked.authority() == uri.authority(),
        }
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
            self.facts.ledger.fail(&policy.live);
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

    /// The other provider's credential, if it may be sent.
    pub(crate) fn accept_other<P, E>(
        &mut self,
        shared: &Shared<P, E>,
        given: <CredentialFuture as Future>::Output,
        content: Option<&[u8]>,
    ) -> Result<Credential, NoReplay> {
        let next = self.facts.next;
        let live = &*shared.policy.live;
        let credential =
            given.inspect_err(|error| self.facts.ledger.unavailable(&live.stats, next, error))?;
        let Some((slot, sent)) = self.sent(shared) else { return Ok(credential) };
        if slot != next && sent.is_same_secret(&credential) {
            return Err(NoReplay::SameCredential);
        }
        // Content that streams is not known, so no other request can be the same.
        self.facts.cooldown_key = content.map(|content| {
            let (one, other) = (sent.secret(), credential.secret());
            let request = self.facts.request_key.key.to_ne_bytes();
            // The order of the two does not matter: the next call may begin with the other.
            live.memory().hash(&[&request, content, one.min(other), one.max(other)])
        });
        if self.facts.cooldown_key.is_some_and(|key| live.cooldowns.get(key, key).is_some()) {
            return Err(NoReplay::CoolingDown);
        }
        Ok(credential)
    }

    /// The second attempt is about to be sent.
    pub(crate) fn send_again(&mut self, policy: &Policy, credential: Credential) {
        self.facts.as_of = policy.live.memory().version();
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
        self.facts.ledger.fail(&policy.live);
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
        self.facts.ledger.end(&policy.live, &mut answer.head.extensions);
    }
}
