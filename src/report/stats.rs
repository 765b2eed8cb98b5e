//! [`Stats`]: what is counted, by atomics and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::resources::Resources;
use super::tally::{MINUTE, Tally};
use crate::classify::{Rejection, RejectionKind};
use crate::lane::Lanes;
use crate::outcome::NoReplay;
use crate::preference::Slot;

/// Counts of what has happened since the layer was made.
pub(crate) struct Stats {
    pub(super) started: Instant,
    pub(super) slots: [SlotStats; 2],
    /// What nearly every call counts in.
    pub(super) lanes: Lanes<Lane>,
    /// Those that the primary has answered for.
    pub(super) resources: Resources,
    pub(super) replays: AtomicU64,
    pub(super) no_replay: [AtomicU64; NoReplay::NAMES.len()],
    pub(super) unsigned: AtomicU64,
    /// Calls whose last word was a refusal.
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) abandoned: AtomicU64,
    /// The last call that left open whether the primary was needed. See [`Stats::now`].
    pub(super) last_open: AtomicU64,
}

/// One thread's part. All of them have to be added up.
#[derive(Default)]
pub(super) struct Lane {
    /// For each slot.
    accepted: [Tally; 2],
    /// Calls that were refused by all that were asked, or failed.
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
    /// The answer says nothing of the credential: overload, or a failure of the server.
    pub(super) unclear: AtomicU64,
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
            last_open: AtomicU64::new(0),
        }
    }

    pub(crate) fn accepted(&self, slot: Slot, key: Option<u64>, is_needed: bool) {
        let now = self.now();
        self.lanes.own().accepted[slot as usize].add(now);
        if is_needed {
            self.slot(slot).last_needed.store(now, Ordering::Relaxed);
        }
        // Last, since its line is seldom in a near cache: no atomic count behind it has to wait for that.
        if let Some(key) = key {
            self.resources.answered(key, slot);
        }
    }

    /// Answered, with something that says nothing of the credential.
    pub(crate) fn unclear(&self, slot: Slot) {
        count(&self.slot(slot).unclear);
        self.ended_in_vain();
    }

    pub(crate) fn refused(&self, slot: Slot, rejection: &Rejection) {
        count(&self.slot(slot).refused[rejection.kind() as usize]);
    }

    /// The refusal was the last word.
    pub(crate) fn ended_refused(&self) {
        count(&self.refused);
        self.ended_in_vain();
    }

    /// The fallback was of no use for a call, and it is not known whether the primary would have been.
    pub(crate) fn left_open(&self) {
        self.last_open.store(self.now(), Ordering::Relaxed);
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

    /// How calls ended in the last minutes: by the primary, by the fallback, in vain.
    pub(super) fn endings(&self, now: u64) -> [u64; 3] {
        let sum = |tally: fn(&Lane) -> &Tally| self.lanes.iter().map(|lane| tally(lane).recent(now)).sum();
        [sum(|lane| &lane.accepted[0]), sum(|lane| &lane.accepted[1]), sum(|lane| &lane.in_vain)]
    }

    /// Milliseconds since a minute before the start: 0 stands for "never", and the first minute for none.
    pub(super) fn now(&self) -> u64 {
        let elapsed = self.started.elapsed();
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
