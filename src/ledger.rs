//! [`Ledger`]: what has happened in one call, and the telling of it.

use http::{Extensions, Method, StatusCode, Uri};

use crate::classify::{Rejection, RejectionKind};
use crate::observe::{CallEvent, Ending, Watch};
use crate::outcome::{Attempt, NoReplay, Outcome, SoFar};
use crate::policy::Policy;
use crate::preference::Slot;
use crate::provider::CredentialError;
use crate::report::Stats;

/// Writes each fact of a call where it belongs: into its [`Outcome`], the counts of the layer, and the ears of
/// observers.
#[derive(Default)]
pub(crate) struct Ledger {
    outcome: SoFar,
    watch: Watch,
    /// The slot of the attempt that has been sent and not been answered.
    under_way: Option<Slot>,
    /// Whether the last answer says nothing of the credential.
    is_unclear: bool,
    has_ended: bool,
}

impl Ledger {
    /// A call begins.
    #[inline]
    pub(crate) fn begin(&mut self, policy: &Policy, method: &Method, uri: &Uri) {
        if !policy.observers.is_empty() {
            self.watch = Watch::begin(&policy.observers, method, uri);
        }
    }

    /// Whether there are observers.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_on()
    }

    /// Calls `inner` in the midst of all observers.
    pub(crate) fn enter<T>(&mut self, inner: impl FnOnce() -> T) -> T {
        self.watch.enter(inner)
    }

    /// A request is about to be sent with this slot's credential.
    #[inline]
    pub(crate) fn sent(&mut self, stats: &Stats, slot: Slot, is_replay: bool) {
        if is_replay {
            stats.replayed();
        }
        self.under_way = Some(slot);
        self.watch.event(|| CallEvent::Attempt { slot, is_replay });
    }

    /// It was answered.
    #[inline]
    pub(crate) fn answered(
        &mut self,
        stats: &Stats,
        slot: Slot,
        status: StatusCode,
        refused: Option<Rejection>,
    ) {
        self.outcome.record(slot, refused);
        self.under_way = None;
        self.is_unclear = refused.is_none() && says_nothing_of_the_credential(status);
        if self.is_unclear {
            stats.unclear(slot);
        }
        if let Some(rejection) = &refused {
            stats.refused(slot, rejection);
        }
        let is_unclear = self.is_unclear;
        self.watch.event(|| CallEvent::Answered { slot, status, refused, is_unclear });
    }

    /// A provider has no credential.
    pub(crate) fn unavailable(&mut self, stats: &Stats, slot: Slot, error: &CredentialError) {
        stats.unavailable(slot);
        self.watch.event(|| CallEvent::Unavailable { slot, error });
    }

    /// A refusal stays the last word.
    pub(crate) fn not_replayed(&mut self, stats: &Stats, reason: NoReplay) {
        stats.not_replayed(&reason);
        self.watch.event(|| CallEvent::NotReplayed { reason: &reason });
        self.outcome.edit().record_no_replay(reason);
    }

    /// The call ends with the answer to its last attempt, whose extensions these are.
    #[inline]
    pub(crate) fn end(&mut self, stats: &Stats, extensions: &mut Extensions) {
        let ending = match &self.outcome {
            SoFar::AtOnce(slot) if !self.is_unclear => Ending::Accepted(*slot),
            _ => self.ending(),
        };
        self.end_as(stats, ending);
        std::mem::take(&mut self.outcome).store(extensions);
    }

    #[cold]
    fn ending(&self) -> Ending {
        match self.outcome().attempts().last() {
            None => Ending::Unsigned,
            Some(Attempt { slot, refused: Some(_) }) => Ending::Refused(*slot),
            Some(Attempt { slot, .. }) if self.is_unclear => Ending::Unclear(*slot),
            Some(Attempt { slot, .. }) => Ending::Accepted(*slot),
        }
    }

    /// The call ends with an error.
    pub(crate) fn fail(&mut self, stats: &Stats) {
        self.end_as(stats, Ending::Failed);
    }

    /// The call's future is dropped. That is its end, if it had none before.
    #[inline]
    pub(crate) fn give_up(&mut self, stats: &Stats) {
        if !self.has_ended {
            self.end_as(stats, Ending::Abandoned);
        }
    }

    #[inline]
    fn end_as(&mut self, stats: &Stats, ending: Ending) {
        self.has_ended = true;
        if !matches!(ending, Ending::Accepted(_)) {
            return self.end_in_vain(stats, ending);
        }
        self.watch.end(|| ending);
    }

    #[cold]
    fn end_in_vain(&mut self, stats: &Stats, ending: Ending) {
        // Whatever becomes of a request that bore no credential of ours, it is nothing to learn from.
        let is_unsigned = matches!(self.outcome().no_replay(), Some(NoReplay::OutOfScope));
        let ending = if is_unsigned { Ending::Unsigned } else { ending };
        if self.leaves_the_primary_open() {
            stats.left_open();
        }
        match ending {
            Ending::Unsigned => stats.unsigned(),
            Ending::Refused(_) => stats.ended_refused(),
            Ending::Failed => {
                stats.failed(self.under_way);
                if let Some(slot) = self.under_way {
                    self.watch.event(|| CallEvent::Failed { slot });
                }
            }
            Ending::Abandoned => stats.abandoned(self.under_way),
            // Counted when it was answered.
            Ending::Unclear(_) | Ending::Accepted(_) => {}
        }
        self.watch.end(|| ending);
    }

    /// Whether the call ends without its being known whether the primary would have answered where the fallback did
    /// not.
    fn leaves_the_primary_open(&self) -> bool {
        let refused =
            |slot| self.outcome().attempts().any(|made| made.slot == slot && made.refused.is_some());
        let is_fallback_of_no_use = refused(Slot::Fallback)
            || self.outcome().unavailable().is_some_and(|(slot, _)| slot == Slot::Fallback);
        let is_accepted =
            self.outcome().attempts().last().is_some_and(|last| last.refused.is_none()) && !self.is_unclear;
        is_fallback_of_no_use
            && !is_accepted
            && !refused(Slot::Primary)
            && !matches!(self.outcome().no_replay(), Some(NoReplay::Redirected))
    }

    /// Whether all that has happened is that the first attempt was accepted.
    #[inline]
    pub(crate) fn is_at_once(&self) -> bool {
        self.outcome.is_at_once()
    }

    /// What has happened so far.
    pub(crate) fn outcome(&self) -> &Outcome {
        self.outcome.read()
    }

    /// … to be added to.
    pub(crate) fn outcome_mut(&mut self) -> &mut Outcome {
        self.outcome.edit()
    }

    /// Whether the last answer says nothing of the credential.
    pub(crate) fn is_unclear(&self) -> bool {
        self.is_unclear
    }

    /// Whether a token was refused for its own sake, which says nothing of what the request refers to.
    pub(crate) fn was_a_token_invalid(&self) -> bool {
        let mut refused = self.outcome().attempts().filter_map(|attempt| attempt.refused);
        refused.any(|rejection| rejection.kind() == RejectionKind::Unauthenticated)
    }
}

/// Overload, timeouts and failures may come from something before the server's own look at the credential.
fn says_nothing_of_the_credential(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}
