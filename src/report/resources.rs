//! [`Resources`]: the resources that the primary has answered for, and who has answered for them last.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::preference::Slot;

/// Places for hashes: 256 KiB. The memory of moved resources holds 10,000; three times as many places keep the
/// stretches of taken ones short.
const PLACES: usize = 32_768;

/// How many places are looked at for one hash. With a third of them taken, no stretch is half as long.
const PROBES: usize = 64;

/// In a place: the fallback was the last to answer. The lowest bit of the hash makes room for it.
const BY_FALLBACK: u64 = 1;

/// A set of hashes that is only ever added to, and read without a lock.
#[derive(Default)]
pub(super) struct Resources {
    /// 0 is an empty place. Made when the first resource comes.
    places: OnceLock<Box<[AtomicU64]>>,
    /// Whether one has found no place.
    is_full: AtomicBool,
}

impl Resources {
    /// `slot` has answered for it. Only the primary's answer makes it one of these.
    pub(super) fn answered(&self, hash: u64, slot: Slot) {
        // One hash in 2^63 shares its place with another.
        let hash = (hash & !BY_FALLBACK).max(2);
        match slot {
            Slot::Primary => self.put(hash),
            Slot::Fallback => self.mark(hash),
        }
    }

    fn put(&self, hash: u64) {
        let places = self.places.get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        for place in stretch(places, hash) {
            let known = match place.load(Ordering::Relaxed) {
                0 => place
                    .compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed)
                    .map_or_else(|taken| taken, |_| hash),
                known => known,
            };
            if known & !BY_FALLBACK == hash {
                if known != hash {
                    place.store(hash, Ordering::Relaxed);
                }
                return;
            }
        }
        self.is_full.store(true, Ordering::Relaxed);
    }

    fn mark(&self, hash: u64) {
        let Some(places) = self.places.get() else { return };
        let known = stretch(places, hash).map(|place| (place, place.load(Ordering::Relaxed)));
        let mut taken = known.take_while(|(_, known)| *known != 0);
        if let Some((place, known)) = taken.find(|(_, known)| known & !BY_FALLBACK == hash)
            && known == hash
        {
            place.store(hash | BY_FALLBACK, Ordering::Relaxed);
        }
    }

    /// Those that the primary was the last to answer for.
    pub(super) fn of_primary(&self) -> impl Iterator<Item = u64> {
        let places = self.places.get().map_or(&[][..], |places| &places[..]);
        let taken = places.iter().map(|place| place.load(Ordering::Relaxed)).filter(|hash| *hash != 0);
        taken.filter(|hash| hash & BY_FALLBACK == 0)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

/// The places that a hash may have.
fn stretch(places: &[AtomicU64], hash: u64) -> impl Iterator<Item = &AtomicU64> {
    let start = (hash >> 1) as usize;
    (0..PROBES).map(move |probe| &places[start.wrapping_add(probe) % PLACES])
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn each_resource_counts_once_and_ten_thousand_find_a_place() {
        let resources = Resources::default();
        assert_eq!(resources.of_primary().count(), 0);
        let state = RandomState::new();
        let hash = |nth: u32| state.hash_one(nth);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|nth| resources.answered(hash(nth), Slot::Primary)));
            }
        });
        assert_eq!(resources.of_primary().count(), 10_000);
        assert!(!resources.is_full());

        // What only the fallback has answered for is not among them; who answered last is known.
        (9_000..12_000).for_each(|nth| resources.answered(hash(nth), Slot::Fallback));
        assert_eq!(resources.of_primary().count(), 9_000);
        (9_500..10_000).for_each(|nth| resources.answered(hash(nth), Slot::Primary));
        assert_eq!(resources.of_primary().count(), 9_500);
    }

    #[test]
    fn beyond_its_size_it_says_that_it_is_full() {
        let resources = Resources::default();
        let state = RandomState::new();
        (0..3 * PLACES).for_each(|nth| resources.answered(state.hash_one(nth), Slot::Primary));
        assert!(resources.is_full());
        assert!(resources.of_primary().count() <= PLACES);
        resources.answered(0, Slot::Primary);
    }
}
