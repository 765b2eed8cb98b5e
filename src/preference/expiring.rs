//! [`Expiring`]: a few values, each for a limited time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The most entries that are kept. At about 50 bytes each, this is a quarter of a megabyte.
const CAPACITY: usize = 4_096;

/// An insertion removes expired entries if it finds so many, or twice as many as the last removal left.
const SWEEP_FROM: usize = 64;

/// A year: the clock can add it to any time.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Maps hashes to values that expire.
///
/// All of its callers are rare: a rejection, or a failure. While it is empty, a lookup is one atomic load.
pub(crate) struct Expiring<V> {
    entries: Mutex<Entries<V>>,
    /// Equals the number of entries, expired ones included.
    len: AtomicUsize,
}

struct Entries<V> {
    by_key: HashMap<u64, Entry<V>>,
    sweep_at: usize,
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

struct Entry<V> {
    value: V,
    until: Instant,
}

impl<V: Copy> Expiring<V> {
    pub(crate) fn new() -> Self {
        let entries = Entries { by_key: HashMap::new(), sweep_at: SWEEP_FROM };
        Self { entries: Mutex::new(entries), len: AtomicUsize::new(0) }
    }

    /// Keeps `value` for this long; not at all for a zero duration.
    ///
    /// Returns whether it had to remove an entry that had not expired.
    pub(crate) fn insert(&self, key: u64, value: V, duration: Duration) -> bool {
        if duration.is_zero() {
            return false;
        }
        let now = Instant::now();
        let mut entries = self.lock();
        let has_removed = entries.by_key.len() >= entries.sweep_at && entries.sweep(now);
        entries.by_key.insert(key, Entry { value, until: now + duration.min(FOREVER) });
        self.len.store(entries.by_key.len(), Ordering::Release);
        has_removed
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    pub(crate) fn get(&self, key: u64) -> Option<V> {
        if self.is_empty() {
            return None;
        }
        let now = Instant::now();
        self.lock().by_key.get(&key).filter(|entry| now < entry.until).map(|entry| entry.value)
    }

    /// Removes the entry; returns its value if that has not expired.
    pub(crate) fn take(&self, key: u64) -> Option<V> {
        if self.is_empty() {
            return None;
        }
        let mut entries = self.lock();
        let removed = entries.by_key.remove(&key)?;
        self.len.store(entries.by_key.len(), Ordering::Release);
        (Instant::now() < removed.until).then_some(removed.value)
    }

    /// The values that have not expired.
    pub(crate) fn values(&self) -> Vec<V> {
        let now = Instant::now();
        let entries = self.lock();
        entries.by_key.values().filter(|entry| now < entry.until).map(|entry| entry.value).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries<V>> {
        // Nothing in here runs foreign code.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_value_expires_and_can_be_taken_once() {
        let map = Expiring::new();
        assert!(map.is_empty() && map.get(1).is_none() && map.take(1).is_none());
        map.insert(1, 'a', SECOND);
        map.insert(2, 'b', Duration::MAX);
        map.insert(3, 'c', Duration::ZERO);
        assert_eq!((map.get(1), map.get(2), map.get(3)), (Some('a'), Some('b'), None));
        tokio::time::advance(SECOND).await;
        assert_eq!((map.get(1), map.take(1)), (None, None));
        assert_eq!((map.values(), map.take(2), map.take(2)), (vec!['b'], Some('b'), None));
        assert!(map.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn expired_entries_take_no_memory() {
        let map = Expiring::new();
        for key in 0..10 * CAPACITY as u64 {
            assert!(!map.insert(key, (), SECOND));
            tokio::time::advance(SECOND / 10).await;
        }
        assert!(map.lock().by_key.len() <= SWEEP_FROM + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_full_the_entries_that_expire_soonest_make_room() {
        let map = Expiring::new();
        for key in 0..CAPACITY as u64 {
            assert!(!map.insert(key, key, SECOND * (1 + key as u32)));
        }
        assert!(map.insert(u64::MAX, 0, SECOND));
        let quarter = CAPACITY as u64 / 4;
        assert_eq!((map.get(0), map.get(quarter), map.get(quarter + 1)), (None, None, Some(quarter + 1)));
        assert_eq!((map.get(u64::MAX), map.values().len()), (Some(0), CAPACITY - CAPACITY / 4));
    }
}
