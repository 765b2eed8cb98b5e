//! [`Report`]: what went wrong with users' grants, told to observers and counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::observe::{Observe, TokenEvent};
use crate::preference::Slot;
use crate::store::StoreError;

#[derive(Default)]
pub(super) struct Report {
    lost: AtomicU64,
    observers: Mutex<Vec<(Slot, Arc<dyn Observe>)>>,
}

impl Report {
    pub(super) fn observers(&self) -> MutexGuard<'_, Vec<(Slot, Arc<dyn Observe>)>> {
        self.observers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A grant is lost: its user has to authorise again.
    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.tell(&TokenEvent::GrantLost);
    }

    pub(super) fn count_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A new grant is in use and not stored yet, or will not be any more.
    pub(super) fn not_saved(&self, error: &StoreError) {
        self.tell(&TokenEvent::NotSaved { error });
    }

    /// What is stored cannot be read: its user has to authorise again.
    pub(super) fn unreadable(&self, error: &StoreError) {
        self.tell(&TokenEvent::GrantUnreadable { error });
    }

    fn tell(&self, event: &TokenEvent<'_>) {
        let observers = self.observers().clone();
        for (slot, observer) in observers {
            // Here there is a grant to save, which no observer may prevent. The panic hook has heard of it.
            let _ = catch_unwind(AssertUnwindSafe(|| observer.token(slot, event)));
        }
    }
}
