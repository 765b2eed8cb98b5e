//! [`FallbackHandle`]: a hand on a client that is in use.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use crate::preference::{Expiring, Memory, Order, Slot};
use crate::report::{Report, Stats};

/// Changes the order of a live client, and tells what has happened.
///
/// Made by [`CredentialFallbackLayer::handle`](crate::CredentialFallbackLayer::handle). Cheap to clone; it works
/// for every service that the layer, or a clone of it, has made or will make.
///
/// ```
/// use tower_credential_fallback::{Credential, CredentialFallbackLayer, Order};
///
/// # fn main() -> Result<(), tower_credential_fallback::Error> {
/// let layer = CredentialFallbackLayer::new(Credential::bearer("old")?, Credential::bearer("new")?)?;
/// let handle = layer.handle();
/// // … once everything has moved, and calls are under way:
/// handle.set_order(Order::FallbackFirst);
/// println!("{}", handle.report());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FallbackHandle {
    live: Arc<Live>,
}

impl FallbackHandle {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        Self { live }
    }

    /// The order that new calls go by.
    pub fn order(&self) -> Order {
        self.live.order()
    }

    /// Changes the order, for all calls that begin from now on. Calls under way keep theirs.
    pub fn set_order(&self, order: Order) {
        self.live.set_order(order);
    }

    /// What has happened since the layer was made.
    ///
    /// It looks at every resource that is known, some 10,000 at the most: ask once in a while, not for each call.
    pub fn report(&self) -> Report {
        Report::new(self.order(), &self.live.stats, self.live.memory())
    }
}

impl fmt::Debug for FallbackHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackHandle").field("live", &self.live).finish()
    }
}

/// What changes while a client is in use. Shared by a layer, its clones, their services and handles.
pub(crate) struct Live {
    order: AtomicU8,
    own: Memory,
    /// What other replicas have learnt too: takes the place of `own`.
    shared: OnceLock<Arc<Memory>>,
    /// The slot that a request begins with, once: an earlier call with the same request was rejected by the other slot.
    pub(crate) hints: Expiring<Slot>,
    /// Requests that both credentials were rejected for a moment ago.
    pub(crate) cooldowns: Expiring<()>,
    pub(crate) stats: Stats,
}

impl Live {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order: AtomicU8::new(order as u8),
            own: Memory::new(),
            shared: OnceLock::new(),
            hints: Expiring::new(),
            cooldowns: Expiring::new(),
            stats: Stats::new(),
        }
    }

    pub(crate) fn order(&self) -> Order {
        Order::ALL[usize::from(self.order.load(Ordering::Relaxed))]
    }

    pub(crate) fn set_order(&self, order: Order) {
        self.order.store(order as u8, Ordering::Relaxed);
    }

    /// The slot that comes first for a request that is about no single resource: the fallback, once it serves most of the
    /// resources that were seen here.
    #[inline]
    pub(crate) fn usual_slot(&self) -> Slot {
        if self.stats.is_mostly_moved() { Slot::Fallback } else { Slot::Primary }
    }

    #[inline]
    pub(crate) fn memory(&self) -> &Memory {
        self.shared.get().map_or(&self.own, |shared| &**shared)
    }

    /// Says whether it shares this memory from now on: one that shares another already keeps that.
    pub(crate) fn share(&self, memory: &Arc<Memory>) -> bool {
        Arc::ptr_eq(self.shared.get_or_init(|| Arc::clone(memory)), memory)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("order", &self.order())
            .field("memory", self.memory())
            .finish_non_exhaustive()
    }
}
