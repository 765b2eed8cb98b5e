//! [`OpenQuestions`]: subjects that the fallback has given no clear answer to.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::RECENT;
use crate::preference::Expiring;

/// The resource of a request, or the one subject of all requests without a resource.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Subject(u64);

impl Subject {
    /// All requests that are about no single resource. Keys of resources are even.
    pub(crate) const UNNAMED: Self = Self(1);

    /// The resource with this key.
    #[inline]
    pub(crate) fn of(key: Option<u64>) -> Self {
        key.map_or(Self::UNNAMED, Self)
    }

    /// The key of the resource, if it is one.
    pub(crate) fn key(self) -> Option<u64> {
        (self != Self::UNNAMED).then_some(self.0)
    }
}

/// Subjects, each until the fallback has served it, or [`RECENT`] is over.
pub(super) struct OpenQuestions {
    since: Expiring<Instant>,
    /// When one was dropped for want of room, by [`Stats::now`](super::Stats); 0 for never.
    dropped_at: AtomicU64,
}

impl OpenQuestions {
    pub(super) fn new() -> Self {
        Self { since: Expiring::new(), dropped_at: AtomicU64::new(0) }
    }

    pub(super) fn ask(&self, subject: Subject, now: u64) {
        if self.since.insert(subject.0, subject.0, Instant::now(), RECENT) {
            self.dropped_at.store(now, Ordering::Relaxed);
        }
    }

    /// The fallback has served it.
    #[inline]
    pub(super) fn answer(&self, subject: Subject) {
        if self.since.may_have(subject.0) {
            self.since.take(subject.0, subject.0);
        }
    }

    /// When the last of those was asked that are still open, and when one was dropped.
    pub(super) fn last(&self) -> (Option<Instant>, u64) {
        (self.since.values().into_iter().max(), self.dropped_at.load(Ordering::Relaxed))
    }
}
