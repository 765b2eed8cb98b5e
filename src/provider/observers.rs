//! [`Observers`]: the observers of a provider's tokens, held weakly.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::observe::{Observe, TokenEvent};
use crate::preference::Slot;

/// The observers of the layers that a provider is in.
///
/// A provider may outlive its layers, so it holds their observers weakly: a layer and its services keep them alive.
#[derive(Default)]
pub(crate) struct Observers {
    list: Mutex<Vec<(Slot, Weak<dyn Observe>)>>,
}

impl Observers {
    /// Adds one for this slot, unless it is there already.
    pub(crate) fn add(&self, slot: Slot, observer: &Arc<dyn Observe>) {
        let added = Arc::downgrade(observer);
        let mut list = self.lock();
        // Of any layers that are built and dropped, no more than the last is left here.
        list.retain(|(_, known)| known.strong_count() > 0);
        if !list.iter().any(|(known_slot, known)| *known_slot == slot && known.ptr_eq(&added)) {
            list.push((slot, added));
        }
    }

    /// Not to be called under a lock: observers are code of the user. One that panics prevents nothing; the panic hook has
    /// heard of it.
    pub(crate) fn tell(&self, event: &TokenEvent<'_>) {
        let living = |(slot, observer): &(Slot, Weak<dyn Observe>)| Some((*slot, observer.upgrade()?));
        let observers: Vec<_> = self.lock().iter().filter_map(living).collect();
        for (slot, observer) in observers {
            let _ = catch_unwind(AssertUnwindSafe(|| observer.token(slot, event)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Slot, Weak<dyn Observe>)>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").field("count", &self.lock().len()).finish()
    }
}
