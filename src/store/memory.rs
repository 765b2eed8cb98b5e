//! [`MemoryStore`]: for one process.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::unsync::Cache;
use tokio::time::Instant;

use super::{Lease, StoreFuture, Stored, TokenStore, Version};
use crate::oauth::Grant;

/// Users remembered by default.
const CAPACITY: usize = 100_000;

/// Keeps grants in memory, for the tasks of one process.
///
/// Bounded: when it is full, users who were not seen for long are forgotten, and authorise again.
pub struct MemoryStore {
    users: Mutex<Cache<String, User>>,
}

#[derive(Clone, Default)]
struct User {
    stored: Option<Stored>,
    /// Never goes back, so that a late save cannot mistake a later grant for the one it knew.
    version: u64,
    lease: Option<(Lease, Instant)>,
}

impl MemoryStore {
    /// A store for 100,000 users.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// A store for so many users.
    pub fn with_capacity(users: usize) -> Self {
        Self { users: Mutex::new(Cache::new(users.max(1))) }
    }

    /// Every change is one assignment: a panic elsewhere leaves nothing half done.
    fn users(&self) -> MutexGuard<'_, Cache<String, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit<T>(&self, key: &str, change: impl FnOnce(&mut User) -> T) -> T {
        let mut users = self.users();
        let mut user = users.get(key).cloned().unwrap_or_default();
        let result = change(&mut user);
        users.insert(key.to_owned(), user);
        result
    }
}

impl TokenStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>> {
        let stored = self.users().get(key).and_then(|user| user.stored.clone());
        Box::pin(std::future::ready(Ok(stored)))
    }

    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        let saved = self.edit(key, |user| {
            let version = user.stored.as_ref().map_or(Version::NONE, |stored| stored.version);
            (version == expected).then(|| {
                user.version += 1;
                let version = Version(user.version);
                user.stored = Some(Stored::new(grant.clone(), version));
                version
            })
        });
        Box::pin(std::future::ready(Ok(saved)))
    }

    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        let now = Instant::now();
        let given = self.edit(key, |user| {
            let is_held = user.lease.as_ref().is_some_and(|(_, until)| now < *until);
            (!is_held).then(|| {
                let lease = Lease::new();
                user.lease = Some((lease.clone(), now + time));
                lease
            })
        });
        Box::pin(std::future::ready(Ok(given)))
    }

    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        self.edit(key, |user| drop(user.lease.take_if(|(held, _)| *held == lease)));
        Box::pin(std::future::ready(Ok(())))
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        let is_deleted =
            self.edit(key, |user| user.stored.take_if(|stored| stored.version == expected).is_some());
        Box::pin(std::future::ready(Ok(is_deleted)))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("users", &self.users().len()).finish()
    }
}
