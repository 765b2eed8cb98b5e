//! [`Stats`]: what is counted, by atomics and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::RECENT;
use super::open::{OpenQuestions, Subject};
use super::resources::Resources;
use super::tally::{MINUTE, Tally};
use crate::classify::{Rejection, RejectionKind};
use crate::lane::Lanes;
use crate::outcome::NoReplay;
use crate::preference::{Memory, Slot};

/// So many resources have to be moved before requests that are about no single one follow them.
const ENOUGH: i64 = 4;

/// Counts of what has happened since the layer was made.
pub(crate) struct Stats {
    pub(super) started: Instant,
    pub(super) slots: [SlotStats; 2],
    /// What nearly every call counts in.
    pub(super) lanes: Lanes<Lane>,
    /// Those that were served.
    pub(super) resources: Resources,
    pub(super) replays: AtomicU64,
    pub(super) no_replay: [AtomicU64; NoReplay::NAMES.len()],
    pub(super) unsigned: AtomicU64,
    /// Calls whose last word was a refusal.
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) abandoned: AtomicU64,
    /// When the fallback was last rejected, or had no credential, and the primary gave no clear answer; or when the primary
    /// alone was asked, and gave none. See [`Stats::now`].
    pub(super) last_denied: AtomicU64,
    /// What was asked, and has had no clear answer from the fallback.
    pub(super) open: OpenQuestions,
    /// When the fallback last served a request that is about no single resource. See [`Stats::now`].
    unnamed_at: AtomicU64,
}

/// One thread's part. All of them have to be added up.
#[derive(Default)]
pub(super) struct Lane {
    /// For each slot.
    accepted: [Tally; 2],
    /// Answers that say nothing of the credential.
    inconclusive: Tally,
    /// Calls that ended with a rejection, or failed.
    in_vain: Tally,
}

/// What one credential has met with, but for acceptance. Each attempt is counted as accepted in a lane, or in one of the
/// first four.
#[derive(Default)]
pub(super) struct SlotStats {
    pub(super) refused: [AtomicU64; RejectionKind::ALL.len()],
    /// No answer came.
    pub(super) failed: AtomicU64,
    /// The caller did not wait for the answer.
    pub(super) abandoned: AtomicU64,
    /// The answer says nothing of the credential.
    pub(super) inconclusive: AtomicU64,
    /// The provider had no credential, so that no attempt was made.
    pub(super) unavailable: AtomicU64,
    /// The last acceptance where the other was of no use. See [`Stats::now`].
    pub(super) last_needed: AtomicU64,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            slots: Default::default(),
            lanes: Lanes::default(),
            resources: Resources::default(),
            replays: AtomicU64::new(0),
            no_replay: Default::default(),
            unsigned: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            last_denied: AtomicU64::new(0),
            open: OpenQuestions::new(),
            unnamed_at: AtomicU64::new(0),
        }
    }

    pub(crate) fn accepted(&self, slot: Slot, key: Option<u64>, is_needed: bool, now: Instant) {
        let now = self.at(now);
        self.lanes.own().accepted[slot as usize].add(now);
        if is_needed {
            self.slot(slot).last_needed.store(now, Ordering::Relaxed);
        }
        if slot == Slot::Fallback {
            self.open.answer(Subject::of(key));
            if key.is_none() {
                self.unnamed_at.store(now, Ordering::Relaxed);
            }
        }
        // Last, since its line is seldom in a near cache: no atomic count behind it has to wait for that.
        if let Some(key) = key {
            self.resources.answered(key, slot);
        }
    }

    /// Whether more resources were last served by the fallback than by the primary, and enough to tell.
    pub(crate) fn is_mostly_moved(&self) -> bool {
        let [primary, fallback] = self.resources.counts();
        fallback >= ENOUGH && fallback > primary && !self.resources.is_full()
    }

    /// Whether the primary was the last to serve this resource.
    pub(crate) fn is_of_primary(&self, key: u64) -> bool {
        self.resources.is_of_primary(key)
    }

    /// The answer says nothing of the credential.
    pub(crate) fn inconclusive(&self, slot: Slot) {
        count(&self.slot(slot).inconclusive);
        self.lanes.own().inconclusive.add(self.now());
    }

    pub(crate) fn refused(&self, slot: Slot, rejection: &Rejection) {
        count(&self.slot(slot).refused[rejection.kind() as usize]);
    }

    /// The refusal was the last word.
    pub(crate) fn ended_refused(&self) {
        count(&self.refused);
        self.ended_in_vain();
    }

    /// The fallback alone would not have done, for all that is known.
    pub(crate) fn denied(&self) {
        self.last_denied.store(self.now(), Ordering::Relaxed);
    }

    /// A call about this subject had no clear answer from the fallback.
    pub(crate) fn left_open(&self, subject: Subject) {
        self.open.ask(subject, self.now());
    }

    /// Whether the fallback has served such a request within [`RECENT`].
    pub(crate) fn was_served_lately(&self, subject: Subject, memory: &Memory) -> bool {
        match subject.key() {
            Some(key) => memory
                .recall(key)
                .and_then(|known| known.fallback_at)
                .is_some_and(|at| Instant::now().saturating_duration_since(at) < RECENT),
            None => ago(self.now(), self.unnamed_at.load(Ordering::Relaxed)).is_some_and(|ago| ago < RECENT),
        }
    }

    pub(crate) fn replayed(&self) {
        count(&self.replays);
    }

    pub(crate) fn not_replayed(&self, reason: &NoReplay) {
        count(&self.no_replay[reason.index()]);
    }

    pub(crate) fn unavailable(&self, slot: Slot) {
        count(&self.slot(slot).unavailable);
    }

    /// The call failed; `sent` is the slot of its attempt, if one was under way.
    pub(crate) fn failed(&self, sent: Option<Slot>) {
        if let Some(slot) = sent {
            count(&self.slot(slot).failed);
        }
        count(&self.failed);
        self.ended_in_vain();
    }

    /// Answered without a credential of ours.
    pub(crate) fn unsigned(&self) {
        count(&self.unsigned);
    }

    pub(crate) fn abandoned(&self, sent: Option<Slot>) {
        if let Some(slot) = sent {
            count(&self.slot(slot).abandoned);
        }
        count(&self.abandoned);
    }

    fn ended_in_vain(&self) {
        self.lanes.own().in_vain.add(self.now());
    }

    pub(super) fn slot(&self, slot: Slot) -> &SlotStats {
        &self.slots[slot as usize]
    }

    /// How often it was accepted, and when it last was. See [`Stats::now`].
    pub(super) fn acceptances(&self, slot: Slot) -> (u64, u64) {
        let each = self.lanes.iter().map(|lane| &lane.accepted[slot as usize]);
        each.fold((0, 0), |(count, last), tally| (count + tally.count(), last.max(tally.last())))
    }

    /// How calls ended in the last minutes: by the primary, by the fallback, inconclusively, in vain.
    pub(super) fn endings(&self, now: u64) -> [u64; 4] {
        let sum = |tally: fn(&Lane) -> &Tally| self.lanes.iter().map(|lane| tally(lane).recent(now)).sum();
        [
            sum(|lane| &lane.accepted[0]),
            sum(|lane| &lane.accepted[1]),
            sum(|lane| &lane.inconclusive),
            sum(|lane| &lane.in_vain),
        ]
    }

    pub(super) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Milliseconds since a minute before the start: 0 stands for "never", and the first minute for none.
    pub(super) fn at(&self, time: Instant) -> u64 {
        let elapsed = time.saturating_duration_since(self.started);
        MINUTE + elapsed.as_secs() * 1_000 + u64::from(elapsed.subsec_millis())
    }
}

/// How long ago a time was that [`Stats::now`] gave; `None` for never.
pub(super) fn ago(now: u64, then: u64) -> Option<Duration> {
    (then != 0).then(|| Duration::from_millis(now.saturating_sub(then)))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
