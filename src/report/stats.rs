//! [`Stats`]: what is counted, by relaxed atomics and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::recent::{Ending, Recent};
use super::resources::Resources;
use crate::classify::{Rejection, RejectionKind};
use crate::outcome::NoReplay;
use crate::preference::Slot;

/// Counts of what has happened since the layer was made.
pub(crate) struct Stats {
    pub(super) started: Instant,
    pub(super) slots: [SlotStats; 2],
    pub(super) recent: Recent,
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

/// What one credential has met with. Each attempt is in one of the first five.
#[derive(Default)]
pub(super) struct SlotStats {
    pub(super) accepted: AtomicU64,
    pub(super) refused: [AtomicU64; RejectionKind::ALL.len()],
    /// No answer came.
    pub(super) failed: AtomicU64,
    /// The caller did not wait for the answer.
    pub(super) abandoned: AtomicU64,
    /// The answer says nothing of the credential: overload, or a failure of the server.
    pub(super) unclear: AtomicU64,
    /// The provider had no credential, so that no attempt was made.
    pub(super) unavailable: AtomicU64,
    /// The last acceptance, and the last where the other was of no use. See [`Stats::now`].
    pub(super) last_accepted: AtomicU64,
    pub(super) last_needed: AtomicU64,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            slots: Default::default(),
            recent: Recent::default(),
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
        let (stats, now) = (self.slot(slot), self.now());
        count(&stats.accepted);
        stats.last_accepted.store(now, Ordering::Relaxed);
        if is_needed {
            stats.last_needed.store(now, Ordering::Relaxed);
        }
        if let Some(key) = key {
            self.resources.answered(key, slot);
        }
        let ending = match slot {
            Slot::Primary => Ending::ByPrimary,
            Slot::Fallback => Ending::ByFallback,
        };
        self.recent.add(minute(now), ending);
    }

    /// Answered, with something that says nothing of the credential.
    pub(crate) fn unclear(&self, slot: Slot) {
        count(&self.slot(slot).unclear);
        self.recent.add(minute(self.now()), Ending::InVain);
    }

    pub(crate) fn refused(&self, slot: Slot, rejection: &Rejection) {
        count(&self.slot(slot).refused[rejection.kind() as usize]);
    }

    /// The refusal was the last word.
    pub(crate) fn ended_refused(&self) {
        count(&self.refused);
        self.recent.add(minute(self.now()), Ending::InVain);
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
        self.recent.add(minute(self.now()), Ending::InVain);
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

    pub(super) fn slot(&self, slot: Slot) -> &SlotStats {
        match slot {
            Slot::Primary => &self.slots[0],
            Slot::Fallback => &self.slots[1],
        }
    }

    /// Milliseconds since the start, from 1: 0 stands for "never".
    pub(super) fn now(&self) -> u64 {
        let elapsed = self.started.elapsed();
        elapsed.as_secs() * 1_000 + u64::from(elapsed.subsec_millis()) + 1
    }
}

/// The minute of a time that [`Stats::now`] gave. It wraps after 8,000 years.
pub(super) fn minute(now: u64) -> u32 {
    (now / 60_000) as u32
}

/// How long ago a time was that [`Stats::now`] gave; `None` for never.
pub(super) fn ago(now: u64, then: u64) -> Option<Duration> {
    (then != 0).then(|| Duration::from_millis(now.saturating_sub(then)))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
