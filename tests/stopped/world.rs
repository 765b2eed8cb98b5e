//! [`World`]: a Redis, an identity server, and the replica that goes on. [`Replica`]: the one that is stopped.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};
use tower_credential_fallback::oauth::{Grant, UserId, UserTokens};
use tower_credential_fallback::store::{RedisStore, TokenStore, Version};

use crate::identity::{HOUR, Identity};
use crate::replica::{self, LEASE, Point, SETUP, Setup, TOLD};
use crate::servers::{RedisServer, send_signal};
use crate::users::marked;

/// Longer than anything takes on a busy machine. It ends what hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of a replica that is stopped for a moment, and not to be taken for dead.
const LONG_LEASE: Duration = Duration::from_secs(300);

/// What a call ended in. A token and a login page are an end; a failure may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    /// With this access token.
    Served(String),
    ToldToAuthorize,
    Failed(String),
}

pub(crate) struct World {
    pub(crate) identity: Identity,
    redis: RedisServer,
    store: Arc<RedisStore>,
    tokens: UserTokens,
    users: AtomicUsize,
}

impl World {
    pub(crate) async fn start() -> Self {
        let (identity, redis) = (Identity::start().await, RedisServer::start());
        let store = Arc::new(RedisStore::new(&redis.url()).unwrap());
        let tokens = replica::tokens(&identity.token_url(), Arc::clone(&store) as _, LEASE);
        Self { identity, redis, store, tokens, users: AtomicUsize::new(0) }
    }

    pub(crate) async fn user_with_an_ended_token(&self) -> UserId {
        let user = self.new_user();
        self.store(&user, &self.ended(&user)).await;
        user
    }

    pub(crate) async fn user_with_the_mark_of_a_dead_replica(&self) -> UserId {
        let user = self.new_user();
        self.store(&user, &marked(&self.ended(&user))).await;
        user
    }

    fn new_user(&self) -> UserId {
        UserId::new(format!("user-{}", self.users.fetch_add(1, Ordering::Relaxed)))
    }

    fn ended(&self, user: &UserId) -> Grant {
        self.identity.grant(user, SystemTime::now() - HOUR)
    }

    async fn store(&self, user: &UserId, grant: &Grant) {
        let key = self.tokens.store_key(user);
        self.store.save(&key, grant, Version::NONE).await.unwrap().expect("a new user");
    }

    /// At the replica that goes on.
    pub(crate) async fn call(&self, user: &UserId) -> Ended {
        replica::call(&self.tokens, user).await
    }

    /// … again, while it has no token for a reason that passes.
    pub(crate) async fn call_until_it_ends(&self, user: &UserId) -> Ended {
        let ended = timeout(PATIENCE, replica::call_until_it_ends(&self.tokens, user)).await;
        ended.expect("a token, or a login page")
    }

    /// The user authorizes again. Returns what calls have to end in from then on.
    pub(crate) async fn log_in(&self, user: &UserId) -> Ended {
        let grant = self.identity.grant(user, SystemTime::now() + HOUR);
        self.tokens.sign_in(user, &grant).await.unwrap();
        Ended::Served(self.identity.newest(user))
    }

    pub(crate) fn newest(&self, user: &UserId) -> String {
        self.identity.newest(user)
    }

    pub(crate) fn times_sent(&self, user: &UserId) -> Vec<usize> {
        self.identity.times_sent(user)
    }
}

/// A process.
pub(crate) struct Replica {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Replica {
    /// It begins with a call for this user.
    pub(crate) fn start(world: &World, user: &UserId, point: Point) -> Self {
        Self::start_with(world, user, point, LEASE)
    }

    pub(crate) fn start_with_long_lease(world: &World, user: &UserId, point: Point) -> Self {
        Self::start_with(world, user, point, LONG_LEASE)
    }

    fn start_with(world: &World, user: &UserId, point: Point, lease: Duration) -> Self {
        if point == Point::Exchange {
            world.identity.hold(user);
        }
        let setup = Setup {
            user: user.as_str().to_owned(),
            point,
            token_url: world.identity.token_url(),
            redis: world.redis.url(),
            lease,
        };
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "replica_process", "--ignored", "--nocapture"])
            .env(SETUP, serde_json::to_string(&setup).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, input, output: BufReader::new(output).lines() }
    }

    /// Waits until it is there. It goes no further.
    pub(crate) async fn reaches(&mut self, point: Point) {
        assert_eq!(self.hears::<Point>().await, point);
    }

    /// SIGSTOP.
    pub(crate) async fn stop(&self) {
        let id = self.id();
        send_signal(id, "STOP");
        // The signal is on its way. Elsewhere than on Linux, nothing tells when it has arrived.
        while cfg!(target_os = "linux") {
            let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            if status.rsplit(')').next().unwrap().trim_start().starts_with('T') {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// SIGCONT. Returns what its user's calls end in.
    pub(crate) async fn goes_on(&mut self) -> Ended {
        send_signal(self.id(), "CONT");
        self.says("go").await;
        self.hears().await
    }

    /// Makes calls until they end.
    pub(crate) async fn calls(&mut self) -> Ended {
        self.says("call").await;
        self.hears().await
    }

    /// Waits until nothing is under way in it any more.
    pub(crate) async fn settles(&mut self) {
        self.says("settle").await;
        assert_eq!(self.hears::<String>().await, "settled");
    }

    /// SIGKILL.
    pub(crate) async fn is_killed(&mut self) {
        self.process.kill().await.unwrap();
    }

    fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    async fn says(&mut self, word: &str) {
        self.input.write_all(format!("{word}\n").as_bytes()).await.unwrap();
    }

    async fn hears<T: DeserializeOwned>(&mut self) -> T {
        let hears = async {
            loop {
                let line = self.output.next_line().await.unwrap().expect("it runs");
                if let Some(told) = line.strip_prefix(TOLD) {
                    break serde_json::from_str(told).unwrap();
                }
            }
        };
        timeout(PATIENCE, hears).await.expect("a word of the replica")
    }
}
