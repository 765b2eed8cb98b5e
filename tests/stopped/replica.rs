//! What runs in a replica's process. It does what its parent says, a line for each thing, and tells what came of it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Notify;
use tokio::time::sleep;
use tower_credential_fallback::oauth::{Grant, OAuthClient, UserId, UserTokens};
use tower_credential_fallback::store::{Lease, RedisStore, StoreFuture, Stored, TokenStore, Version};

use crate::identity::config;
use crate::users::{http_client, secret_of};
use crate::world::Ended;

/// Under which the process is told its [`Setup`].
pub(crate) const SETUP: &str = "STOPPED_REPLICA";

/// What each line begins with that is for the parent.
pub(crate) const TOLD: &str = "> ";

/// The shortest there is: the other replica waits for its end.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(4);

/// Where a replica waits for its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Point {
    BeforeMark,
    AfterMark,
    /// Nowhere: the identity server holds the answer back.
    Exchange,
    BeforeSave,
    BeforeDeletion,
}

/// What a replica has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) user: String,
    pub(crate) point: Point,
    pub(crate) token_url: String,
    pub(crate) redis: String,
    pub(crate) lease: Duration,
}

pub(crate) fn tokens(token_url: &str, store: Arc<dyn TokenStore>, lease: Duration) -> UserTokens {
    let client = OAuthClient::new(http_client(), config(token_url)).unwrap();
    UserTokens::builder(client, store, |_| "https://app.example.com/login".to_owned())
        .with_load_timeout(LOAD_TIMEOUT)
        .with_lease(lease)
        .build()
        .unwrap()
}

pub(crate) async fn call(tokens: &UserTokens, user: &UserId) -> Ended {
    match tokens.get(user).await {
        Ok(credential) => Ended::Served(secret_of(&credential)),
        Err(error) if error.authorize_url().is_some() => Ended::ToldToAuthorize,
        Err(error) => Ended::Failed(error.to_string()),
    }
}

/// … again, while there is no token for a reason that passes.
pub(crate) async fn call_until_it_ends(tokens: &UserTokens, user: &UserId) -> Ended {
    loop {
        match call(tokens, user).await {
            Ended::Failed(_) => sleep(Duration::from_millis(100)).await,
            ended => break ended,
        }
    }
}

/// One write, after a line end: the test runner writes to the same output.
fn tell(what: &impl Serialize) {
    let line = format!("\n{TOLD}{}\n", serde_json::to_string(what).unwrap());
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// Begins with a call. Does what its input says until that ends.
pub(crate) fn run() {
    let Ok(setup) = std::env::var(SETUP) else { return };
    let setup: Setup = serde_json::from_str(&setup).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let go = Arc::<Notify>::default();
        let store = Waiting {
            store: RedisStore::new(&setup.redis).unwrap(),
            point: setup.point,
            has_waited: AtomicBool::new(false),
            go: Arc::clone(&go),
        };
        let tokens = tokens(&setup.token_url, Arc::new(store), setup.lease);
        let user = UserId::new(&setup.user);
        let begin_call = || {
            let (tokens, user) = (tokens.clone(), user.clone());
            tokio::spawn(async move { tell(&call_until_it_ends(&tokens, &user).await) });
        };
        begin_call();
        let mut input = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = input.next_line().await {
            match line.as_str() {
                "go" => go.notify_one(),
                "call" => begin_call(),
                "settle" => {
                    tokens.settle().await;
                    tell(&"settled");
                }
                other => panic!("the parent says {other}"),
            }
        }
    });
}

/// A store that waits at one point, once.
struct Waiting {
    store: RedisStore,
    point: Point,
    has_waited: AtomicBool,
    go: Arc<Notify>,
}

impl Waiting {
    async fn reaches(&self, point: Point) {
        if point == self.point && !self.has_waited.swap(true, Ordering::SeqCst) {
            tell(&point);
            self.go.notified().await;
        }
    }
}

fn is_mark(grant: &Grant) -> bool {
    let grant: serde_json::Value = serde_json::from_slice(&grant.to_bytes()).unwrap();
    grant.get("being_spent_by").is_some()
}

impl TokenStore for Waiting {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>> {
        self.store.load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        Box::pin(async move {
            let is_mark = is_mark(grant);
            self.reaches(if is_mark { Point::BeforeMark } else { Point::BeforeSave }).await;
            let saved = self.store.save(key, grant, expected).await;
            if is_mark {
                self.reaches(Point::AfterMark).await;
            }
            saved
        })
    }

    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        self.store.lease(key, time)
    }

    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        self.store.release(key, lease)
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            self.reaches(Point::BeforeDeletion).await;
            self.store.delete(key, expected).await
        })
    }
}
