//! [`Report`]: what has happened so far, and whether the old credential can go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod display;
mod open;
mod resources;
mod stats;
mod tally;

pub(crate) use open::Subject;
pub(crate) use stats::Stats;
use stats::ago;
use tally::MINUTES;

use crate::classify::RejectionKind;
use crate::outcome::NoReplay;
use crate::preference::{Memory, Order, Slot};

/// How far back [`Report::recent`] looks.
pub const RECENT: Duration = Duration::from_secs(MINUTES as u64 * 60);

/// What the services of a layer have done, from the layer's start to the moment of
/// [`FallbackHandle::report`](crate::FallbackHandle::report).
///
/// Numbers are of whole calls and attempts; while calls are under way, a report may catch one between its two
/// attempts. Once all calls have ended, every attempt that was sent is counted exactly once.
///
/// `Display` answers the question "can the old credential be retired?" in words, with the evidence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The order at the moment of the report.
    pub order: Order,
    /// How long the layer has been there.
    pub age: Duration,
    /// What the primary credential has met with.
    pub primary: SlotReport,
    /// What the fallback has met with.
    pub fallback: SlotReport,
    /// Second attempts that were sent.
    pub replays: u64,
    /// Calls that ended with a refusal.
    pub refused: u64,
    /// Calls that ended with an error, in place of an answer.
    pub failed: u64,
    /// Calls whose caller did not wait for their end.
    pub abandoned: u64,
    /// Calls that went out without a credential, since their origin is out of scope.
    pub unsigned: u64,
    /// Resources that the fallback was the last to serve.
    pub moved: usize,
    /// Resources that the primary has answered for, and that the fallback has not answered for since.
    pub not_moved: usize,
    /// Whether there are more resources than are counted (some 10,000 of each).
    pub has_more_resources: bool,
    /// How long ago a call last left open whether the old credential is needed:
    ///
    /// - The fallback was rejected, or its provider had no credential, and the primary was not asked or gave no clear answer.
    /// - The fallback gave no clear answer about a resource that it has not served within [`RECENT`]. It closes this
    ///   question when it serves the resource. Requests that are about no single resource count as one.
    /// - The primary alone was asked, and gave no clear answer.
    pub last_open: Option<Duration>,
    /// How the calls of the last 15 minutes ([`RECENT`]) ended.
    pub recent: Endings,
    no_replay: [u64; NoReplay::NAMES.len()],
}

/// What one credential has met with. The first four and the refusals add up to the attempts that were sent with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotReport {
    /// Attempts that were accepted.
    pub accepted: u64,
    /// Attempts that ended without an answer: the transport failed.
    pub failed: u64,
    /// Attempts whose caller did not wait for the answer.
    pub abandoned: u64,
    /// Attempts whose answer says nothing of the credential: see [`Verdict::Inconclusive`](crate::Verdict).
    pub inconclusive: u64,
    refused: [u64; RejectionKind::ALL.len()],
    /// How often its provider had no credential, so that nothing was sent.
    pub unavailable: u64,
    /// How long ago it was last accepted.
    pub last_accepted: Option<Duration>,
    /// How long ago it was last accepted where the other one *had been refused, or was not to be had*: then it was
    /// needed.
    pub last_needed: Option<Duration>,
}

/// How calls ended, but for those that were abandoned or unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endings {
    /// Accepted with the primary.
    pub by_primary: u64,
    /// Accepted with the fallback.
    pub by_fallback: u64,
    /// Answered with something that says nothing of the credential.
    pub inconclusive: u64,
    /// Ended with a rejection, or with an error.
    pub in_vain: u64,
}

impl Report {
    pub(crate) fn new(order: Order, stats: &Stats, memory: &Memory) -> Self {
        let now = stats.now();
        let slot = |slot| SlotReport::new(stats, slot, now);
        let [by_primary, by_fallback, inconclusive, in_vain] = stats.endings(now);
        let (asked, dropped_at) = stats.open.last();
        let last_open =
            asked.map_or(0, |asked| stats.at(asked)).max(dropped_at).max(read(&stats.last_denied));
        Self {
            order,
            age: stats.started.elapsed(),
            primary: slot(Slot::Primary),
            fallback: slot(Slot::Fallback),
            replays: read(&stats.replays),
            refused: read(&stats.refused),
            failed: read(&stats.failed),
            abandoned: read(&stats.abandoned),
            unsigned: read(&stats.unsigned),
            moved: memory.count_moved(),
            not_moved: stats.resources.of_primary().filter(|key| !memory.has_moved(*key)).count(),
            has_more_resources: stats.resources.is_full() || memory.is_full(),
            last_open: ago(now, last_open),
            recent: Endings { by_primary, by_fallback, inconclusive, in_vain },
            no_replay: std::array::from_fn(|nth| read(&stats.no_replay[nth])),
        }
    }

    /// What one credential has met with.
    pub fn slot(&self, slot: Slot) -> &SlotReport {
        match slot {
            Slot::Primary => &self.primary,
            Slot::Fallback => &self.fallback,
        }
    }

    /// How often a refused request was not sent again, by [`NoReplay::as_str`]; what never happened is left out.
    pub fn no_replay(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NoReplay::NAMES.into_iter().zip(self.no_replay).filter(|(_, count)| *count > 0)
    }

    /// How all calls since the start ended.
    pub fn since_start(&self) -> Endings {
        Endings {
            by_primary: self.primary.accepted,
            by_fallback: self.fallback.accepted,
            inconclusive: self.primary.inconclusive + self.fallback.inconclusive,
            in_vain: self.refused + self.failed,
        }
    }

    /// Whether the primary can be retired, as far as these numbers tell.
    ///
    /// - `Some(true)`: for 15 minutes ([`RECENT`]) the fallback has served everything that was asked, and the primary was
    ///   not needed. To know that, the fallback has to go first: [`Order::FallbackFirst`] or [`Order::FallbackOnly`].
    /// - `Some(false)`: the primary was needed within that time, or the fallback has never been accepted.
    /// - `None`: the numbers do not tell: the primary is still asked first, or something has had [no clear
    ///   answer](Self::last_open) from the fallback, or there were no calls, or not for long enough.
    ///
    /// What has not been called within that time is not known of: jobs that run once a day or a month need their
    /// day or month.
    pub fn can_retire_primary(&self) -> Option<bool> {
        let is_within = |ago: Option<Duration>| ago.is_some_and(|ago| ago < RECENT);
        if is_within(self.primary.last_needed) || self.fallback.accepted == 0 {
            return Some(false);
        }
        let is_known = !is_within(self.primary.last_accepted)
            && !is_within(self.last_open)
            && self.recent.by_fallback > 0
            && self.age >= RECENT
            && self.order.is_fallback_first();
        is_known.then_some(true)
    }
}

impl SlotReport {
    fn new(stats: &Stats, slot: Slot, now: u64) -> Self {
        let (accepted, last_accepted) = stats.acceptances(slot);
        let stats = stats.slot(slot);
        Self {
            accepted,
            failed: read(&stats.failed),
            abandoned: read(&stats.abandoned),
            inconclusive: read(&stats.inconclusive),
            refused: std::array::from_fn(|nth| read(&stats.refused[nth])),
            unavailable: read(&stats.unavailable),
            last_accepted: ago(now, last_accepted),
            last_needed: ago(now, read(&stats.last_needed)),
        }
    }

    /// Attempts that were refused in this way.
    pub fn refused(&self, kind: RejectionKind) -> u64 {
        self.refused[kind as usize]
    }

    /// Attempts that were refused.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Attempts that were sent, and have ended.
    pub fn attempts(&self) -> u64 {
        self.accepted + self.refused_in_all() + self.failed + self.abandoned + self.inconclusive
    }
}

impl Endings {
    /// All of them.
    pub fn calls(&self) -> u64 {
        self.by_primary + self.by_fallback + self.inconclusive + self.in_vain
    }

    /// The part that was accepted, from 0 to 1, of those that were not inconclusive; `None` if there were none.
    pub fn success_rate(&self) -> Option<f64> {
        let accepted = self.by_primary + self.by_fallback;
        let conclusive = accepted + self.in_vain;
        (conclusive > 0).then(|| accepted as f64 / conclusive as f64)
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
