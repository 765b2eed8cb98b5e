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
    inner: Mutex<Inner>,
}

struct Inner {
    users: Cache<String, User>,
    /// The last version that was given, to whomever. One for all users, since it has to outlive each of them: a late save
    /// must not mistake a later grant for the one it knew, even if the user was evicted in between.
    last: u64,
}

/// Never empty: there is a grant, or a lease.
#[derive(Clone, Default)]
struct User {
    stored: Option<Stored>,
    lease: Option<(Lease, Instant)>,
}

impl MemoryStore {
    /// A store for 100,000 users.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// A store for so many users, one at least.
    pub fn with_capacity(users: usize) -> Self {
        Self { inner: Mutex::new(Inner { users: Cache::new(users.max(1)), last: 0 }) }
    }

    /// Every change is one assignment: a panic elsewhere leaves nothing half done.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn version(&self, key: &str) -> Version {
        let stored = self.users.get(key).and_then(|user| user.stored.as_ref());
        stored.map_or(Version::NONE, |stored| stored.version)
    }

    /// For changes that leave something there.
    fn put(&mut self, key: &str, change: impl FnOnce(&mut User)) {
        let mut user = self.users.get(key).cloned().unwrap_or_default();
        change(&mut user);
        self.users.insert(key.to_owned(), user);
    }

    /// Takes something away, if there is anything; of a user who has nothing left, no entry stays. It would cost another
    /// user his place.
    fn take<T>(&mut self, key: &str, part: impl FnOnce(&mut User) -> Option<T>) -> Option<T> {
        let mut user = self.users.get_mut(key)?;
        let taken = part(&mut user);
        let is_empty = user.stored.is_none() && user.lease.is_none();
        drop(user);
        if is_empty {
            self.users.remove(key);
        }
        taken
    }
}

impl TokenStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>> {
        let stored = self.inner().users.get(key).and_then(|user| user.stored.clone());
        Box::pin(std::future::ready(Ok(stored)))
    }

    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        let mut inner = self.inner();
        let saved = (inner.version(key) == expected).then(|| {
            inner.last += 1;
            let version = Version(inner.last);
            inner.put(key, |user| user.stored = Some(Stored::new(grant.clone(), version)));
            version
        });
        Box::pin(std::future::ready(Ok(saved)))
    }

    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        let now = Instant::now();
        let mut inner = self.inner();
        let held = inner.users.get(key).and_then(|user| user.lease.as_ref());
        let given = held.is_none_or(|(_, until)| now >= *until).then(|| {
            let lease = Lease::new();
            inner.put(key, |user| user.lease = Some((lease.clone(), now + time)));
            lease
        });
        Box::pin(std::future::ready(Ok(given)))
    }

    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        self.inner().take(key, |user| user.lease.take_if(|(held, _)| *held == lease));
        Box::pin(std::future::ready(Ok(())))
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        let taken = self.inner().take(key, |user| user.stored.take_if(|stored| stored.version == expected));
        Box::pin(std::future::ready(Ok(taken.is_some())))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("users", &self.inner().users.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant::new("a", None, Some("r".to_owned())).unwrap()
    }

    #[tokio::test]
    async fn a_late_save_does_not_replace_the_grant_of_a_later_sign_in_even_if_the_user_was_forgotten_between()
     {
        let store = MemoryStore::with_capacity(1);
        let known = store.save("alice", &grant(), Version::NONE).await.unwrap().unwrap();
        // The cache decides whom it forgets.
        for n in 0.. {
            if store.load("alice").await.unwrap().is_none() {
                break;
            }
            assert!(n < 100, "one place for all");
            store.save(&format!("user-{n}"), &grant(), Version::NONE).await.unwrap().unwrap();
        }
        while store.load("alice").await.unwrap().is_none() {
            store.save("alice", &grant(), Version::NONE).await.unwrap().unwrap();
        }
        assert_eq!(store.save("alice", &grant(), known).await.unwrap(), None);
        assert!(!store.delete("alice", known).await.unwrap());
    }

    #[tokio::test]
    async fn what_changes_nothing_and_what_takes_the_last_away_leaves_no_entry() {
        let store = MemoryStore::new();
        let users = || store.inner().users.len();
        assert_eq!(store.save("alice", &grant(), Version(7)).await.unwrap(), None);
        assert!(!store.delete("alice", Version(7)).await.unwrap());
        store.release("alice", Lease::new()).await.unwrap();
        assert_eq!(users(), 0, "nothing was there");

        let version = store.save("alice", &grant(), Version::NONE).await.unwrap().unwrap();
        let lease = store.lease("alice", Duration::from_secs(60)).await.unwrap().unwrap();
        assert!(store.delete("alice", version).await.unwrap());
        assert_eq!(users(), 1, "the lease is still held");
        store.release("alice", lease).await.unwrap();
        assert_eq!(users(), 0);
    }
}
