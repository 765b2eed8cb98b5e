//! [`Expiring`]: a few values, each for a limited time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The most entries that are kept. At about 50 bytes each, this is a quarter of a megabyte.
const CAPACITY: usize = 4_096;

/// An insertion removes expired entries if it finds so many, or twice as many as the last removal left.
const SWEEP_FROM: usize = 64;

/// 1,024 bits: with a hundred groups, nine of ten others are told apart.
const WORDS: usize = 16;

/// A year: the clock can add it to any time.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Maps hashes to values that expire. A value belongs to a group, such as the resource of a request.
///
/// An insertion follows a rejection, or an answer that served nobody. A lookup in a group that has no value is one atomic load.
pub(crate) struct Expiring<V> {
    entries: Mutex<Entries<V>>,
    /// A bit for each group that has a value. Groups may share a bit.
    groups: [AtomicU64; WORDS],
    len: AtomicUsize,
}

struct Entries<V> {
    by_key: HashMap<u64, Entry<V>>,
    sweep_at: usize,
    /// When the last of them expires, or later.
    last_until: Option<Instant>,
}

struct Entry<V> {
    value: V,
    until: Instant,
    group: u64,
}

impl<V> Entries<V> {
    /// Makes room: removes what has expired and, if that is not enough, a quarter of the rest, which expires soonest.
    ///
    /// Returns whether it removed an entry that had not expired.
    fn sweep(&mut self, now: Instant) -> bool {
        self.by_key.retain(|_, entry| now < entry.until);
        let is_full = self.by_key.len() >= CAPACITY;
        if is_full {
            let mut ends: Vec<Instant> = self.by_key.values().map(|entry| entry.until).collect();
            let (_, &mut soon, _) = ends.select_nth_unstable(CAPACITY / 4);
            self.by_key.retain(|_, entry| soon < entry.until);
        }
        self.sweep_at = (2 * self.by_key.len()).clamp(SWEEP_FROM, CAPACITY);
        is_full
    }
}

impl<V: Copy> Expiring<V> {
    pub(crate) fn new() -> Self {
        let entries = Entries { by_key: HashMap::new(), sweep_at: SWEEP_FROM, last_until: None };
        Self { entries: Mutex::new(entries), groups: Default::default(), len: AtomicUsize::new(0) }
    }

    /// Keeps `value` for this long; not at all for a zero duration.
    ///
    /// Returns whether it had to remove an entry that had not expired.
    pub(crate) fn insert(&self, group: u64, key: u64, value: V, duration: Duration) -> bool {
        if duration.is_zero() {
            return false;
        }
        let now = Instant::now();
        let mut entries = self.lock();
        let is_swept = entries.by_key.len() >= entries.sweep_at;
        let has_removed = is_swept && entries.sweep(now);
        if is_swept {
            self.note_groups(&entries);
        }
        let until = now + duration.min(FOREVER);
        entries.last_until = entries.last_until.max(Some(until));
        entries.by_key.insert(key, Entry { value, until, group });
        self.word(group).fetch_or(bit(group), Ordering::AcqRel);
        self.len.store(entries.by_key.len(), Ordering::Release);
        has_removed
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Whether the group may have a value.
    #[inline]
    pub(crate) fn may_have(&self, group: u64) -> bool {
        self.word(group).load(Ordering::Acquire) & bit(group) != 0
    }

    #[inline]
    fn word(&self, group: u64) -> &AtomicU64 {
        &self.groups[(group >> 54) as usize % WORDS]
    }

    pub(crate) fn get(&self, group: u64, key: u64) -> Option<V> {
        self.look_up(group, key, false)
    }

    /// As [`get`](Self::get), and removes it.
    pub(crate) fn take(&self, group: u64, key: u64) -> Option<V> {
        self.look_up(group, key, true)
    }

    fn look_up(&self, group: u64, key: u64, is_taken: bool) -> Option<V> {
        if !self.may_have(group) {
            return None;
        }
        let now = Instant::now();
        let mut entries = self.lock();
        let found = entries.by_key.get(&key).filter(|entry| now < entry.until).map(|entry| entry.value);
        let is_over = entries.last_until.is_none_or(|until| until <= now);
        if is_over {
            // Lookups cost nothing again.
            entries.by_key.clear();
        } else if is_taken {
            entries.by_key.remove(&key);
        }
        self.len.store(entries.by_key.len(), Ordering::Release);
        // Of many, the next sweep does it.
        if (is_over || is_taken && found.is_some()) && entries.by_key.len() < SWEEP_FROM {
            self.note_groups(&entries);
        }
        found
    }

    /// The values that have not expired.
    pub(crate) fn values(&self) -> Vec<V> {
        let now = Instant::now();
        let entries = self.lock();
        entries.by_key.values().filter(|entry| now < entry.until).map(|entry| entry.value).collect()
    }

    fn note_groups(&self, entries: &Entries<V>) {
        let mut words = [0; WORDS];
        for Entry { group, .. } in entries.by_key.values() {
            words[(group >> 54) as usize % WORDS] |= bit(*group);
        }
        for (word, bits) in self.groups.iter().zip(words) {
            word.store(bits, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries<V>> {
        // Nothing in here runs foreign code.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Groups are hashes: their upper bits are as good as any.
fn bit(group: u64) -> u64 {
    1 << (group >> 58)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_value_expires_and_can_be_taken_once() {
        let map = Expiring::new();
        assert!(!map.may_have(1) && map.get(1, 1).is_none() && map.take(1, 1).is_none());
        map.insert(1, 1, 'a', SECOND);
        map.insert(2, 2, 'b', 9 * SECOND);
        map.insert(3, 3, 'c', Duration::ZERO);
        assert_eq!((map.get(1, 1), map.get(2, 2), map.get(3, 3)), (Some('a'), Some('b'), None));
        tokio::time::advance(SECOND).await;
        assert_eq!((map.get(1, 1), map.take(1, 1)), (None, None));
        assert_eq!((map.values(), map.take(2, 2), map.take(2, 2)), (vec!['b'], Some('b'), None));
        map.insert(1, 1, 'a', Duration::MAX);
        assert_eq!(map.get(1, 1), Some('a'));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_costs_nothing_once_its_values_are_taken_or_expired() {
        let map = Expiring::new();
        let (one, other) = (0, 1 << 60);
        map.insert(one, 7, (), SECOND);
        assert!(map.may_have(one) && !map.may_have(other));
        map.take(one, 7);
        assert!(!map.may_have(one));
        map.insert(one, 7, (), SECOND);
        tokio::time::advance(SECOND).await;
        assert_eq!(map.get(one, 8), None);
        assert!(!map.may_have(one));
    }

    #[tokio::test(start_paused = true)]
    async fn expired_entries_take_no_memory() {
        let map = Expiring::new();
        for key in 0..10 * CAPACITY as u64 {
            assert!(!map.insert(key, key, (), SECOND));
            tokio::time::advance(SECOND / 10).await;
        }
        assert!(map.lock().by_key.len() <= SWEEP_FROM + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_full_the_entries_that_expire_soonest_make_room() {
        let map = Expiring::new();
        for key in 0..CAPACITY as u64 {
            assert!(!map.insert(0, key, key, SECOND * (1 + key as u32)));
        }
        assert!(map.insert(0, u64::MAX, 0, SECOND));
        let quarter = CAPACITY as u64 / 4;
        let found = |key| map.get(0, key);
        assert_eq!((found(0), found(quarter), found(quarter + 1)), (None, None, Some(quarter + 1)));
        assert_eq!((found(u64::MAX), map.values().len()), (Some(0), CAPACITY - CAPACITY / 4));
    }
}
