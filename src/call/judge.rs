//! The verdict on an answer: it ends the call, or leads to a second attempt.

use http::response;
use http_body::Body;

use super::Call;
use super::request_key::RequestKey;
use crate::answer::Answer;
use crate::body::{CannotRewind, Rewind};
use crate::classify::{Rejection, RejectionKind};
use crate::layer::Shared;
use crate::origin::led_to_another_origin;
use crate::outcome::{NoReplay, Verdict};
use crate::preference::Slot;
use crate::provider::AuthProvider;

/// The next step after a verdict.
enum Step {
    /// The answer goes to the caller.
    Final,
    /// So does the refusal: it is not replayed.
    Refuse(NoReplay),
    Replay,
}

impl Call {
    /// Takes note of the verdict on an answer, and says whether the call ends with it. If not, the second attempt
    /// follows.
    #[inline]
    pub(crate) fn conclude<P, E, B, RB>(
        &mut self,
        shared: &Shared<P, E>,
        answer: &mut Answer<RB>,
        verdict: Verdict,
        rewind: &mut Option<Rewind<B>>,
    ) -> bool
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
        RB: Body,
    {
        match self.judge(shared, &answer.head, verdict, rewind) {
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
        verdict: Verdict,
        rewind: &Option<Rewind<B>>,
    ) -> Step
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let policy = &shared.policy;
        let slot = self.facts.sent.unwrap_or(Slot::Primary);
        let verdict = match verdict {
            // An answer from another origin is no proof that the request was served: it may be a login page.
            Verdict::Accepted if self.is_from_elsewhere(head) => Verdict::Inconclusive,
            verdict => verdict,
        };
        self.facts.ledger.answered(&policy.live.stats, slot, verdict);
        if verdict == Verdict::Accepted {
            self.note_acceptance(policy, slot);
        }
        self.facts.ledger.tell_answer(slot, head.status, verdict);
        match verdict {
            Verdict::Rejected(rejection) => self.judge_rejection(shared, head, slot, rejection, rewind),
            Verdict::Accepted | Verdict::Inconclusive => Step::Final,
        }
    }

    /// Whether a redirect inside is known to have led to another origin.
    #[inline]
    fn is_from_elsewhere(&self, head: &response::Parts) -> bool {
        !head.extensions.is_empty()
            && led_to_another_origin(
                |answered| self.is_at_origin_of(answered),
                || self.uri(),
                &head.extensions,
            )
    }

    #[cold]
    fn judge_rejection<P, E, B>(
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
        let is_strangers = self.is_from_elsewhere(head);
        if is_strangers {
            // The other origin was never to see our credential. Its rejection says nothing about it.
            self.facts.ledger.note_redirect();
            self.facts.final_because = Some(NoReplay::Redirected);
        } else if let Some((_, credential)) = self.sent(shared) {
            shared.provider(slot).rejected(credential, &rejection);
        }
        if self.facts.ledger.outcome().attempts().count() == 2 {
            if !is_strangers {
                self.note_two_rejections(policy, slot);
            }
            return Step::Final;
        }
        if let Some(reason) = self.facts.final_because.take() {
            return Step::Refuse(reason);
        }
        self.facts.request_key = RequestKey::new(
            policy.live.memory(),
            self.snapshot.method(),
            self.snapshot.target(),
            self.snapshot.headers(),
            self.snapshot.extensions(),
            self.facts.key,
        );
        // Held from here on: it must not pass the limit while the second attempt is prepared.
        match rewind.as_ref().map_or(Ok(()), Rewind::hold) {
            Ok(()) => {
                // A token that is not valid says nothing of what the request refers to.
                let is_telling = rejection.kind() != RejectionKind::Unauthenticated;
                let serves = self.facts.known.and_then(|known| known.slot).filter(|_| is_telling);
                self.facts.next = match (&mut self.facts.left, &policy.left_behind) {
                    (Some(left), Some((_, memory))) => left.go_on(memory, slot, serves),
                    _ => slot.other(),
                };
                self.facts.is_replaying = true;
                Step::Replay
            }
            Err(reason) => {
                // We cannot send it again, but the caller may. A source that has failed says nothing of the next.
                if reason == CannotRewind::TooLarge {
                    self.leave_hint(policy, slot.other());
                }
                Step::Refuse(reason.into())
            }
        }
    }
}
