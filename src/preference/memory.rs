//! [`Memory`]: which slot last answered for a resource.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use http::Uri;
use http::uri::Scheme;
use quick_cache::sync::Cache;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Slot;
use super::shared::Learnt;

/// Resources remembered at the most. A forgotten one costs one more refusal, so the bound only has to be
/// larger than what is in use at a time; at about 50 bytes each this is half a megabyte when full.
pub(super) const CAPACITY: usize = 10_000;

/// Remembers the resources that are *not* as everything is at first: served by the primary.
///
/// Two resources share a memory if their 64-bit hashes, keyed at random, collide. That costs a refusal and a
/// replay when they differ, never a wrong answer.
pub(crate) struct Memory {
    entries: Cache<u64, Entry>,
    /// Until something is remembered, nothing is looked up: no lock is touched while nothing has moved.
    in_use: AtomicBool,
    hash: FixedState,
    /// Where what is learnt is told to other replicas.
    outbox: Option<mpsc::Sender<Learnt>>,
}

#[derive(Clone, Copy)]
struct Entry {
    slot: Slot,
    is_learnt: bool,
    /// Both slots were refused; no replay until then.
    cools_until: Option<Instant>,
}

/// What is known of a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Known {
    /// The slot that last answered.
    pub(crate) slot: Slot,
    /// Whether that was learnt from an answer; if not, it is where everything is at first.
    pub(crate) is_learnt: bool,
    /// Whether both were refused a moment ago.
    pub(crate) is_cooling: bool,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self::build(fastrand::u64(..), None)
    }

    /// One that other replicas share. Their keys are the same, by the same seed.
    pub(super) fn shared(seed: u64, outbox: mpsc::Sender<Learnt>) -> Self {
        Self::build(seed, Some(outbox))
    }

    fn build(seed: u64, outbox: Option<mpsc::Sender<Learnt>>) -> Self {
        let hash = FixedState::with_seed(seed);
        Self { entries: Cache::new(CAPACITY), in_use: AtomicBool::new(false), hash, outbox }
    }

    /// The key of a resource of this name in the URI's origin; of the origin itself without a name.
    ///
    /// The origin counts as it is written. Another spelling of it has a memory of its own: that costs a refusal,
    /// and taking the spelling apart would cost more on every call.
    pub(crate) fn key(&self, uri: &Uri, resource: Option<&str>) -> u64 {
        let mut hasher = self.hash.build_hasher();
        hasher.write(uri.authority().map_or("", |authority| authority.as_str()).as_bytes());
        hasher.write_u8(u8::from(uri.scheme() == Some(&Scheme::HTTPS)));
        if let Some(resource) = resource {
            hasher.write(resource.as_bytes());
        }
        // Even, since the report keeps a mark in the lowest bit.
        hasher.finish() & !1
    }

    #[inline]
    pub(crate) fn recall(&self, key: u64) -> Known {
        match self.entry(key) {
            None => Known { slot: Slot::Primary, is_learnt: false, is_cooling: false },
            Some(Entry { slot, is_learnt, cools_until }) => {
                let is_cooling = cools_until.is_some_and(|until| Instant::now() < until);
                Known { slot, is_learnt, is_cooling }
            }
        }
    }

    /// `slot` answered, or is expected to answer the next time.
    pub(crate) fn learn(&self, key: u64, slot: Slot) {
        let known = self.entry(key);
        if let Some(outbox) = &self.outbox
            && known.map_or(Slot::Primary, |known| known.slot) != slot
        {
            // If it is full, the others learn it by themselves.
            let _ = outbox.try_send(Learnt::new(key, slot));
        }
        // What nobody has thought to be anywhere else needs no entry.
        if slot == Slot::Fallback || known.is_some() {
            self.insert(key, Entry { slot, is_learnt: true, cools_until: None });
        }
    }

    /// Another replica has learnt it.
    pub(super) fn adopt(&self, key: u64, slot: Slot) {
        if slot == Slot::Fallback || self.entry(key).is_some() {
            let cools_until = self.entry(key).and_then(|entry| entry.cools_until);
            self.insert(key, Entry { slot, is_learnt: true, cools_until });
        }
    }

    /// An answer has shown that there is no reason to hold back.
    pub(crate) fn warm(&self, key: u64) {
        if let Some(entry) = self.entry(key) {
            self.insert(key, Entry { cools_until: None, ..entry });
        }
    }

    /// Both were refused: what is known of the slot stays, and no replay is made for a while.
    pub(crate) fn cool(&self, key: u64, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        // A duration beyond what the clock can count means "for ever"; leaving the resource as it is
        // would be the opposite, so the far future stands in.
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let until = Instant::now() + duration.min(FAR);
        let known = self.recall(key);
        self.insert(key, Entry { slot: known.slot, is_learnt: known.is_learnt, cools_until: Some(until) });
    }

    /// How many are served by the fallback. Takes its time: it looks at each.
    pub(crate) fn count_moved(&self) -> usize {
        self.entries.iter().filter(|(_, entry)| entry.slot == Slot::Fallback).count()
    }

    /// Whether the resource is served by the fallback.
    pub(crate) fn has_moved(&self, key: u64) -> bool {
        self.entry(key).is_some_and(|entry| entry.slot == Slot::Fallback)
    }

    /// Whether there may be more than can be counted.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() + 1 >= CAPACITY
    }

    /// Whether anything is remembered at all.
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Acquire)
    }

    #[inline]
    fn entry(&self, key: u64) -> Option<Entry> {
        // Out of line, so that nothing of it is paid for until something has moved.
        #[inline(never)]
        fn look_up(memory: &Memory, key: u64) -> Option<Entry> {
            memory.entries.get(&key)
        }
        if self.is_in_use() { look_up(self, key) } else { None }
    }

    fn insert(&self, key: u64, entry: Entry) {
        self.entries.insert(key, entry);
        self.in_use.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("resources", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &'static str) -> Uri {
        Uri::from_static(text)
    }

    fn known(slot: Slot, is_learnt: bool, is_cooling: bool) -> Known {
        Known { slot, is_learnt, is_cooling }
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_symmetric_and_bounded_and_cools_for_as_long_as_said() {
        let memory = Memory::new();
        let key = memory.key(&uri("https://a.example/1"), Some("bot"));
        assert_eq!(memory.recall(key), known(Slot::Primary, false, false));
        memory.learn(key, Slot::Primary);
        assert!(!memory.is_in_use(), "nothing to remember");
        memory.learn(key, Slot::Fallback);
        assert_eq!(memory.recall(key), known(Slot::Fallback, true, false));

        memory.cool(key, Duration::from_secs(1));
        assert_eq!(memory.recall(key), known(Slot::Fallback, true, true));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(memory.recall(key), known(Slot::Fallback, true, false));
        memory.cool(key, Duration::MAX);
        assert!(memory.recall(key).is_cooling);
        memory.warm(key);
        assert_eq!(memory.recall(key), known(Slot::Fallback, true, false));

        memory.learn(key, Slot::Primary);
        assert_eq!(memory.recall(key), known(Slot::Primary, true, false));

        for resource in 0..3 * CAPACITY as u64 {
            memory.learn(resource, Slot::Fallback);
        }
        assert!(memory.entries.len() <= CAPACITY);
    }

    #[test]
    fn a_resource_is_known_by_its_origin_and_name_and_not_by_the_path() {
        let memory = Memory::new();
        let key = |uri_text, name| memory.key(&uri(uri_text), name);
        assert_eq!(key("https://a.example/1?x", Some("bot")), key("https://a.example/2", Some("bot")));
        assert_ne!(key("https://a.example/", None), key("http://a.example/", None));
        assert_ne!(key("https://a.example/", Some("bot")), key("https://b.example/", Some("bot")));
        assert_ne!(key("https://a.example/", Some("bot")), key("https://a.example/", Some("bat")));
        assert_ne!(key("https://a.example/", Some("bot")), key("https://a.example/", None));
    }
}
