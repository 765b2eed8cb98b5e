//! [`Ledger`]: records what happens in one call.

use http::{Extensions, Method, StatusCode, Uri};

use crate::classify::RejectionKind;
use crate::handle::Live;
use crate::observe::{CallEvent, Ending, Watch};
use crate::outcome::{Attempt, NoReplay, Outcome, SoFar, Verdict};
use crate::policy::Policy;
use crate::preference::Slot;
use crate::provider::CredentialError;
use crate::report::{Stats, Subject};

/// Records each event of a call in its [`Outcome`], in the layer's statistics, and with observers.
#[derive(Default)]
pub(crate) struct Ledger {
    outcome: SoFar,
    watch: Watch,
    /// The slot of the attempt that has been sent and not been answered.
    under_way: Option<Slot>,
    /// What the request is about, and the slot whose turn it was first; `None` if no credential was to serve it.
    plan: Option<(Subject, Slot)>,
    /// Whether the fallback's provider had no credential.
    has_no_fallback: bool,
    /// Whether a redirect's target gave the last answer.
    is_redirected: bool,
    has_ended: bool,
}

impl Ledger {
    /// A call begins.
    #[inline]
    pub(crate) fn begin(&mut self, policy: &Policy, method: &Method, uri: &Uri) {
        if !policy.observers.is_empty() {
            self.watch.begin(&policy.observers, method, uri);
        }
    }

    /// A credential is to serve the call, this slot's first.
    #[inline]
    pub(crate) fn plan(&mut self, subject: Subject, first: Slot) {
        self.plan = Some((subject, first));
    }

    /// Whether there are observers.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_on()
    }

    /// Runs `inner` inside every observer's `enter` hook.
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

    /// It was answered. Counts the answer, but for an acceptance, of which more has to be known.
    #[inline]
    pub(crate) fn answered(&mut self, stats: &Stats, slot: Slot, verdict: Verdict) {
        self.outcome.record(slot, verdict);
        self.under_way = None;
        match &verdict {
            Verdict::Accepted => {}
            Verdict::Inconclusive => stats.inconclusive(slot),
            Verdict::Rejected(rejection) => stats.refused(slot, rejection),
        }
    }

    /// Tells observers of the answer, once it is counted: an observer may panic.
    #[inline]
    pub(crate) fn tell_answer(&mut self, slot: Slot, status: StatusCode, verdict: Verdict) {
        self.watch.event(|| CallEvent::Answered { slot, status, verdict });
    }

    /// A provider has no credential.
    pub(crate) fn unavailable(&mut self, stats: &Stats, slot: Slot, error: &CredentialError) {
        stats.unavailable(slot);
        self.has_no_fallback |= slot == Slot::Fallback;
        self.watch.event(|| CallEvent::Unavailable { slot, error });
    }

    /// The last answer, which is a rejection, came from another origin than was asked.
    pub(crate) fn note_redirect(&mut self) {
        self.is_redirected = true;
    }

    /// A refusal stays the last word.
    pub(crate) fn not_replayed(&mut self, stats: &Stats, reason: NoReplay) {
        stats.not_replayed(&reason);
        self.watch.event(|| CallEvent::NotReplayed { reason: &reason });
        self.outcome.edit().record_no_replay(reason);
    }

    /// The call ends with the answer to its last attempt, whose extensions these are.
    #[inline]
    pub(crate) fn end(&mut self, live: &Live, extensions: &mut Extensions) {
        let ending = match &self.outcome {
            SoFar::AtOnce(slot) => Ending::Accepted(*slot),
            _ => self.ending(),
        };
        self.end_as(live, ending);
        std::mem::take(&mut self.outcome).store(extensions);
    }

    #[cold]
    fn ending(&self) -> Ending {
        match self.outcome().attempts().last() {
            None => Ending::Unsigned,
            Some(Attempt { slot, verdict: Verdict::Accepted }) => Ending::Accepted(*slot),
            Some(Attempt { slot, verdict: Verdict::Inconclusive }) => Ending::Inconclusive(*slot),
            Some(Attempt { slot, verdict: Verdict::Rejected(_) }) => Ending::Refused(*slot),
        }
    }

    /// The call ends with an error.
    pub(crate) fn fail(&mut self, live: &Live) {
        self.end_as(live, Ending::Failed);
    }

    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The call is dropped. That is its end, if it had none before: its caller did not wait, or somebody's code panicked.
    #[cold]
    pub(crate) fn give_up(&mut self, live: &Live, has_panicked: bool) {
        // It has no call left to fail.
        self.watch.swallow_panics();
        self.end_as(live, if has_panicked { Ending::Failed } else { Ending::Abandoned });
    }

    #[inline]
    fn end_as(&mut self, live: &Live, ending: Ending) {
        self.has_ended = true;
        if !matches!(ending, Ending::Accepted(_)) {
            return self.end_unserved(live, ending);
        }
        self.watch.end(|| ending);
    }

    #[cold]
    fn end_unserved(&mut self, live: &Live, ending: Ending) {
        let stats = &live.stats;
        // Whatever becomes of a request that carried no credential of ours, it is nothing to learn from.
        let is_unsigned = matches!(self.outcome().no_replay(), Some(NoReplay::OutOfScope));
        let ending = if is_unsigned { Ending::Unsigned } else { ending };
        if let Some((subject, first)) = self.plan.filter(|_| !self.is_served()) {
            self.ask_whether_the_fallback_does(live, subject, first);
        }
        match ending {
            Ending::Unsigned => stats.unsigned(),
            Ending::Refused(_) => stats.ended_refused(),
            // Somebody's code panicked after the last answer was counted.
            Ending::Failed if self.is_answered() => {}
            Ending::Failed => {
                stats.failed(self.under_way);
                if let Some(slot) = self.under_way {
                    self.watch.event(|| CallEvent::Failed { slot });
                }
            }
            Ending::Abandoned => stats.abandoned(self.under_way),
            // Counted when it was answered.
            Ending::Inconclusive(_) | Ending::Accepted(_) => {}
        }
        self.watch.end(|| ending);
    }

    fn is_served(&self) -> bool {
        self.outcome().attempts().last().is_some_and(|last| last.verdict == Verdict::Accepted)
    }

    /// Whether the last attempt was answered, and not with a rejection.
    fn is_answered(&self) -> bool {
        self.under_way.is_none()
            && self.outcome().attempts().last().is_some_and(|last| last.rejection().is_none())
    }

    /// Notes what the call, which nobody has served, leaves open: whether the fallback alone would do.
    fn ask_whether_the_fallback_does(&self, live: &Live, subject: Subject, first: Slot) {
        let stats = &live.stats;
        // A redirect's target says nothing of our credentials. Its answer is the last.
        let told = self.outcome().attempts().count() - usize::from(self.is_redirected);
        let is_rejected = |slot| {
            self.outcome().attempts().take(told).any(|made| made.slot == slot && made.rejection().is_some())
        };
        match (is_rejected(Slot::Primary), is_rejected(Slot::Fallback)) {
            // Neither serves it, so the primary is not needed for it.
            (true, true) => {}
            (false, true) => stats.denied(),
            _ if self.has_no_fallback => stats.denied(),
            // The primary alone was asked.
            (false, false) if first == Slot::Primary => stats.denied(),
            // Nothing clear from the fallback. That is no question where it has served the same lately.
            _ if stats.was_served_lately(subject, live.memory()) => {}
            _ => stats.left_open(subject),
        }
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

    /// Whether a token was refused for its own sake, which says nothing of what the request refers to.
    pub(crate) fn was_a_token_invalid(&self) -> bool {
        let mut rejections = self.outcome().attempts().filter_map(Attempt::rejection);
        rejections.any(|rejection| rejection.kind() == RejectionKind::Unauthenticated)
    }
}
