//! [`RedisStore`]: for all replicas.

use std::fmt;
use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::{Client, FromRedisValue, IntoConnectionInfo};

mod connection;
mod grants;
mod preferences;
mod question;
mod seal;
mod server;

use connection::tcp_settings;
use question::Question;
use seal::Seal;
use server::Server;

use super::StoreError;
use crate::error::Error;

/// How long one question may take. A token that nobody can look up is no faster for being waited for.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// A little longer than Coze's refresh tokens live.
const DEFAULT_TTL: Duration = Duration::from_secs(31 * 24 * 3600);

const DEFAULT_PREFIX: &str = "tower-credential-fallback";

/// Keeps grants in a Redis, or a Redis Cluster, that all replicas share.
///
/// It connects when it is first asked. Every question takes one round trip, and two seconds at the most. It is asked again,
/// within that time, if the server has turned it down (it is starting, it was demoted, the slot has moved), or if its
/// answer was lost and would be the same again. A save or a deletion whose answer was lost is an error, on a cluster
/// too: it may have been done.
///
/// A connection on which nothing comes back, or which leads to a server that may not write, is given up: the next one leads
/// to where the address leads then. So a failover needs no restart of the application.
///
/// For TLS (`rediss://…`), turn on the feature `redis-tls`. Certificates are checked against the system's roots; for
/// others, or for a client certificate, make a [`redis::Client`] and turn it [into](#impl-From<Client>-for-RedisStore) a
/// store, or a [`ClusterClientBuilder`](#impl-TryFrom<ClusterClientBuilder>-for-RedisStore). If no `rustls` provider was
/// installed for the process by the time of the first connection, aws-lc-rs is.
///
/// # What Redis has to keep
///
/// - A grant that Redis loses is lost: the user authorises again. So let it write to disk before it answers
///   (`appendonly yes`, `appendfsync always`).
/// - `maxmemory-policy noeviction`. The `volatile-*` and `allkeys-*` policies drop what has an expiry, as all keys here do:
///   leases, which end soonest, are first in line with `volatile-ttl`. Without its lease, a refresh is no longer alone with
///   its token; without its grant, a user authorises again.
/// - What a replica of Redis has not received is lost in a failover; Redis answers before its replicas have it. If that is
///   the mark which says that a refresh token is being sent, the token may be sent a second time, which some servers take
///   for a theft, and end the user's grant for. `min-replicas-to-write` makes that rarer, not impossible.
/// - The commands `EVAL`, `GET`, `SET`, `DEL`, `HGET`, `HMGET`, `HSET`, `HDEL`, `HEXISTS`, `PEXPIRE`; for preferences `XADD`
///   and `XRANGE` too; on a cluster, also `CLUSTER`, `PING` and `ASKING`.
///
/// # Keys
///
/// Keys are `prefix:{key}:grant` and `prefix:{key}:lease`, where `key` is the store's key of a user
/// ([`UserTokens::store_key`](crate::oauth::UserTokens::store_key)); both are in the same slot of a cluster.
///
/// It is a [`PreferenceLog`](crate::PreferenceLog) too, under `prefix:{preferences}`: what one replica learns of which
/// credential serves which resource, the others know ([`SharedPreferences`](crate::SharedPreferences)).
///
/// ```no_run
/// use tower_credential_fallback::store::RedisStore;
///
/// # fn main() -> Result<(), tower_credential_fallback::Error> {
/// # let key = [0; 32];
/// let store = RedisStore::new("redis://127.0.0.1/")?
///     .with_prefix("my-app:coze")
///     .with_encryption_key(&key);
/// # let _ = store;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    server: Server,
    prefix: String,
    ttl: Duration,
    timeout: Duration,
    seal: Seal,
}

impl RedisStore {
    /// A store in the Redis at this URL, such as `redis://:password@host:6379/0`. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `url`, if it is no such URL. It is not shown:
    /// there may be a password in it.
    pub fn new(url: &str) -> Result<Self, Error> {
        let info = url.into_connection_info().map_err(|_| not_a_url("url"))?;
        let client = Client::open(info.set_tcp_settings(tcp_settings())).map_err(|_| not_a_url("url"))?;
        Ok(client.into())
    }

    /// A store in a Redis Cluster, of which these are some nodes. Does not connect yet.
    ///
    /// Users are served while slots move between nodes. One exception: while a node that has no slots yet is given its very
    /// first one, those whose keys have moved there have to wait for that to end, with errors that say so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `urls`, if one is no such URL, or there is none.
    pub fn cluster<'u>(urls: impl IntoIterator<Item = &'u str>) -> Result<Self, Error> {
        let builder = ClusterClientBuilder::new(urls).tcp_settings(tcp_settings());
        builder.try_into().map_err(|_: Error| not_a_url("urls"))
    }

    fn of(server: Server) -> Self {
        Self {
            server,
            prefix: DEFAULT_PREFIX.to_owned(),
            ttl: DEFAULT_TTL,
            timeout: DEFAULT_TIMEOUT,
            seal: Seal::default(),
        }
    }

    /// What every key begins with. Default: `tower-credential-fallback`. Each application needs its own; the OAuth apps of
    /// one may share it, since [`UserTokens`](crate::oauth::UserTokens) keeps grants by app and user.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a grant is kept after it was saved last. Default: 31 days; a refresh token of Coze lives for 30.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `ttl`, if it is less than a millisecond: Redis counts
    /// in these.
    pub fn with_ttl(mut self, ttl: Duration) -> Result<Self, Error> {
        if ttl < Duration::from_millis(1) {
            return Err(Error::config("ttl", "expected a millisecond or more"));
        }
        self.ttl = ttl;
        Ok(self)
    }

    /// How long one question may take, connecting included. Default: 2 s.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `timeout`, if it is less than a millisecond, or over
    /// an hour.
    pub fn with_timeout(mut self, timeout: Duration) -> Result<Self, Error> {
        if timeout < Duration::from_millis(1) || timeout > Duration::from_secs(3600) {
            return Err(Error::config("timeout", "expected a millisecond to one hour"));
        }
        self.timeout = timeout;
        Ok(self)
    }

    /// Seals what is stored with this key (XChaCha20-Poly1305), together with its own name. Default: no key.
    ///
    /// Of several keys, the first seals and all open: to change keys, put the new one before the old one.
    #[must_use]
    pub fn with_encryption_key(mut self, key: &[u8; 32]) -> Self {
        self.seal.add_key(key);
        self
    }

    /// Braces of the user's name must not end the part that decides on the slot.
    fn key(&self, user: &str, what: &str) -> String {
        let user = user.replace('%', "%25").replace('{', "%7B").replace('}', "%7D");
        format!("{}:{{{user}}}:{what}", self.prefix)
    }

    /// A question that `may_repeat` has the same answer each time.
    async fn ask<T: FromRedisValue>(&self, question: &Question, may_repeat: bool) -> Result<T, StoreError> {
        let answered = self.server.ask(question, may_repeat, self.timeout).await;
        // Redis names the command and its own state, never a value.
        answered.map_err(StoreError::unavailable)
    }
}

impl From<Client> for RedisStore {
    fn from(client: Client) -> Self {
        Self::of(Server::Single { client: client.into(), slot: Default::default() })
    }
}

impl TryFrom<ClusterClientBuilder> for RedisStore {
    type Error = Error;

    /// For a cluster whose nodes need more than a URL. Time limits and retries are the store's own: a client that repeats by
    /// itself would repeat saves as well.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `nodes`, if there is none, or they do not go together.
    fn try_from(builder: ClusterClientBuilder) -> Result<Self, Error> {
        let client = builder.retries(0).overall_response_timeout(None).build();
        let client = client.map_err(|_| {
            Error::config("nodes", "expected one node or more, all with the same user, password and protocol")
        })?;
        Ok(Self::of(Server::Cluster { client: client.into(), slot: Default::default() }))
    }
}

/// At least one: Redis takes no expiry of 0.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 2)
}

fn not_a_url(field: &'static str) -> Error {
    Error::config(
        field,
        "expected a URL such as `redis://host:6379` (`rediss://` needs the feature `redis-tls`)",
    )
}

impl fmt::Debug for RedisStore {
    /// Without the URL: there may be a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .field("ttl", &self.ttl)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
