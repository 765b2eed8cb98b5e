//! [`Memory`]: the slot that serves each resource, as far as answers have shown.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::FixedState;
use http::Uri;
use http::uri::Scheme;
use quick_cache::sync::Cache;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Slot;
use super::shared::Learnt;

/// Resources remembered at the most. A forgotten one costs one more rejection, so the bound only has to be
/// larger than what is in use at a time; at about 70 bytes each this is less than a megabyte when full.
pub(super) const CAPACITY: usize = 10_000;

/// How far [`Memory::lean`] can go to either side. A few resources that need the other slot do not change where unknown
/// ones begin; twice as many do.
const MOST_LEANING: i8 = 16;

/// Remembers the resources that the primary does not serve, or did not at some time.
///
/// Two resources share an entry if their 64-bit hashes, keyed at random, collide. That costs a rejection and a
/// replay when they differ, never a wrong answer.
pub(crate) struct Memory {
    entries: Cache<u64, Known>,
    /// Until something is remembered, nothing is looked up: no lock is touched while nothing has moved.
    in_use: AtomicBool,
    /// Above zero, most resources that were lately learnt need the fallback.
    lean: AtomicI8,
    /// Numbers what is learnt.
    versions: AtomicU64,
    /// Counts what is changed.
    changes: AtomicU64,
    /// Held by each change, so that none is lost between a lookup and an insertion.
    changing: Mutex<()>,
    hash: FixedState,
    /// Where what is learnt is told to other replicas.
    outbox: Option<mpsc::Sender<Learnt>>,
}

/// What is known of a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Known {
    /// The slot that comes first; `None` if nothing says which.
    pub(crate) slot: Option<Slot>,
    /// Grows with each piece of evidence, which is one slot rejected and the other accepted; 0 without any.
    pub(crate) version: u64,
    /// Whether the fallback was the last to serve it.
    pub(crate) is_by_fallback: bool,
    /// When the fallback last served it here, to the minute.
    pub(crate) fallback_at: Option<Instant>,
}

impl Known {
    /// Whether there is evidence for this slot.
    fn is_learnt_of(&self, slot: Slot) -> bool {
        self.version > 0 && self.slot == Some(slot)
    }
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
        Self {
            entries: Cache::new(CAPACITY),
            in_use: AtomicBool::new(false),
            lean: AtomicI8::new(-MOST_LEANING),
            versions: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            changing: Mutex::new(()),
            hash: FixedState::with_seed(seed),
            outbox,
        }
    }

    /// The key of a resource of this name in the URI's origin; of the origin itself without a name.
    ///
    /// The origin counts as it is written. Another spelling of it has a memory of its own: that costs a rejection,
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

    /// A hash of these parts, with their order and their lengths.
    pub(crate) fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hash.build_hasher();
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }

    /// The slot that comes first for a resource of which nothing is known: the one that most of those need that were lately
    /// learnt.
    #[inline]
    pub(crate) fn usual_slot(&self) -> Slot {
        if self.is_in_use() && self.lean.load(Ordering::Relaxed) > 0 { Slot::Fallback } else { Slot::Primary }
    }

    #[inline]
    pub(crate) fn recall(&self, key: u64) -> Option<Known> {
        // Out of line, so that nothing of it is paid for until something has moved.
        #[inline(never)]
        fn look_up(memory: &Memory, key: u64) -> Option<Known> {
            memory.entries.get(&key)
        }
        if self.is_in_use() { look_up(self, key) } else { None }
    }

    /// The version of the newest evidence, for [`learn`](Self::learn).
    pub(crate) fn version(&self) -> u64 {
        self.versions.load(Ordering::Acquire)
    }

    /// One slot was rejected, then `slot` served it. `as_of` is the [`version`](Self::version) when the request was sent
    /// that `slot` served: what was learnt of the resource since then is newer, and stays.
    pub(crate) fn learn(&self, key: u64, slot: Slot, as_of: u64) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.recall(key);
        if known.is_some_and(|known| known.version > as_of) {
            self.set_server(key, known, slot, true);
            return;
        }
        if let Some(outbox) = &self.outbox
            && known.is_none_or(|known| !known.is_learnt_of(slot))
        {
            // If it is full, the others learn it by themselves.
            let _ = outbox.try_send(Learnt::new(key, slot));
        }
        let is_by_fallback = slot == Slot::Fallback;
        let served_before = known.and_then(|known| known.fallback_at);
        let fallback_at = if is_by_fallback { Some(Instant::now()) } else { served_before };
        self.insert_learnt(key, slot, known, fallback_at);
    }

    /// Another replica has learnt it.
    pub(super) fn adopt(&self, key: u64, slot: Slot) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.recall(key) {
            // What was learnt here comes back from there.
            Some(known) if known.is_learnt_of(slot) => {}
            // It was served there, and nobody knows when.
            known => self.insert_learnt(key, slot, known, known.and_then(|known| known.fallback_at)),
        }
    }

    fn insert_learnt(&self, key: u64, slot: Slot, before: Option<Known>, fallback_at: Option<Instant>) {
        if before.is_none_or(|before| before.slot != Some(slot)) {
            self.lean_to(slot);
        }
        let version = 1 + self.versions.fetch_add(1, Ordering::AcqRel);
        let is_by_fallback = slot == Slot::Fallback;
        self.insert(key, Known { slot: Some(slot), version, is_by_fallback, fallback_at });
    }

    /// `slot` served it at once. That says nothing of the other slot, so it changes no preference. Where there is none, the
    /// resource begins there from now on, unless the slot came first by chance: by the caller's choice, or since the other
    /// had no credential.
    pub(crate) fn note_served(&self, key: u64, slot: Slot, is_chance: bool) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_server(key, self.recall(key), slot, is_chance);
    }

    fn set_server(&self, key: u64, known: Option<Known>, slot: Slot, is_chance: bool) {
        let is_by_fallback = slot == Slot::Fallback;
        let now = is_by_fallback.then(Instant::now);
        match known {
            Some(known) => {
                let has_evidence = known.version > 0;
                let slot = if is_chance || has_evidence { known.slot } else { Some(slot) };
                let fallback_at = now.or(known.fallback_at);
                self.insert(key, Known { slot, is_by_fallback, fallback_at, ..known });
            }
            // That the primary serves it needs no entry.
            None if slot == Slot::Primary => {}
            None => {
                let slot = (!is_chance).then_some(slot);
                self.insert(key, Known { slot, version: 0, is_by_fallback, fallback_at: now });
            }
        }
    }

    /// This slot was needed for a resource: the other one was rejected.
    fn lean_to(&self, slot: Slot) {
        let step = |lean: i8| match slot {
            Slot::Primary => lean - 1,
            Slot::Fallback => lean + 1,
        };
        let _ = self.lean.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lean| {
            Some(step(lean).clamp(-MOST_LEANING, MOST_LEANING))
        });
    }

    /// How many were last served by the fallback. It looks at each.
    pub(crate) fn count_moved(&self) -> usize {
        self.entries.iter().filter(|(_, known)| known.is_by_fallback).count()
    }

    /// Whether the resource was last served by the fallback.
    pub(crate) fn has_moved(&self, key: u64) -> bool {
        self.recall(key).is_some_and(|known| known.is_by_fallback)
    }

    /// Whether there may be more than can be counted.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() + 1 >= CAPACITY
    }

    /// Whether anything is remembered at all.
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Acquire)
    }

    /// Changes with each change of what is known.
    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn insert(&self, key: u64, known: Known) {
        self.entries.insert(key, known);
        self.changes.fetch_add(1, Ordering::Release);
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

    fn slot(memory: &Memory, key: u64) -> Option<Slot> {
        memory.recall(key)?.slot
    }

    #[test]
    fn only_evidence_changes_a_preference_and_memory_is_bounded() {
        let memory = Memory::new();
        let key = memory.key(&uri("https://a.example/1"), Some("bot"));
        memory.note_served(key, Slot::Primary, false);
        assert!(!memory.is_in_use(), "nothing to remember");
        memory.note_served(3, Slot::Fallback, false);
        assert_eq!((slot(&memory, 3), memory.has_moved(3)), (Some(Slot::Fallback), true));
        let served = |slot| memory.note_served(key, slot, true);
        served(Slot::Fallback);
        assert_eq!((slot(&memory, key), memory.has_moved(key)), (None, true));

        memory.learn(key, Slot::Primary, u64::MAX);
        assert_eq!((slot(&memory, key), memory.has_moved(key)), (Some(Slot::Primary), false));
        served(Slot::Fallback);
        assert_eq!((slot(&memory, key), memory.has_moved(key)), (Some(Slot::Primary), true));
        served(Slot::Primary);
        assert_eq!((slot(&memory, key), memory.has_moved(key)), (Some(Slot::Primary), false));

        for resource in 0..3 * CAPACITY as u64 {
            memory.learn(resource, Slot::Fallback, u64::MAX);
        }
        assert!(memory.entries.len() <= CAPACITY);
    }

    #[test]
    fn older_evidence_does_not_overwrite_newer() {
        let memory = Memory::new();
        let as_of = memory.version();
        memory.learn(2, Slot::Primary, as_of);
        memory.learn(2, Slot::Fallback, as_of);
        assert_eq!(slot(&memory, 2), Some(Slot::Primary));
        let as_of = memory.version();
        memory.adopt(2, Slot::Fallback);
        memory.learn(2, Slot::Primary, as_of);
        assert_eq!(slot(&memory, 2), Some(Slot::Fallback));
        memory.learn(2, Slot::Primary, memory.version());
        assert_eq!(slot(&memory, 2), Some(Slot::Primary));
        // What was learnt of another resource is no matter.
        let as_of = memory.version();
        memory.learn(4, Slot::Primary, as_of);
        memory.learn(2, Slot::Fallback, as_of);
        assert_eq!(slot(&memory, 2), Some(Slot::Fallback));
    }

    #[test]
    fn unknown_resources_begin_with_the_slot_that_most_needed_lately() {
        let memory = Memory::new();
        let resources =
            |from: u64, slot| (from..from + 40).for_each(|key| memory.learn(2 * key, slot, u64::MAX));
        resources(0, Slot::Primary);
        assert_eq!(memory.usual_slot(), Slot::Primary);
        resources(100, Slot::Fallback);
        assert_eq!(memory.usual_slot(), Slot::Fallback);
        memory.learn(1, Slot::Primary, u64::MAX);
        assert_eq!(memory.usual_slot(), Slot::Fallback, "one is not most");
        resources(200, Slot::Primary);
        assert_eq!(memory.usual_slot(), Slot::Primary);
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
