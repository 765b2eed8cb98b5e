//! [`Resources`]: the resources that were served, and who has served them last.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::preference::Slot;

/// Lines of each table, the first of 16 KiB, all together of 336. One is made when those before it have no room: every call
/// looks a resource up, so that few of them should stay in the processor's caches. The memory of moved resources holds
/// 10,000; these are four times as many places.
const LINES: [usize; 3] = [256, 1_024, 4_096];

/// In a place: the fallback was the last to answer. The lowest bit of the hash makes room for it.
const BY_FALLBACK: u64 = 1;

/// A set of hashes that is only ever added to, and read without a lock.
///
/// A hash has one line in each table, and stands in the first of them that had room when it came. As nothing is ever
/// taken out, what is not there up to an empty place is nowhere.
#[derive(Default)]
pub(super) struct Resources {
    tables: [OnceLock<Box<[Line]>>; LINES.len()],
    /// Whether one has found no place.
    is_full: AtomicBool,
    /// Those that the primary was the last to answer for, and those that the fallback was.
    counts: [AtomicI64; 2],
}

/// Places in one cache line. 0 is an empty one.
#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; 8]);

impl Resources {
    /// `slot` has answered for it.
    #[inline]
    pub(super) fn answered(&self, hash: u64, slot: Slot) {
        let place = place_for(hash, slot);
        // It stands as it should: nearly always.
        if !self.has(place) {
            self.put(place);
        }
    }

    /// Whether the primary was the last to answer for it.
    #[inline]
    pub(super) fn is_of_primary(&self, hash: u64) -> bool {
        self.has(place_for(hash, Slot::Primary))
    }

    #[inline]
    fn has(&self, place: u64) -> bool {
        self.made().enumerate().any(|(nth, lines)| line(lines, nth, place).holds(place))
    }

    #[cold]
    fn put(&self, new: u64) {
        for (nth, table) in self.tables.iter().enumerate() {
            let table = table.get_or_init(|| (0..LINES[nth]).map(|_| Line::default()).collect());
            for place in &line(table, nth, new).0 {
                let known = match place.load(Ordering::Relaxed) {
                    0 => match place.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => {
                            self.count(new).fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                        Err(taken) => taken,
                    },
                    known => known,
                };
                if known | BY_FALLBACK == new | BY_FALLBACK {
                    let before = place.swap(new, Ordering::Relaxed);
                    self.count(before).fetch_sub(1, Ordering::Relaxed);
                    self.count(new).fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        self.is_full.store(true, Ordering::Relaxed);
    }

    fn count(&self, place: u64) -> &AtomicI64 {
        &self.counts[usize::from(place & BY_FALLBACK != 0)]
    }

    /// The tables that there are.
    fn made(&self) -> impl Iterator<Item = &[Line]> {
        self.tables.iter().map_while(|table| table.get().map(|lines| &lines[..]))
    }

    /// Those that the primary was the last to answer for.
    pub(super) fn of_primary(&self) -> impl Iterator<Item = u64> {
        let places = self.made().flatten().flat_map(|line| &line.0);
        let hashes = places.map(|place| place.load(Ordering::Relaxed));
        hashes.filter(|hash| *hash != 0 && hash & BY_FALLBACK == 0)
    }

    /// How many the primary was the last to answer for, and how many the fallback.
    pub(super) fn counts(&self) -> [i64; 2] {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

/// What stands for a hash that this slot was the last to answer for. One hash in 2^63 shares it with another; none is 0.
#[inline]
fn place_for(hash: u64, slot: Slot) -> u64 {
    let hash = (hash & !BY_FALLBACK).max(2);
    match slot {
        Slot::Primary => hash,
        Slot::Fallback => hash | BY_FALLBACK,
    }
}

/// The line that a hash has in the nth table, told by bits of its own.
#[inline]
fn line(table: &[Line], nth: usize, hash: u64) -> &Line {
    let bits = (hash >> (1 + 16 * nth)) as usize;
    // The number of lines is a power of two.
    &table[bits & (table.len() - 1)]
}

impl Line {
    /// Whether exactly this is in one of its places.
    ///
    /// All of them are looked at, with no branch between: which of them it is, no processor can foretell, and a wrong guess
    /// would have the call wait for the line to come. Hence the least difference, and no "or", which compilers turn into
    /// branches.
    #[inline]
    fn holds(&self, hash: u64) -> bool {
        let differences = self.0.iter().map(|place| place.load(Ordering::Relaxed) ^ hash);
        differences.fold(u64::MAX, u64::min) == 0
    }
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

        // Who answered last is known.
        (9_000..12_000).for_each(|nth| resources.answered(hash(nth), Slot::Fallback));
        assert_eq!(resources.of_primary().count(), 9_000);
        (9_500..10_000).for_each(|nth| resources.answered(hash(nth), Slot::Primary));
        assert_eq!((resources.of_primary().count(), resources.counts()), (9_500, [9_500, 2_500]));
    }

    #[test]
    fn beyond_its_size_it_says_that_it_is_full() {
        let resources = Resources::default();
        let state = RandomState::new();
        let places = 8 * LINES.iter().sum::<usize>();
        (0..3 * places).for_each(|nth| resources.answered(state.hash_one(nth), Slot::Primary));
        assert!(resources.is_full());
        assert!((places * 9 / 10..=places).contains(&resources.of_primary().count()));
        resources.answered(0, Slot::Primary);
    }
}
