//! A soak: eight replicas of an application, each a process, act for fifty users whose tokens live two seconds. They
//! share a Redis. Replicas are killed, half of them in the middle of a refresh; Redis is killed twice.
//!
//! `tests/soak/run` runs it, for `SOAK_SECONDS` (default there: 60). `cargo test` alone does not.
//!
//! Safety alone decides the exit status (`soak/verdict.rs`). How many calls are answered depends on the machine: that is
//! printed. `tests/fleet.rs` proves more, in virtual time.

mod replica;
mod run;
#[path = "../support/redis.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/oauth.rs"]
mod users;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{OAuthClient, UserId, UserTokens};
use tower_credential_fallback::store::{RedisStore, TokenStore};
use users::http_client;

const REPLICAS: usize = 8;
const USERS: usize = 50;
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);
const REDIS_RESTARTS: usize = 2;

/// Two and a half seconds of it are kept for the save; the exchange has the rest: more than a machine takes that all of
/// the fleet keeps busy.
const LEASE: Duration = Duration::from_secs(6);

/// How long a call may wait for its token: less than a lease.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than any call may take.
const HANG: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match &arguments[1..] {
        [role, setup] if role == "replica" => {
            runtime.block_on(replica::run(serde_json::from_str(setup).unwrap()));
            ExitCode::SUCCESS
        }
        _ => match std::env::var("SOAK_SECONDS") {
            Err(_) => {
                println!("the soak runs on demand: tests/soak/run");
                ExitCode::SUCCESS
            }
            Ok(seconds) => {
                let seconds = seconds.parse().expect("SOAK_SECONDS is a number");
                runtime.block_on(run::run(Duration::from_secs(seconds)))
            }
        },
    }
}

/// What a replica has to know.
#[derive(Clone, Serialize, Deserialize)]
struct Setup {
    coze: String,
    client_id: String,
    client_secret: String,
    redis: String,
    /// Each user's bot.
    bots: Vec<String>,
}

impl Setup {
    fn region(&self) -> Region {
        Region::custom(&self.coze).unwrap()
    }

    fn client(&self) -> OAuthClient {
        let config = coze::user_app(&self.region(), &self.client_id)
            .with_client_secret(&self.client_secret)
            .with_redirect_uri(users::CALLBACK);
        OAuthClient::new(http_client(), config).unwrap()
    }

    fn store(&self) -> RedisStore {
        RedisStore::new(&self.redis).unwrap().with_encryption_key(&[9; 32])
    }

    fn tokens(&self, store: Arc<dyn TokenStore>) -> UserTokens {
        UserTokens::builder(self.client(), store, |user| format!("{}{}", users::LOGIN, user.as_str()))
            .with_load_timeout(LOAD_TIMEOUT)
            .with_lease(LEASE)
            .build()
            .unwrap()
    }
}

fn user(n: usize) -> UserId {
    UserId::new(format!("user-{n}"))
}
