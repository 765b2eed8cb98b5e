//! [`Report`]: what went wrong with users' grants, told to observers and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::TokenEvent;
use crate::provider::observers::Observers;
use crate::store::StoreError;

#[derive(Default)]
pub(super) struct Report {
    lost: AtomicU64,
    /// Users' token caches tell the same ones.
    pub(super) observers: Arc<Observers>,
}

impl Report {
    /// A grant is lost: its user has to authorise again.
    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.observers.tell(&TokenEvent::GrantLost);
    }

    pub(super) fn count_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A new grant is in use and not stored yet, or will not be any more.
    pub(super) fn not_saved(&self, error: &StoreError) {
        self.observers.tell(&TokenEvent::NotSaved { error });
    }

    /// What is stored cannot be read: its user has to authorise again.
    pub(super) fn unreadable(&self, error: &StoreError) {
        self.observers.tell(&TokenEvent::GrantUnreadable { error });
    }
}
