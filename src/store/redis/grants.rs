//! Grants and leases in Redis: [`TokenStore`].

use std::time::Duration;

use super::question::Script;
use super::{RedisStore, milliseconds};
use crate::oauth::Grant;
use crate::store::{Lease, StoreError, StoreFuture, Stored, TokenStore, Version};

/// `KEYS[1]` is a hash of `v`, the version, and `d`, the grant. Saves if the version is `ARGV[1]`, 0 for none. A
/// deleted grant leaves its version, so that none is ever used twice.
static SAVE: Script = Script::new(
    r"
local version = redis.call('HGET', KEYS[1], 'v') or '0'
local known = version
if redis.call('HEXISTS', KEYS[1], 'd') == 0 then known = '0' end
if known ~= ARGV[1] then return 0 end
version = version + 1
redis.call('HSET', KEYS[1], 'v', version, 'd', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return version",
);

static LOAD: Script = Script::new("return redis.call('HMGET', KEYS[1], 'v', 'd')");

static DELETE: Script = Script::new(
    r"
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'd')",
);

static LEASE: Script = Script::new(
    r"
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0",
);

static RELEASE: Script = Script::new(
    r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0",
);

impl TokenStore for RedisStore {
    fn load<'a>(&'a self, user: &'a str) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let key = self.key(user, "grant");
            let found: (Option<u64>, Option<Vec<u8>>) = self.ask(&LOAD.key(&key), true).await?;
            let (Some(version), Some(value)) = found else { return Ok(None) };
            let version = Version(version);
            let grant = self.seal.open(&key, value).and_then(|bytes| Grant::from_bytes(&bytes));
            let grant = grant.ok_or_else(|| StoreError::unreadable(version))?;
            Ok(Some(Stored::new(grant, version)))
        })
    }

    fn save<'a>(
        &'a self,
        user: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        Box::pin(async move {
            let key = self.key(user, "grant");
            let value = self.seal.close(&key, grant.to_bytes())?;
            let mut question = SAVE.key(&key);
            question.arg(expected.0).arg(value).arg(milliseconds(self.ttl));
            let version: u64 = self.ask(&question, false).await?;
            Ok((version != 0).then_some(Version(version)))
        })
    }

    fn lease<'a>(&'a self, user: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            let lease = Lease::new();
            let mut question = LEASE.key(self.key(user, "lease"));
            question.arg(lease.owner()).arg(milliseconds(time));
            let is_given: bool = self.ask(&question, true).await?;
            Ok(is_given.then_some(lease))
        })
    }

    fn release<'a>(&'a self, user: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut question = RELEASE.key(self.key(user, "lease"));
            question.arg(lease.owner());
            self.ask::<i64>(&question, true).await.map(drop)
        })
    }

    fn delete<'a>(&'a self, user: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let mut question = DELETE.key(self.key(user, "grant"));
            question.arg(expected.0);
            self.ask(&question, false).await
        })
    }
}
