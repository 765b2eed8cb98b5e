//! Where users' tokens live: [`TokenStore`], and what implements it.
//!
//! | store | shared by | lost with |
//! | --- | --- | --- |
//! | [`MemoryStore`] | the tasks of one process | the process: users authorise again |
#![cfg_attr(feature = "redis", doc = "| [`RedisStore`] | all replicas | the Redis: let it write to disk |")]

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::error::BoxError;
use crate::escape::Escaped;
use crate::oauth::Grant;

mod memory;
#[cfg(feature = "redis")]
mod redis;

pub use memory::MemoryStore;
#[cfg(feature = "redis")]
pub use redis::RedisStore;

/// What a store's methods return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps what users have granted, under keys that the caller chooses
/// ([`UserTokens::store_key`](crate::oauth::UserTokens::store_key)).
///
/// A refresh token is spent by its use, so whoever uses it has to be alone with it: by a [lease](Self::lease)
/// among those who ask, and by a version that a [save](Self::save) has to name against those who come late.
///
/// # Cancel safety
///
/// A future that is dropped may have had its effect, or not. Callers of [`save`](Self::save) must not drop it.
pub trait TokenStore: Send + Sync + 'static {
    /// What is stored under `key`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store cannot be asked, or what is stored [cannot be read](StoreError::unreadable).
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>>;

    /// Stores `grant` if what is there has the version `expected` ([`Version::NONE`]: if nothing is there). Returns
    /// the new version, or `None` if something else is there by now.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it is not known to be stored.
    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>>;

    /// The right to refresh what is under `key`, for `time` at the most; `None` if another holds it.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store cannot be asked. That is not the same as a lease that is held.
    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>>;

    /// Gives a lease back; one that has run out meanwhile, and is another's now, stays with that one.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store cannot be asked. Then the lease runs out by itself.
    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()>;

    /// Forgets what is under `key`, if it has this version. Returns whether it did.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it is not known to be forgotten.
    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool>;
}

/// A grant as it was found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stored {
    /// What the user has granted.
    pub grant: Grant,
    /// What a save in its place has to name.
    pub version: Version,
}

impl Stored {
    /// What a store found.
    pub fn new(grant: Grant, version: Version) -> Self {
        Self { grant, version }
    }
}

/// Counts the saves under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u64);

impl Version {
    /// Of what is not there.
    pub const NONE: Self = Self(0);
}

/// The right to refresh one user's tokens. It names its owner, so that nobody else gives it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease(String);

impl Lease {
    /// A lease of a new owner.
    pub fn new() -> Self {
        Self(oauth2::CsrfToken::new_random().into_secret())
    }

    /// The owner's name, which no other has.
    pub fn owner(&self) -> &str {
        &self.0
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a store did not answer. It shows nothing of what is stored.
#[derive(Clone)]
pub struct StoreError {
    message: &'static str,
    /// `None`: it cannot be asked now.
    unreadable: Option<Version>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl StoreError {
    /// The store cannot be asked now; later it may.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        let source = Some(Arc::from(source.into()));
        Self { message: "the token store cannot be reached", unreadable: None, source }
    }

    /// What is stored, with this version, cannot be read: it is damaged, or sealed with another key. The version lets the
    /// user's next sign-in replace it, and a sign-out delete it.
    pub fn unreadable(version: Version) -> Self {
        let message = "what the token store holds cannot be read: it is damaged, or sealed with another key";
        Self { message, unreadable: Some(version), source: None }
    }

    /// Whether the store could not be asked, so that a later try may succeed.
    pub fn is_unavailable(&self) -> bool {
        self.unreadable.is_none()
    }

    /// The version of what is there and cannot be read.
    pub fn unreadable_version(&self) -> Option<Version> {
        self.unreadable
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreError")
            .field("message", &self.message)
            .field("source", &self.source.as_ref().map(Escaped))
            .finish()
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
