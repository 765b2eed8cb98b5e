//! What every token store has to do, and one that fails when it is told to.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tower_credential_fallback::oauth::Grant;
use tower_credential_fallback::store::{
    Lease, MemoryStore, StoreError, StoreFuture, Stored, TokenStore, Version,
};

pub fn grant(name: &str) -> Grant {
    Grant::new(format!("a-{name}"), None, Some(format!("r-{name}"))).unwrap()
}

fn name_of(stored: &Stored) -> String {
    let token = stored.grant.refresh_token().unwrap().secret();
    token.trim_start_matches("r-").to_owned()
}

/// The contract of [`TokenStore`], clause by clause. `prefix` keeps the keys of one run apart.
pub async fn keeps_its_contract(store: &dyn TokenStore, prefix: &str) {
    let (alice, bob) = (format!("{prefix}alice"), format!("{prefix}bob"));
    let load = async |key: &str| store.load(key).await.unwrap();
    let save = async |key: &str, name: &str, expected| store.save(key, &grant(name), expected).await.unwrap();

    assert!(load(&alice).await.is_none(), "nothing is there at first");
    assert_eq!(save(&alice, "x", Version(7)).await, None, "what is not there has no version");
    let first = save(&alice, "1", Version::NONE).await.expect("saved");
    assert_ne!(first, Version::NONE);
    let found = load(&alice).await.unwrap();
    assert_eq!((name_of(&found), found.version), ("1".to_owned(), first));
    assert!(load(&bob).await.is_none(), "keys do not touch");

    let second = save(&alice, "2", first).await.expect("saved");
    assert_eq!(save(&alice, "late", first).await, None, "who comes late changes nothing");
    assert_eq!(save(&alice, "late", Version::NONE).await, None);
    assert_eq!(name_of(&load(&alice).await.unwrap()), "2");

    assert!(!store.delete(&alice, first).await.unwrap(), "who comes late deletes nothing");
    assert!(store.delete(&alice, second).await.unwrap());
    assert!(load(&alice).await.is_none());
    assert!(!store.delete(&alice, second).await.unwrap(), "once");
    let third = save(&alice, "3", Version::NONE).await.expect("saved");
    assert!(![first, second].contains(&third), "no version is ever used twice");
    assert_eq!(save(&alice, "late", second).await, None, "even by who knew what was deleted");

    let minute = Duration::from_secs(60);
    let lease = store.lease(&alice, minute).await.unwrap().expect("free");
    assert!(store.lease(&alice, minute).await.unwrap().is_none(), "held");
    let bobs = store.lease(&bob, minute).await.unwrap().expect("leases do not touch");
    store.release(&alice, bobs.clone()).await.unwrap();
    assert!(store.lease(&alice, minute).await.unwrap().is_none(), "only its owner gives it back");
    store.release(&alice, lease.clone()).await.unwrap();
    store.release(&alice, lease).await.unwrap();
    store.release(&bob, bobs).await.unwrap();

    let short = store.lease(&alice, Duration::from_millis(50)).await.unwrap().expect("free");
    // By the store's own clock, which the test cannot set.
    let next = loop {
        match store.lease(&alice, minute).await.unwrap() {
            Some(next) => break next,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    store.release(&alice, short).await.unwrap();
    assert!(store.lease(&alice, minute).await.unwrap().is_none(), "a lease that ran out frees nobody else's");
    store.release(&alice, next).await.unwrap();

    // Names of all sorts are told apart.
    let odd = ["", "a:b", "{a}b", "a{b}", "%7Ba}", "ü \n\0", "grant", "*"];
    for key in odd {
        let key = format!("{prefix}{key}");
        assert!(save(&key, &key.len().to_string(), Version::NONE).await.is_some(), "{key:?}");
    }

    // One of many wins, each time.
    let mut version = Version::NONE;
    let key = format!("{prefix}contended");
    for round in 0..20 {
        let names: Vec<String> = (0..8).map(|n| format!("{round}-{n}")).collect();
        let saves = names.iter().map(|name| save(&key, name, version));
        let saved: Vec<_> = futures::future::join_all(saves).await;
        let winners: Vec<_> = saved.iter().enumerate().filter(|(_, saved)| saved.is_some()).collect();
        let [(winner, Some(new))] = winners[..] else { panic!("round {round}: {saved:?}") };
        assert_eq!(name_of(&load(&key).await.unwrap()), names[winner]);
        version = *new;
    }
}

/// A memory store that can be down, and that counts.
#[derive(Debug, Default)]
pub struct FaultyStore {
    inner: MemoryStore,
    is_down: AtomicBool,
    /// Down for saves alone, after so many more.
    saves_left: AtomicU64,
    is_counting_saves: AtomicBool,
    /// Down for deletions alone, after so many more.
    deletes_left: Mutex<Option<u64>>,
    is_unreadable: AtomicBool,
    save_time: Mutex<Duration>,
    next_save: Mutex<Option<Lie>>,
    late: Mutex<Option<(String, Grant, Version)>>,
}

/// What a store says of a save that is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It was taken, and the answer is an error.
    Failed,
    /// It was taken, and the answer is that something else is there: the save was sent twice, say.
    Changed,
    /// It was taken, the answer is an error, and that was the last one.
    FailedAndDown,
    /// The answer is an error, and it is taken later: see [`FaultyStore::apply_late_save`].
    Late,
}

impl FaultyStore {
    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Takes so many more saves, and then none; `None`: all.
    pub fn set_saves_left(&self, saves: Option<u64>) {
        self.saves_left.store(saves.unwrap_or(0), Ordering::SeqCst);
        self.is_counting_saves.store(saves.is_some(), Ordering::SeqCst);
    }

    /// As saves.
    pub fn set_deletes_left(&self, deletes: Option<u64>) {
        *self.deletes_left.lock().unwrap() = deletes;
    }

    /// What is there cannot be read.
    pub fn set_unreadable(&self, is_unreadable: bool) {
        self.is_unreadable.store(is_unreadable, Ordering::SeqCst);
    }

    pub fn set_save_time(&self, time: Duration) {
        *self.save_time.lock().unwrap() = time;
    }

    pub fn lie_about_next_save(&self, lie: Lie) {
        *self.next_save.lock().unwrap() = Some(lie);
    }

    /// The save that was on its way all the time arrives.
    pub async fn apply_late_save(&self) -> Option<Version> {
        let (key, grant, expected) = self.late.lock().unwrap().take().expect("a late save");
        self.inner.save(&key, &grant, expected).await.unwrap()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.is_down.load(Ordering::SeqCst) { Err(StoreError::unavailable("no route")) } else { Ok(()) }
    }

    fn check_save(&self) -> Result<(), StoreError> {
        let take = |left: u64| left.checked_sub(1);
        let is_over = self.is_counting_saves.load(Ordering::SeqCst)
            && self.saves_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err();
        if is_over { Err(StoreError::unavailable("no route")) } else { self.check() }
    }
}

impl TokenStore for FaultyStore {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            self.check()?;
            match self.inner.load(key).await? {
                Some(stored) if self.is_unreadable.load(Ordering::SeqCst) => {
                    Err(StoreError::unreadable(stored.version))
                }
                stored => Ok(stored),
            }
        })
    }

    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        Box::pin(async move {
            self.check_save()?;
            let time = *self.save_time.lock().unwrap();
            tokio::time::sleep(time).await;
            let lie = self.next_save.lock().unwrap().take();
            if lie == Some(Lie::Late) {
                *self.late.lock().unwrap() = Some((key.to_owned(), grant.clone(), expected));
                return Err(StoreError::unavailable("no answer in time"));
            }
            let saved = self.inner.save(key, grant, expected).await;
            match lie {
                None => saved,
                Some(Lie::Changed) => Ok(None),
                Some(lie) => {
                    self.set_down(lie == Lie::FailedAndDown);
                    Err(StoreError::unavailable("no answer in time"))
                }
            }
        })
    }

    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            self.check()?;
            self.inner.lease(key, time).await
        })
    }

    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.check()?;
            self.inner.release(key, lease).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            self.check()?;
            if let Some(left) = self.deletes_left.lock().unwrap().as_mut() {
                *left = left.checked_sub(1).ok_or_else(|| StoreError::unavailable("no route"))?;
            }
            self.inner.delete(key, expected).await
        })
    }
}
