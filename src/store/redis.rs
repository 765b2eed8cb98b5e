//! [`RedisStore`]: for all replicas.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Client, FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::seal::Seal;
use super::{Lease, StoreError, StoreFuture, Stored, TokenStore, Version};
use crate::error::Error;
use crate::oauth::Grant;

/// How long one question may take. A token that nobody can look up is no faster for being waited for.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// A little longer than Coze's refresh tokens live.
const DEFAULT_TTL: Duration = Duration::from_secs(31 * 24 * 3600);

const DEFAULT_PREFIX: &str = "tower-credential-fallback";

/// `KEYS[1]` is a hash of `v`, the version, and `d`, the grant. Saves if the version is `ARGV[1]`, 0 for none. A
/// deleted grant leaves its version, so that none is ever used twice.
const SAVE: &str = r"
local version = redis.call('HGET', KEYS[1], 'v') or '0'
local known = version
if redis.call('HEXISTS', KEYS[1], 'd') == 0 then known = '0' end
if known ~= ARGV[1] then return 0 end
version = version + 1
redis.call('HSET', KEYS[1], 'v', version, 'd', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return version";

const LOAD: &str = "return redis.call('HMGET', KEYS[1], 'v', 'd')";

const DELETE: &str = r"
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'd')";

const LEASE: &str = r"
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0";

const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Keeps grants in a Redis, or a Redis Cluster, that all replicas share.
///
/// It connects when it is first asked, and again when the connection is lost. Every question takes one round trip,
/// and two seconds at the most.
///
/// For TLS (`rediss://…`), turn on the feature `redis-tls`. Certificates are checked against the system's roots; for
/// others, or for a client certificate, make a [`redis::Client`] and turn it [into](#impl-From<Client>-for-RedisStore) a
/// store. If no `rustls` provider was installed for the process by the time of the first connection, aws-lc-rs is.
///
/// A grant that Redis loses is lost: the user authorises again. So let it write to disk before it answers
/// (`appendonly yes`, `appendfsync always`); a failover to a replica that is behind loses as well.
///
/// Keys are `prefix:{user}:grant` and `prefix:{user}:lease`; of one user, both are in the same slot of a cluster.
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
    scripts: Arc<Scripts>,
}

#[derive(Clone)]
enum Server {
    Single { client: Box<Client>, connection: Arc<OnceCell<ConnectionManager>> },
    Cluster { client: Box<ClusterClient>, connection: Arc<OnceCell<ClusterConnection>> },
}

struct Scripts {
    load: redis::Script,
    save: redis::Script,
    delete: redis::Script,
    lease: redis::Script,
    release: redis::Script,
}

impl RedisStore {
    /// A store in the Redis at this URL, such as `redis://:password@host:6379/0`. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `url`, if it is no such URL. It is not shown:
    /// there may be a password in it.
    pub fn new(url: &str) -> Result<Self, Error> {
        let client = Client::open(url).map_err(|_| not_a_url("url"))?;
        Ok(client.into())
    }

    /// A store in a Redis Cluster, of which these are some nodes. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `urls`, if one is no such URL, or there is none.
    pub fn cluster<'u>(urls: impl IntoIterator<Item = &'u str>) -> Result<Self, Error> {
        let client =
            ClusterClient::new(urls.into_iter().collect::<Vec<_>>()).map_err(|_| not_a_url("urls"))?;
        Ok(client.into())
    }

    fn of(server: Server) -> Self {
        let script = redis::Script::new;
        let scripts = Scripts {
            load: script(LOAD),
            save: script(SAVE),
            delete: script(DELETE),
            lease: script(LEASE),
            release: script(RELEASE),
        };
        Self {
            server,
            prefix: DEFAULT_PREFIX.to_owned(),
            ttl: DEFAULT_TTL,
            timeout: DEFAULT_TIMEOUT,
            seal: Seal::default(),
            scripts: scripts.into(),
        }
    }

    /// What every key begins with. Default: `tower-credential-fallback`. Each OAuth app needs its own.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a grant is kept after it was saved last. Default: 31 days; a refresh token of Coze lives for 30.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long one question may take, connecting included. Default: 2 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
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

    /// Asks once, or, if the answer is the same each time, once more after a failure: the connection may have been lost
    /// long ago, and nobody has noticed.
    async fn ask<T: FromRedisValue>(
        &self,
        question: &ScriptInvocation<'_>,
        may_repeat: bool,
    ) -> Result<T, StoreError> {
        let asked = async {
            match self.server.ask(question, self.timeout).await {
                Err(error) if may_repeat && error.is_connection_dropped() => {
                    self.server.ask(question, self.timeout).await
                }
                answered => answered,
            }
        };
        let answered: Result<T, RedisError> =
            timeout(self.timeout, asked).await.map_err(|_| StoreError::unavailable("no answer in time"))?;
        // Redis names the command and its own state, never a value.
        answered.map_err(StoreError::unavailable)
    }
}

impl Server {
    async fn ask<T: FromRedisValue>(
        &self,
        question: &ScriptInvocation<'_>,
        patience: Duration,
    ) -> Result<T, RedisError> {
        match self {
            Self::Single { client, connection } => {
                let connect = async || {
                    choose_crypto();
                    let config = ConnectionManagerConfig::new()
                        .set_connection_timeout(Some(patience))
                        .set_response_timeout(Some(patience))
                        .set_number_of_retries(1);
                    ConnectionManager::new_with_config(Client::clone(client), config).await
                };
                let mut connection = connection.get_or_try_init(connect).await?.clone();
                question.invoke_async(&mut connection).await
            }
            Self::Cluster { client, connection } => {
                let connect = async || {
                    choose_crypto();
                    client.get_async_connection().await
                };
                let mut connection = connection.get_or_try_init(connect).await?.clone();
                question.invoke_async(&mut connection).await
            }
        }
    }
}

/// rustls panics if the process has not chosen, and its crates enable none or several.
fn choose_crypto() {
    #[cfg(feature = "redis-tls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else was faster: as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

impl From<Client> for RedisStore {
    fn from(client: Client) -> Self {
        Self::of(Server::Single { client: client.into(), connection: Default::default() })
    }
}

impl From<ClusterClient> for RedisStore {
    fn from(client: ClusterClient) -> Self {
        Self::of(Server::Cluster { client: client.into(), connection: Default::default() })
    }
}

fn not_a_url(field: &'static str) -> Error {
    Error::config(
        field,
        "expected a URL such as `redis://host:6379` (`rediss://` needs the feature `redis-tls`)",
    )
}

impl TokenStore for RedisStore {
    fn load<'a>(&'a self, user: &'a str) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let key = self.key(user, "grant");
            let found: (Option<u64>, Option<Vec<u8>>) = self.ask(&self.scripts.load.key(&key), true).await?;
            let (Some(version), Some(value)) = found else { return Ok(None) };
            let grant =
                Grant::from_bytes(&self.seal.open(&key, value)?).ok_or_else(StoreError::unreadable)?;
            Ok(Some(Stored::new(grant, Version(version))))
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
            let mut question = self.scripts.save.prepare_invoke();
            question.key(&key).arg(expected.0).arg(value).arg(milliseconds(self.ttl));
            let version: u64 = self.ask(&question, false).await?;
            Ok((version != 0).then_some(Version(version)))
        })
    }

    fn lease<'a>(&'a self, user: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            let lease = Lease::new();
            let mut question = self.scripts.lease.prepare_invoke();
            question.key(self.key(user, "lease")).arg(lease.owner()).arg(milliseconds(time));
            let is_given: bool = self.ask(&question, true).await?;
            Ok(is_given.then_some(lease))
        })
    }

    fn release<'a>(&'a self, user: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut question = self.scripts.release.prepare_invoke();
            question.key(self.key(user, "lease")).arg(lease.owner());
            self.ask::<i64>(&question, true).await.map(drop)
        })
    }

    fn delete<'a>(&'a self, user: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let mut question = self.scripts.delete.prepare_invoke();
            question.key(self.key(user, "grant")).arg(expected.0);
            self.ask(&question, false).await
        })
    }
}

/// At least one: Redis takes no expiry of 0.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 2)
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
