//! [`Resources`]: the resources that the primary has answered for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Places for hashes: 256 KiB. The memory of moved resources holds 10,000; three times as many places keep the
/// stretches of taken ones short.
const PLACES: usize = 32_768;

/// How many places are looked at for one hash. With a third of them taken, no stretch is half as long.
const PROBES: usize = 64;

/// A set of hashes that is only ever added to, and read without a lock.
#[derive(Default)]
pub(super) struct Resources {
    /// 0 is an empty place. Made when the first resource comes.
    places: OnceLock<Box<[AtomicU64]>>,
    /// Whether one has found no place.
    is_full: AtomicBool,
}

impl Resources {
    pub(super) fn add(&self, hash: u64) {
        // One hash in 2^64 shares its place with another.
        let hash = hash.max(1);
        let places = self.places.get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        let start = hash as usize;
        for probe in 0..PROBES {
            let place = &places[start.wrapping_add(probe) % PLACES];
            let known = match place.load(Ordering::Relaxed) {
                0 => place
                    .compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed)
                    .map_or_else(|taken| taken, |_| hash),
                known => known,
            };
            if known == hash {
                return;
            }
        }
        self.is_full.store(true, Ordering::Relaxed);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        let places = self.places.get().map_or(&[][..], |places| &places[..]);
        places.iter().map(|place| place.load(Ordering::Relaxed)).filter(|hash| *hash != 0)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn each_resource_counts_once_and_ten_thousand_find_a_place() {
        let resources = Resources::default();
        assert_eq!(resources.iter().count(), 0);
        let state = RandomState::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000_u32).for_each(|nth| resources.add(state.hash_one(nth))));
            }
        });
        assert_eq!(resources.iter().count(), 10_000);
        assert!(!resources.is_full());
    }

    #[test]
    fn beyond_its_size_it_says_that_it_is_full() {
        let resources = Resources::default();
        let state = RandomState::new();
        (0..3 * PLACES).for_each(|nth| resources.add(state.hash_one(nth)));
        assert!(resources.is_full());
        assert!(resources.iter().count() <= PLACES);
        resources.add(0);
    }
}
