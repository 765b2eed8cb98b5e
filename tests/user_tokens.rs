//! `UserTokens`: each user's own token, refreshed once, whatever happens to callers, stores and replicas.
#![cfg(feature = "simulator")]

#[path = "support/stores.rs"]
mod stores;
mod support;
#[path = "support/oauth.rs"]
mod users;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use serde_json::{Value, json};
use stores::{FaultyStore, Lie};
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::coze::simulator::{AccountId, Fault, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{
    Grant, OAuthClient, OAuthConfig, UserId, UserTokens, UserTokensBuilder,
};
use tower_credential_fallback::observe::{Observe, ObserveCall, TokenEvent};
use tower_credential_fallback::store::{MemoryStore, TokenStore, Version};
use tower_credential_fallback::{
    AuthProvider, Credential, CredentialError, CredentialFallbackLayer, NoReplay, Outcome, Rejection,
    RejectionKind, ReplayBody, Slot,
};
use users::{
    LOGIN, Scripted, TestClock, http_client, log_in, marked, refresh_token_of, scripted_config, secret_of,
    users, users_with, web_app,
};

/// A little over the life of a token of Coze's.
const OVER: Duration = Duration::from_secs(16 * 60);

/// Under which a [`Scripted`] server's client stores alice's grant.
const ALICE: &str = "client-1::alice";

/// More than a refresh token is held back after a failure that leaves it open whether it was taken.
const PAUSE: Duration = Duration::from_secs(3);

/// In the last quarter of it.
const STALE: Duration = Duration::from_secs(12 * 60);

/// A simulator, an app, and one user who has logged in.
struct World {
    coze: Simulator,
    clock: TestClock,
    client: OAuthClient,
    account: AccountId,
    alice: UserId,
    store: Arc<FaultyStore>,
}

impl World {
    async fn new() -> Self {
        let coze = Simulator::start().await.unwrap();
        let clock = TestClock::default();
        let (client, account) = (web_app(&coze, &clock), coze.create_account());
        let this = Self { coze, clock, client, account, alice: UserId::new("alice"), store: Arc::default() };
        this.sign_in().await;
        this
    }

    async fn sign_in(&self) -> Grant {
        let grant = log_in(&self.client, &self.account).await;
        self.replica().sign_in(&self.alice, &grant).await.unwrap();
        grant
    }

    /// One more process of the application.
    fn replica(&self) -> UserTokens {
        self.replica_with().build().unwrap()
    }

    fn replica_with(&self) -> UserTokensBuilder {
        users_with(&self.client, &self.store)
    }

    fn key(&self) -> String {
        self.replica().store_key(&self.alice)
    }

    async fn stored(&self) -> Option<Grant> {
        self.store.load(&self.key()).await.unwrap().map(|stored| stored.grant)
    }

    async fn replace(&self, grant: &Grant) {
        let version =
            self.store.load(&self.key()).await.unwrap().map_or(Version::NONE, |stored| stored.version);
        self.store.save(&self.key(), grant, version).await.unwrap().expect("nobody else is there");
    }

    fn refreshes(&self) -> u64 {
        self.coze.refreshes(&self.account)
    }
}

async fn token(tokens: &UserTokens, user: &UserId) -> Result<String, CredentialError> {
    tokens.get(user).await.map(|credential| secret_of(&credential))
}

/// What a store that is down is told by.
fn is_store_down(error: &CredentialError) -> bool {
    error.to_string() == "the token store cannot be reached" && error.authorize_url().is_none()
}

#[tokio::test]
async fn a_thousand_calls_of_one_user_on_two_replicas_make_one_refresh() {
    let world = World::new().await;
    world.clock.advance(OVER);
    let replicas = [world.replica(), world.replica()];
    let calls = (0..1_000).map(|n| token(&replicas[n % 2], &world.alice));
    let mut tokens: Vec<String> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "all have the same");
    assert_eq!((world.refreshes(), world.coze.refresh_tokens_seen_again()), (1, 0));
}

#[tokio::test]
async fn a_token_is_refreshed_before_its_end_and_nobody_waits() {
    let world = World::new().await;
    let replica = world.replica();
    let first = token(&replica, &world.alice).await.unwrap();
    assert_eq!(world.refreshes(), 0);
    world.clock.advance(Duration::from_secs(13 * 60));
    world.coze.inject(Fault::hang().on("/api/permission"));
    assert_eq!(token(&replica, &world.alice).await.unwrap(), first, "at once, though the refresh hangs");
}

#[tokio::test]
async fn a_replica_that_starts_with_a_stale_token_renews_it_once_and_the_others_find_it() {
    let world = World::new().await;
    world.clock.advance(STALE);
    let new = token(&world.replica(), &world.alice).await.unwrap();
    assert_eq!(world.refreshes(), 1);
    assert_eq!(token(&world.replica(), &world.alice).await.unwrap(), new);
    assert_eq!(world.refreshes(), 1);
    assert_eq!(secret_of(&world.stored().await.unwrap().credential().unwrap()), new);
}

#[tokio::test]
async fn a_stale_token_serves_while_another_replica_holds_the_lease_and_an_ended_one_waits_for_it() {
    let world = World::new().await;
    let replica = world.replica_with().with_load_timeout(Duration::from_secs(5)).build().unwrap();
    world.clock.advance(STALE);
    let lease = world.store.lease(&world.key(), Duration::from_secs(60)).await.unwrap().unwrap();
    let first = world.stored().await.unwrap();
    let credential = secret_of(&first.credential().unwrap());
    assert_eq!(token(&replica, &world.alice).await.unwrap(), credential);

    world.clock.advance(OVER - STALE);
    let (waited, ()) = tokio::join!(token(&replica, &world.alice), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(world.refreshes(), 0, "not while another holds the lease");
        world.store.release(&world.key(), lease).await.unwrap();
    });
    assert_ne!(waited.unwrap(), credential);
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn a_lease_that_is_held_for_too_long_is_an_error_of_its_own_kind() {
    let world = World::new().await;
    let replica = world.replica_with().with_load_timeout(Duration::from_millis(300)).build().unwrap();
    world.clock.advance(OVER);
    let _lease = world.store.lease(&world.key(), Duration::from_secs(60)).await.unwrap().unwrap();
    let error = token(&replica, &world.alice).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "another replica, or an earlier call, is refreshing this user's token, and takes too long"
    );
    assert!(error.authorize_url().is_none());
    assert_eq!(world.refreshes(), 0);
}

#[tokio::test]
async fn with_the_store_down_tokens_at_hand_go_on_and_others_get_an_error_that_says_so() {
    let world = World::new().await;
    let (serving, starting) = (world.replica(), world.replica());
    let at_hand = token(&serving, &world.alice).await.unwrap();
    world.store.set_down(true);
    for _ in 0..3 {
        assert_eq!(token(&serving, &world.alice).await.unwrap(), at_hand);
    }
    world.clock.advance(STALE + Duration::from_secs(60));
    assert_eq!(token(&serving, &world.alice).await.unwrap(), at_hand, "to its end");
    let error = token(&starting, &world.alice).await.unwrap_err();
    assert!(is_store_down(&error), "{error}");
    world.clock.advance(OVER);
    let error = token(&world.replica(), &world.alice).await.unwrap_err();
    assert!(is_store_down(&error), "{error}");
    assert!(starting.sign_in(&world.alice, &stores::grant("x")).await.unwrap_err().is_unavailable());
    assert!(starting.sign_out(&world.alice).await.unwrap_err().is_unavailable());
    assert_eq!((world.refreshes(), world.coze.refresh_tokens_seen_again()), (0, 0), "nothing was spent");

    world.store.set_down(false);
    assert_ne!(token(&world.replica(), &world.alice).await.unwrap(), at_hand, "and nothing was lost");
    assert_eq!(world.refreshes(), 1);
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observe for Heard {
    fn call(&self, _: &http::Method, _: &http::Uri) -> Box<dyn ObserveCall> {
        unreachable!("no calls are made")
    }

    fn token(&self, slot: Slot, event: &TokenEvent<'_>) {
        let name = match event {
            TokenEvent::NotSaved { error } => format!("not saved: {error}"),
            TokenEvent::GrantLost => "lost".to_owned(),
            TokenEvent::GrantUnreadable { .. } => "unreadable".to_owned(),
            _ => return,
        };
        self.0.lock().unwrap().push(format!("{slot:?} {name}"));
    }
}

impl Heard {
    fn list(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Counts mints.
#[derive(Clone, Default)]
struct Mints(Arc<AtomicUsize>);

impl Observe for Mints {
    fn call(&self, _: &http::Method, _: &http::Uri) -> Box<dyn ObserveCall> {
        unreachable!("no calls are made")
    }

    fn token(&self, _: Slot, event: &TokenEvent<'_>) {
        self.0.fetch_add(usize::from(matches!(event, TokenEvent::Minted { .. })), Ordering::SeqCst);
    }
}

#[tokio::test]
async fn an_observer_added_later_hears_of_users_at_hand_until_it_is_dropped() {
    let world = World::new().await;
    let replica = world.replica();
    token(&replica, &world.alice).await.unwrap();
    let mints = Mints::default();
    let observe = || {
        CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), replica.clone())
            .unwrap()
            .with_observer(mints.clone())
    };
    for _ in 0..1_000 {
        drop(observe());
    }
    let layer = observe();
    world.clock.advance(OVER);
    token(&replica, &world.alice).await.unwrap();
    assert_eq!((mints.0.load(Ordering::SeqCst), Arc::strong_count(&mints.0)), (1, 2));
    drop(layer);
    world.clock.advance(OVER);
    token(&replica, &world.alice).await.unwrap();
    assert_eq!((mints.0.load(Ordering::SeqCst), Arc::strong_count(&mints.0)), (1, 1));
}

#[tokio::test]
async fn a_new_grant_that_cannot_be_saved_is_used_loudly_and_saved_as_soon_as_it_can_be() {
    let world = World::new().await;
    let heard = Arc::new(Heard::default());
    let replica = world.replica();
    let observer: Arc<dyn Observe> = heard.clone();
    replica.observed_by(Slot::Fallback, &observer);
    world.clock.advance(OVER);
    // The mark, and no more.
    world.store.set_saves_left(Some(1));
    let new = token(&replica, &world.alice).await.unwrap();
    assert_eq!(heard.list()[0], "Fallback not saved: the token store cannot be reached");
    world.store.set_saves_left(None);
    // The first looks again ten times a second; until then the mark stays, and so does the lease's holder.
    while secret_of(&world.stored().await.unwrap().credential().unwrap()) != new {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let other = world.replica_with().with_capacity(10).build().unwrap();
    assert_eq!(token(&other, &world.alice).await.unwrap(), new);
    assert_eq!((world.refreshes(), world.coze.refresh_tokens_seen_again(), replica.lost()), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn while_a_new_grant_waits_to_be_saved_no_other_replica_takes_it_for_lost() {
    // For less than the lease, and for longer: then the mark alone is left.
    for (lease, down) in [(30, 1), (5, 8)] {
        let (server, store) = (Scripted::default(), Arc::new(FaultyStore::default()));
        let client = server.client(scripted_config(), |_| async { granted("2") });
        store.save(ALICE, &ended("1"), Version::NONE).await.unwrap();
        let replica = || {
            let tokens = users_with(&client, &store).with_load_timeout(Duration::from_secs(4));
            tokens.with_lease(Duration::from_secs(lease)).build().unwrap()
        };
        let (first, other, alice) = (replica(), replica(), UserId::new("alice"));
        store.set_saves_left(Some(1));
        assert_eq!(token(&first, &alice).await.unwrap(), "a-2");
        store.set_down(true);
        tokio::time::sleep(Duration::from_secs(down)).await;
        store.set_down(false);
        let (found, ()) = tokio::join!(token(&other, &alice), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            store.set_saves_left(None);
        });
        assert_eq!(found.unwrap(), "a-2");
        assert_eq!((server.posted().len(), other.lost()), (1, 0), "{lease}");
    }
}

#[tokio::test]
async fn a_mark_that_was_set_though_the_store_said_something_else_is_gone_on_with() {
    for lie in [Lie::Failed, Lie::Changed] {
        let world = World::new().await;
        world.clock.advance(OVER);
        world.store.lie_about_next_save(lie);
        let replica = world.replica();
        assert!(token(&replica, &world.alice).await.is_ok(), "{lie:?}");
        assert_eq!((world.refreshes(), world.coze.refresh_tokens_seen_again(), replica.lost()), (1, 0, 0));
    }
}

#[tokio::test]
async fn a_mark_that_was_set_before_the_store_went_down_is_taken_back_since_nothing_was_sent() {
    let world = World::new().await;
    world.clock.advance(OVER);
    world.store.lie_about_next_save(Lie::FailedAndDown);
    let sent = world.coze.request_count();
    let error = token(&world.replica(), &world.alice).await.unwrap_err();
    assert!(is_store_down(&error) && world.coze.request_count() == sent, "{error}");
    world.store.set_down(false);
    // Behind the caller's back, and others wait for it.
    let other = world.replica();
    assert!(token(&other, &world.alice).await.is_ok());
    assert_eq!((world.refreshes(), world.coze.refresh_tokens_seen_again(), other.lost()), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_arrives_late_stays_out_for_ever() {
    let server = Scripted::default();
    let client = server.client(scripted_config(), |_| async { granted("2") });
    let store = Arc::new(FaultyStore::default());
    store.save(ALICE, &ended("1"), Version::NONE).await.unwrap();
    store.lie_about_next_save(Lie::Late);
    assert!(is_store_down(&token(&users(&client, &store), &UserId::new("alice")).await.unwrap_err()));
    // The one who sent it has seen to it by the time that its lease is free.
    let free = async {
        while store.lease(ALICE, OVER).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
    assert_eq!(store.apply_late_save().await, None);
    assert!(!is_marked(&store.load(ALICE).await.unwrap().unwrap().grant));
    assert_eq!(server.posted().len(), 0);
}

#[tokio::test]
async fn what_a_replica_died_with_is_never_sent_again() {
    let world = World::new().await;
    let grant = world.stored().await.unwrap();
    world.replace(&marked(&grant)).await;
    world.clock.advance(OVER);
    let heard = Arc::new(Heard::default());
    let replica = world.replica();
    let observer: Arc<dyn Observe> = heard.clone();
    replica.observed_by(Slot::Primary, &observer);
    let sent = world.coze.request_count();
    let error = token(&replica, &world.alice).await.unwrap_err();
    assert_eq!(error.authorize_url(), Some(format!("{LOGIN}alice").as_str()));
    assert_eq!((world.coze.request_count(), replica.lost()), (sent, 1));
    assert_eq!(heard.list(), ["Primary lost"]);
    assert!(world.stored().await.is_none(), "no replica asks again");

    // Nor is a user who has just signed in again held up by that.
    let new = world.sign_in().await;
    let found = token(&replica, &world.alice).await;
    // The clock is ahead of the server's by more than the token lives: the server's own clock is learnt from its answers.
    assert!(found.is_ok(), "{found:?} {new:?}");
}

#[tokio::test]
async fn a_marked_grant_serves_as_long_as_its_access_token_lives() {
    let world = World::new().await;
    let grant = world.stored().await.unwrap();
    world.replace(&marked(&grant)).await;
    let found = token(&world.replica(), &world.alice).await.unwrap();
    assert_eq!(found, secret_of(&grant.credential().unwrap()));
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_of_a_refresh_loses_nothing() {
    let world = World::new().await;
    world.clock.advance(OVER);
    world.coze.inject(Fault::latency(Duration::from_millis(300)).on("/api/permission"));
    let replica = world.replica();
    let cut = tokio::time::timeout(Duration::from_millis(100), token(&replica, &world.alice)).await;
    assert!(cut.is_err());
    // With all that the caller had.
    drop(replica);
    let other = world.replica();
    let found = token(&other, &world.alice).await.unwrap();
    assert_eq!(secret_of(&world.stored().await.unwrap().credential().unwrap()), found);
    assert_eq!((world.refreshes(), world.coze.refresh_tokens_seen_again(), other.lost()), (1, 0, 0));
}

#[test]
fn a_process_that_settles_before_it_ends_cuts_no_refresh_off() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let servers = runtime();
    let world = servers.block_on(World::new());
    world.clock.advance(OVER);
    world.coze.inject(Fault::latency(Duration::from_millis(200)).on("/api/permission"));
    for settles in [true, false] {
        let process = runtime();
        process.block_on(async {
            let replica = world.replica();
            let cut = tokio::time::timeout(Duration::from_millis(100), token(&replica, &world.alice)).await;
            assert!(cut.is_err());
            if settles {
                replica.settle().await;
            }
        });
        drop(process);
        let grant = servers.block_on(world.stored()).unwrap();
        assert_eq!(is_marked(&grant), !settles, "{settles}");
        world.clock.advance(OVER);
    }
}

#[tokio::test]
async fn a_grant_that_is_refused_is_forgotten_and_the_user_is_asked() {
    let world = World::new().await;
    world.coze.revoke_refresh_tokens(&world.account);
    world.clock.advance(OVER);
    let replica = world.replica();
    let calls = join_all((0..50).map(|_| token(&replica, &world.alice))).await;
    for call in calls {
        assert_eq!(call.unwrap_err().authorize_url(), Some(format!("{LOGIN}alice").as_str()));
    }
    assert!(world.stored().await.is_none());
    let sent = world.coze.request_count();
    assert!(token(&replica, &world.alice).await.unwrap_err().authorize_url().is_some());
    assert_eq!(world.coze.request_count(), sent, "the server is not asked again");
    world.sign_in().await;
    assert!(token(&replica, &world.alice).await.is_ok(), "at once, without a back-off");
}

#[tokio::test]
async fn a_refused_grant_that_was_replaced_meanwhile_is_tried_once_more() {
    let server = Scripted::default();
    let store = Arc::new(MemoryStore::new());
    let keep = Arc::clone(&store);
    let client = server.client(scripted_config(), move |posted: Value| {
        let store = Arc::clone(&keep);
        async move {
            if posted["refresh_token"] == "r-1" {
                // In the middle of it the user signs in again, on another replica.
                let version = store.load(ALICE).await.unwrap().unwrap().version;
                store.save(ALICE, &ended("2"), version).await.unwrap().unwrap();
                return users::error("invalid_grant");
            }
            Some((200, json!({ "access_token": "a-3", "refresh_token": "r-3", "expires_in": 900 })))
        }
    });
    store.save(ALICE, &ended("1"), Version::NONE).await.unwrap();
    let tokens = users(&client, &store);
    assert_eq!(token(&tokens, &UserId::new("alice")).await.unwrap(), "a-3");
    let posted: Vec<Value> = server.posted().iter().map(|posted| posted["refresh_token"].clone()).collect();
    assert_eq!(posted, ["r-1", "r-2"], "each once");
}

fn granted(name: &str) -> users::Script {
    let (access, refresh) = (format!("a-{name}"), format!("r-{name}"));
    Some((200, json!({ "access_token": access, "refresh_token": refresh, "expires_in": 900 })))
}

fn is_marked(grant: &Grant) -> bool {
    serde_json::from_slice::<Value>(&grant.to_bytes()).unwrap().get("being_spent_by").is_some()
}

/// A grant whose access token has ended.
fn ended(name: &str) -> Grant {
    let end = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Grant::new(format!("a-{name}"), Some(end), Some(format!("r-{name}"))).unwrap()
}

/// A server that answers one of `script` after the other, the last for ever; alice, whose access token has ended; and a
/// replica for each call, so that none of them holds back for itself.
struct Told {
    server: Scripted,
    clock: TestClock,
    store: Arc<FaultyStore>,
    client: OAuthClient,
    alice: UserId,
}

impl Told {
    async fn new(script: Vec<users::Script>) -> Self {
        let (server, clock) = (Scripted::default(), TestClock::default());
        let next = Arc::new(AtomicUsize::new(0));
        let client = server.client(scripted_config().with_clock(clock.clone()), move |_| {
            let (script, next) = (script.clone(), Arc::clone(&next));
            async move { script[next.fetch_add(1, Ordering::SeqCst).min(script.len() - 1)].clone() }
        });
        let store = Arc::new(FaultyStore::default());
        store.save(ALICE, &ended("1"), Version::NONE).await.unwrap();
        Self { server, clock, store, client, alice: UserId::new("alice") }
    }

    fn replica(&self) -> UserTokens {
        self.replica_with().build().unwrap()
    }

    fn replica_with(&self) -> UserTokensBuilder {
        users_with(&self.client, &self.store)
    }

    async fn token(&self) -> Result<String, CredentialError> {
        token(&self.replica(), &self.alice).await
    }

    /// Which refresh tokens the server has seen.
    fn sent(&self) -> Vec<String> {
        let posted = self.server.posted();
        posted.iter().map(|posted| posted["refresh_token"].as_str().unwrap().to_owned()).collect()
    }

    async fn stored(&self) -> Option<Grant> {
        self.store.load(ALICE).await.unwrap().map(|stored| stored.grant)
    }
}

fn asks(result: &Result<String, CredentialError>) -> bool {
    result.as_ref().is_err_and(|error| error.authorize_url() == Some(&format!("{LOGIN}alice")))
}

#[tokio::test]
async fn a_server_that_fails_is_asked_again_by_no_replica_before_a_pause_is_over() {
    for status in [500, 502, 503, 504, 429, 408, 400, 200] {
        let told =
            Told::new(vec![Some((status, json!({"error_code": "internal_error"}))), granted("2")]).await;
        let error = told.token().await.unwrap_err();
        assert!(
            error.to_string().contains(&status.to_string()) && error.authorize_url().is_none(),
            "{error}"
        );
        let error = told.token().await.unwrap_err();
        assert!(error.authorize_url().is_none() && error.retry_after().is_some(), "{error}");
        assert_eq!(told.sent().len(), 1);
        told.clock.advance(PAUSE);
        assert_eq!(told.token().await.unwrap(), "a-2");
        assert_eq!(told.sent(), ["r-1", "r-1"]);
    }
}

#[tokio::test]
async fn a_token_that_the_server_took_though_its_answer_was_lost_ends_in_a_login_and_in_no_loop() {
    let told = Told::new(vec![None, users::error("invalid_grant")]).await;
    let error = told.token().await.unwrap_err();
    assert!(error.authorize_url().is_none(), "one lost answer logs nobody out: {error}");
    told.clock.advance(PAUSE);
    assert!(asks(&told.token().await));
    told.clock.advance(OVER);
    assert!(asks(&told.token().await));
    assert_eq!(told.sent(), ["r-1", "r-1"]);
    assert!(told.stored().await.is_none());
}

#[tokio::test]
async fn a_token_that_was_certainly_not_sent_may_be_sent_at_once() {
    let told = Told::new(vec![granted("2")]).await;
    let refused = tower::service_fn(|_: Request<Full<Bytes>>| async {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Err::<http::Response<Full<Bytes>>, _>(std::io::Error::other(refused))
    });
    let client = OAuthClient::new(refused, scripted_config().with_clock(told.clock.clone())).unwrap();
    let error = token(&users(&client, &told.store), &told.alice).await.unwrap_err();
    assert!(error.to_string().contains("could not be reached"), "{error}");
    assert_eq!(told.token().await.unwrap(), "a-2");
    assert_eq!(told.sent(), ["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_outlasts_its_caller_goes_on_and_its_answer_is_kept() {
    let server = Scripted::default();
    let client = server.client(scripted_config(), |_| async {
        tokio::time::sleep(Duration::from_secs(25)).await;
        granted("2")
    });
    let store = Arc::new(FaultyStore::default());
    store.save(ALICE, &ended("1"), Version::NONE).await.unwrap();
    let (first, other, alice) = (users(&client, &store), users(&client, &store), UserId::new("alice"));
    let error = token(&first, &alice).await.unwrap_err();
    assert!(error.to_string().contains("it goes on"), "{error}");
    let error = token(&other, &alice).await.unwrap_err();
    assert!(error.to_string().contains("is refreshing this user's token"), "{error}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(token(&other, &alice).await.unwrap(), "a-2");
    assert_eq!((server.posted().len(), first.lost() + other.lost()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_never_ends_is_given_up_before_its_lease_is_and_the_token_is_sent_again_after_that()
{
    let server = Scripted::default();
    let clock = TestClock::default();
    let client = server.client(scripted_config().with_clock(clock.clone()), |_| std::future::pending());
    let store = Arc::new(FaultyStore::default());
    store.save(ALICE, &ended("1"), Version::NONE).await.unwrap();
    let (replica, alice) = (users(&client, &store), UserId::new("alice"));
    assert!(token(&replica, &alice).await.is_err());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!is_marked(&store.load(ALICE).await.unwrap().unwrap().grant));
    clock.advance(PAUSE);
    assert!(token(&users(&client, &store), &alice).await.is_err());
    assert_eq!(server.times(), [0, 30 + 9]);
}

#[tokio::test]
async fn a_new_refresh_token_is_kept_whatever_else_is_wrong_with_the_answer() {
    for rest in [
        json!({ "access_token": "a-2" }),
        json!({ "access_token": "a-2", "expires_in": "soon" }),
        json!({ "access_token": "a-2", "expires_in": null }),
        json!({ "access_token": "a-2", "expires_in": 99_999_999_999_u64 }),
    ] {
        let mut answer = rest.clone();
        answer["refresh_token"] = "r-2".into();
        let told = Told::new(vec![Some((200, answer))]).await;
        assert_eq!(told.token().await.unwrap(), "a-2", "{rest}");
        assert_eq!(told.token().await.unwrap(), "a-2", "used until it is refused: {rest}");
        let stored = told.stored().await.unwrap();
        assert_eq!((stored.expires_at(), refresh_token_of(&stored).as_deref()), (None, Some("r-2")));
    }
    for rest in [
        json!({ "error": "server_error" }),
        json!({}),
        json!({ "access_token": null }),
        json!({ "access_token": "two words" }),
        json!({ "access_token": "a-2", "token_type": "mac" }),
    ] {
        let mut answer = rest.clone();
        answer["refresh_token"] = "r-2".into();
        let told = Told::new(vec![Some((200, answer)), granted("3")]).await;
        let error = told.token().await.unwrap_err();
        assert!(error.authorize_url().is_none() && error.to_string().contains("token"), "{rest}: {error}");
        assert_eq!(told.token().await.unwrap(), "a-3", "{rest}");
        assert_eq!(told.sent(), ["r-1", "r-2"], "{rest}");
    }
}

#[tokio::test]
async fn an_answer_of_success_without_a_refresh_token_keeps_the_one_there_is() {
    let told = Told::new(vec![Some((200, json!({ "access_token": "a-2", "expires_in": 900 })))]).await;
    assert_eq!(told.token().await.unwrap(), "a-2");
    assert_eq!(refresh_token_of(&told.stored().await.unwrap()).as_deref(), Some("r-1"));
}

#[tokio::test]
async fn a_token_whose_answer_cannot_be_read_is_spent_and_never_sent_again() {
    let unusable =
        [json!("nonsense"), json!([]), json!({}), json!({ "code": 0 }), json!("x".repeat(100_000))];
    for answer in unusable {
        let told = Told::new(vec![Some((200, answer.clone())), granted("2")]).await;
        let heard = Arc::new(Heard::default());
        let replica = told.replica();
        let observer: Arc<dyn Observe> = heard.clone();
        replica.observed_by(Slot::Primary, &observer);
        let result = token(&replica, &told.alice).await;
        assert!(asks(&result), "{result:?}");
        let error = result.unwrap_err();
        assert!(
            std::error::Error::source(&error).unwrap().to_string().contains("the token endpoint"),
            "{error:?}"
        );
        assert_eq!((replica.lost(), heard.list()), (1, vec!["Primary lost".to_owned()]));
        told.clock.advance(OVER);
        assert!(asks(&told.token().await));
        assert_eq!(told.sent(), ["r-1"]);
    }
}

#[tokio::test]
async fn a_refusal_asks_the_user_and_is_not_repeated_for_a_while() {
    let refusal = |status, code: &str| {
        Some((status, json!({ "error_code": code, "error_message": "login session invalid" })))
    };
    for refusal in [
        refusal(400, "invalid_request"),
        refusal(400, "access_deny"),
        refusal(401, "invalid_token"),
        refusal(200, "access_deny"),
        Some((403, json!("no"))),
    ] {
        let told = Told::new(vec![refusal, granted("2")]).await;
        assert!(asks(&told.token().await));
        assert!(asks(&told.token().await));
        assert_eq!(told.sent().len(), 1);
        let stored = told.stored().await.unwrap();
        assert!(!is_marked(&stored) && refresh_token_of(&stored).as_deref() == Some("r-1"));
        told.clock.advance(Duration::from_secs(61));
        assert_eq!(told.token().await.unwrap(), "a-2", "after a while it is tried again");
        assert_eq!(told.replica().lost(), 0);
    }
}

#[tokio::test]
async fn a_grant_is_forgotten_if_the_server_says_so_with_whatever_status() {
    for status in [200, 400, 401] {
        for field in ["error", "error_code"] {
            let told = Told::new(vec![Some((status, json!({ field: "invalid_grant" })))]).await;
            assert!(asks(&told.token().await));
            assert!(told.stored().await.is_none(), "{status} {field}");
        }
    }
}

#[tokio::test]
async fn a_refusal_of_the_application_is_an_error_that_no_user_is_asked_for() {
    for code in ["invalid_client", "unauthorized_client", "unsupported_grant_type"] {
        for status in [200, 400, 401] {
            let told = Told::new(vec![Some((status, json!({ "error": code }))), granted("2")]).await;
            let error = told.token().await.unwrap_err();
            assert!(error.authorize_url().is_none() && error.to_string().contains(code), "{error}");
            assert_eq!(told.token().await.unwrap(), "a-2", "as soon as that is mended");
        }
    }
}

#[tokio::test]
async fn a_refused_grant_that_the_store_does_not_forget_at_once_is_no_lost_one() {
    let told = Told::new(vec![users::error("invalid_grant")]).await;
    told.store.set_deletes_left(Some(0));
    assert!(asks(&told.token().await));
    told.store.set_deletes_left(None);
    let other = told.replica();
    assert!(asks(&token(&other, &told.alice).await));
    assert_eq!((other.lost(), told.sent().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_not_given_up_before_its_time_though_the_lease_is_gone() {
    let told = Told::new(vec![granted("2")]).await;
    // As left by a live replica, when a Redis that fails over forgets the lease.
    let until = std::time::SystemTime::now() + Duration::from_secs(60);
    let version = told.store.load(ALICE).await.unwrap().unwrap().version;
    told.store.save(ALICE, &users::marked_until(&ended("1"), until), version).await.unwrap().unwrap();
    let replica = told.replica();
    let error = token(&replica, &told.alice).await.unwrap_err();
    assert!(error.to_string().contains("is refreshing this user's token"), "{error}");
    assert!(is_marked(&told.stored().await.unwrap()) && replica.lost() == 0);
    told.clock.advance(Duration::from_secs(61));
    let replica = told.replica();
    assert!(asks(&token(&replica, &told.alice).await));
    assert_eq!((replica.lost(), told.sent().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_cannot_be_deleted_is_not_yet_counted_as_lost() {
    let told = Told::new(vec![granted("2")]).await;
    let version = told.store.load(ALICE).await.unwrap().unwrap().version;
    told.store.save(ALICE, &marked(&ended("1")), version).await.unwrap().unwrap();
    told.store.set_deletes_left(Some(0));
    let replica = told.replica();
    assert!(is_store_down(&token(&replica, &told.alice).await.unwrap_err()));
    assert_eq!(replica.lost(), 0);
    told.store.set_deletes_left(None);
    let replica = told.replica();
    assert!(asks(&token(&replica, &told.alice).await));
    assert_eq!(replica.lost(), 1);
}

#[tokio::test]
async fn a_refusal_still_finds_its_user_after_many_more_tokens_than_there_is_room_for() {
    let (server, number) = (Scripted::default(), Arc::new(AtomicU64::new(0)));
    let client = server.client(scripted_config(), move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        async move {
            Some((200, json!({ "access_token": format!("a-{number}"), "refresh_token": format!("r-{number}"), "expires_in": 900 })))
        }
    });
    let store = Arc::new(MemoryStore::new());
    let tokens = users_with(&client, &store).with_capacity(8).build().unwrap();
    let refused = Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED);
    for round in 0..16 {
        for n in 0..4 {
            let user = UserId::new(format!("user-{n}"));
            tokens.sign_in(&user, &stores::grant(&format!("{round}-{n}"))).await.unwrap();
            let first = tokens.get(&user).await.unwrap();
            tokens.rejected(&first, &refused);
            let next = tokens.get(&user).await.unwrap();
            assert_ne!(secret_of(&first), secret_of(&next), "{round}: the refusal went unheard");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settling_lets_no_refresh_begin_that_was_only_about_to() {
    let told = Told::new(vec![granted("2")]).await;
    let replica = told.replica();
    let mut call = Box::pin(token(&replica, &told.alice));
    // Its flight is a task that has not run yet.
    assert!(futures::poll!(&mut call).is_pending());
    replica.settle().await;
    let error = call.await.unwrap_err();
    assert!(error.to_string().contains("about to end"), "{error}");
    assert_eq!(told.sent().len(), 0);
    assert!(!is_marked(&told.stored().await.unwrap()));
    assert_eq!(told.token().await.unwrap(), "a-2", "elsewhere all goes on");
}

#[tokio::test]
async fn replicas_whose_clocks_differ_agree_on_when_a_token_ends() {
    let coze = Simulator::start().await.unwrap();
    let (app, account) = (coze.create_web_app(), coze.create_account());
    coze.register_redirect_uri(&app, users::CALLBACK);
    let fast = TestClock::default();
    fast.advance(Duration::from_secs(20 * 60));
    let client = |clock: &TestClock| {
        let config = coze::user_app(&Region::custom(coze.base_url()).unwrap(), &app.client_id)
            .with_client_secret(app.client_secret.clone().unwrap())
            .with_redirect_uri(users::CALLBACK)
            .with_clock(clock.clone());
        OAuthClient::new(http_client(), config).unwrap()
    };
    let right = TestClock::default();
    let clients = [client(&fast), client(&right)];
    let store = Arc::new(MemoryStore::new());
    let alice = UserId::new("alice");
    // Each learns the server's clock by a login.
    let mut grants = Vec::new();
    for client in &clients {
        grants.push(log_in(client, &account).await);
    }
    for (writer, grant) in grants.iter().enumerate() {
        users(&clients[writer], &store).sign_in(&alice, grant).await.unwrap();
        let expected = secret_of(&grant.credential().unwrap());
        for reader in &clients {
            let credential = users(reader, &store).get(&alice).await.unwrap();
            assert_eq!(secret_of(&credential), expected, "written by {writer}");
            let left =
                credential.expires_at().unwrap().duration_since(reader_now(reader, &clients, &fast, &right));
            assert!(left.unwrap().as_secs().abs_diff(15 * 60) < 30);
        }
    }
    assert_eq!(coze.refreshes(&account), 0);
}

fn reader_now(
    reader: &OAuthClient,
    clients: &[OAuthClient; 2],
    fast: &TestClock,
    right: &TestClock,
) -> std::time::SystemTime {
    let clock = if std::ptr::eq(reader, &clients[0]) { fast } else { right };
    tower_credential_fallback::Clock::now(clock)
}

#[tokio::test]
async fn a_panic_of_an_observer_or_of_the_http_client_loses_no_grant() {
    struct Panics;
    impl Observe for Panics {
        fn call(&self, _: &http::Method, _: &http::Uri) -> Box<dyn ObserveCall> {
            unreachable!("no calls are made")
        }

        fn token(&self, _: Slot, event: &TokenEvent<'_>) {
            if let TokenEvent::NotSaved { .. } = event {
                panic!("the observer's mistake")
            }
        }
    }
    let told = Told::new(vec![granted("2")]).await;
    let replica = told.replica();
    let observer: Arc<dyn Observe> = Arc::new(Panics);
    replica.observed_by(Slot::Primary, &observer);
    told.store.set_saves_left(Some(1));
    assert_eq!(token(&replica, &told.alice).await.unwrap(), "a-2");
    told.store.set_saves_left(None);
    assert_eq!(told.token().await.unwrap(), "a-2", "it was saved all the same");

    let told = Told::new(vec![granted("2")]).await;
    let panics = tower::service_fn(|_: Request<Full<Bytes>>| async {
        if true {
            panic!("the client's mistake");
        }
        Ok::<_, std::io::Error>(http::Response::new(Full::<Bytes>::default()))
    });
    let client = OAuthClient::new(panics, scripted_config().with_clock(told.clock.clone())).unwrap();
    let error = token(&users(&client, &told.store), &told.alice).await.unwrap_err();
    assert!(error.to_string().contains("panicked") && !error.to_string().contains("mistake"), "{error}");
    // The mark goes, and the token may be sent after the pause.
    while is_marked(&told.stored().await.unwrap()) {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    told.clock.advance(PAUSE);
    assert_eq!(told.token().await.unwrap(), "a-2");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_ready_is_waited_for_before_the_token_is_marked() {
    #[derive(Clone)]
    struct NeverReady;
    impl tower::Service<Request<Full<Bytes>>> for NeverReady {
        type Response = http::Response<Full<Bytes>>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Pending
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let told = Told::new(vec![granted("2")]).await;
    let client = OAuthClient::new(NeverReady, scripted_config()).unwrap();
    let call = tokio::spawn(users(&client, &told.store).get(&told.alice));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!is_marked(&told.stored().await.unwrap()));
    assert!(call.await.unwrap().is_err());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(told.token().await.unwrap(), "a-2", "its lease is free again, and nothing is held back");
}

#[tokio::test(start_paused = true)]
async fn with_too_little_of_its_lease_left_a_refresh_takes_its_mark_back_and_sends_nothing() {
    let told = Told::new(vec![granted("2")]).await;
    told.store.set_save_time(Duration::from_secs(4));
    let replica = told.replica_with().with_load_timeout(Duration::from_secs(4));
    let replica = replica.with_lease(Duration::from_secs(5)).build().unwrap();
    assert!(token(&replica, &told.alice).await.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(told.sent().len(), 0);
    assert!(!is_marked(&told.stored().await.unwrap()));
    told.store.set_save_time(Duration::ZERO);
    assert_eq!(told.token().await.unwrap(), "a-2");
}

#[tokio::test]
async fn an_unreadable_record_asks_its_user_and_gives_way_to_a_sign_in_or_a_sign_out() {
    let told = Told::new(vec![granted("2")]).await;
    let heard = Arc::new(Heard::default());
    let replica = told.replica();
    let observer: Arc<dyn Observe> = heard.clone();
    replica.observed_by(Slot::Fallback, &observer);
    told.store.set_unreadable(true);
    assert!(asks(&token(&replica, &told.alice).await));
    assert_eq!(heard.list(), ["Fallback unreadable"]);
    assert_eq!((replica.lost(), told.sent().len()), (0, 0));
    replica.sign_in(&told.alice, &stores::grant("new")).await.unwrap();
    told.store.set_unreadable(false);
    assert_eq!(token(&replica, &told.alice).await.unwrap(), "a-new");

    told.store.set_unreadable(true);
    replica.sign_out(&told.alice).await.unwrap();
    told.store.set_unreadable(false);
    assert!(told.stored().await.is_none());
}

#[tokio::test]
async fn two_apps_share_one_store_and_neither_sees_the_others_grants() {
    let server = Scripted::default();
    let store: Arc<dyn TokenStore> = Arc::new(MemoryStore::new());
    let tokens = |id: &str, realm: Option<&str>| {
        let config = OAuthConfig::new(id, "http://127.0.0.1/token");
        let config = match realm {
            Some(realm) => config.with_realm(realm),
            None => config,
        };
        let client = server.client(config, |_| async { None });
        UserTokens::new(client, Arc::clone(&store), |_| LOGIN.to_owned())
    };
    // Names that would be one if they were only put together.
    let apps = [
        (tokens("a", None), "b"),
        (tokens("a", None), "b:c"),
        (tokens("a", None), ":b"),
        (tokens("a", Some("b")), ""),
        (tokens("a", Some("b")), "c"),
        (tokens("a:", None), "b"),
        (tokens("a:b", None), ""),
        (tokens("a%3Ab", None), ""),
        (tokens("c", None), "b"),
    ];
    let user = |name: &str| UserId::new(name);
    for (n, (tokens, name)) in apps.iter().enumerate() {
        tokens.sign_in(&user(name), &stores::grant(&n.to_string())).await.unwrap();
    }
    for (n, (tokens, name)) in apps.iter().enumerate() {
        assert_eq!(token(tokens, &user(name)).await.unwrap(), format!("a-{n}"));
    }
    apps[0].0.sign_out(&user("b")).await.unwrap();
    assert!(token(&apps[0].0, &user("b")).await.is_err());
    assert_eq!(token(&apps[8].0, &user("b")).await.unwrap(), "a-8");
}

#[tokio::test(start_paused = true)]
async fn a_back_off_ends_with_a_sign_in_on_another_replica() {
    let told = Told::new(vec![Some((400, json!({ "error": "invalid_client" })))]).await;
    let replica = told.replica();
    assert!(token(&replica, &told.alice).await.is_err());
    assert!(token(&replica, &told.alice).await.is_err());
    assert_eq!(told.sent().len(), 1, "a back-off runs");
    told.replica().sign_in(&told.alice, &stores::grant("new")).await.unwrap();
    assert_eq!(token(&replica, &told.alice).await.unwrap(), "a-new");
    assert_eq!(told.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_for_long_is_told_of_at_first_and_at_last() {
    let told = Told::new(vec![granted("2")]).await;
    let heard = Arc::new(Heard::default());
    let replica = told.replica();
    let observer: Arc<dyn Observe> = heard.clone();
    replica.observed_by(Slot::Primary, &observer);
    told.store.set_saves_left(Some(1));
    assert_eq!(token(&replica, &told.alice).await.unwrap(), "a-2");
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(heard.list().len(), 1, "{:?}", heard.list());
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(heard.list().len(), 2, "{:?}", heard.list());
}

#[tokio::test]
async fn a_token_that_the_server_refuses_is_refreshed_before_its_time_and_a_late_refusal_changes_nothing() {
    let world = World::new().await;
    let replica = world.replica();
    let old = replica.get(&world.alice).await.unwrap();
    let refused = |kind| Rejection::new(kind, StatusCode::UNAUTHORIZED);
    replica.rejected(&old, &refused(RejectionKind::Forbidden));
    assert_eq!(
        token(&replica, &world.alice).await.unwrap(),
        secret_of(&old),
        "no permission is no bad token"
    );
    replica.rejected(&old, &refused(RejectionKind::Unauthenticated));
    let new = replica.get(&world.alice).await.unwrap();
    assert_ne!(secret_of(&new), secret_of(&old));
    for _ in 0..5 {
        replica.rejected(&old, &refused(RejectionKind::Unauthenticated));
    }
    assert_eq!(token(&replica, &world.alice).await.unwrap(), secret_of(&new));
    assert_eq!(world.refreshes(), 1);
    // Of a credential that is nobody's.
    replica.rejected(&Credential::bearer("x").unwrap(), &refused(RejectionKind::Unauthenticated));
}

#[tokio::test]
async fn a_request_without_a_user_gets_no_token_and_a_clear_error() {
    let world = World::new().await;
    let head = Request::new(()).into_parts().0;
    let error = world.replica().credential(&head).await.unwrap_err();
    assert!(error.to_string().contains("`UserId`"), "{error}");
    assert!(error.authorize_url().is_none());
}

#[tokio::test]
async fn a_user_who_signs_out_is_unknown_from_then_on() {
    let world = World::new().await;
    let replica = world.replica();
    token(&replica, &world.alice).await.unwrap();
    replica.sign_out(&world.alice).await.unwrap();
    replica.sign_out(&world.alice).await.unwrap();
    assert!(token(&replica, &world.alice).await.unwrap_err().authorize_url().is_some());
    assert!(world.stored().await.is_none());
}

#[tokio::test]
async fn a_callback_of_the_application_that_panics_fails_its_own_call_alone() {
    let world = World::new().await;
    let store: Arc<dyn TokenStore> = Arc::clone(&world.store) as _;
    let tokens = UserTokens::new(world.client.clone(), store, |user: &UserId| match user.as_str() {
        "bob" => panic!("the application's mistake"),
        user => user.to_owned(),
    });
    let error = token(&tokens, &UserId::new("bob")).await.unwrap_err();
    assert!(!error.to_string().contains("mistake"), "{error}");
    assert!(token(&tokens, &world.alice).await.is_ok());
}

#[tokio::test]
async fn users_beyond_the_capacity_are_loaded_again_without_a_refresh() {
    let world = World::new().await;
    let grant = world.stored().await.unwrap();
    let replica = world.replica_with().with_capacity(2).build().unwrap();
    let names: Vec<UserId> = (0..20).map(|n| UserId::new(format!("user-{n}"))).collect();
    for user in &names {
        replica.sign_in(user, &grant).await.unwrap();
    }
    for user in names.iter().chain(&names) {
        token(&replica, user).await.unwrap();
    }
    let shown = format!("{replica:?}");
    assert!(shown.contains("users: 2") && !shown.contains("user-"), "{shown}");
    assert_eq!(world.refreshes(), 0);
}

#[tokio::test]
async fn settings_out_of_range_are_refused_by_name() {
    let world = World::new().await;
    let field = |settings: UserTokensBuilder| settings.build().unwrap_err().field();
    let seconds = Duration::from_secs;
    assert_eq!(field(world.replica_with().with_lease(seconds(4))), Some("lease"));
    assert_eq!(field(world.replica_with().with_lease(seconds(7200))), Some("lease"));
    assert_eq!(
        field(world.replica_with().with_lease(seconds(10))),
        Some("lease"),
        "no longer than a call waits"
    );
    assert_eq!(
        field(world.replica_with().with_load_timeout(seconds(30))),
        Some("lease"),
        "as the load timeout"
    );
    assert_eq!(field(world.replica_with().with_load_timeout(Duration::ZERO)), Some("load_timeout"));
}

#[tokio::test]
async fn the_order_of_setters_never_decides_whether_they_are_valid() {
    let world = World::new().await;
    let seconds = Duration::from_secs;
    // Each is out of the other's default range.
    for (lease, limit) in [(seconds(6), seconds(5)), (seconds(90), seconds(60))] {
        assert!(world.replica_with().with_lease(lease).with_load_timeout(limit).build().is_ok());
        assert!(world.replica_with().with_load_timeout(limit).with_lease(lease).build().is_ok());
    }
    let errors = [
        world.replica_with().with_lease(seconds(5)).with_load_timeout(seconds(5)).build(),
        world.replica_with().with_load_timeout(seconds(5)).with_lease(seconds(5)).build(),
    ]
    .map(|result| result.unwrap_err().to_string());
    assert_eq!(errors[0], errors[1]);
}

#[tokio::test(start_paused = true)]
async fn a_memory_store_keeps_the_contract_and_its_bound() {
    stores::keeps_its_contract(&MemoryStore::new(), "").await;
    let small = MemoryStore::with_capacity(10);
    for n in 0..100 {
        small.save(&n.to_string(), &stores::grant("x"), Version::NONE).await.unwrap();
    }
    let mut kept = 0;
    for n in 0..100 {
        kept += u32::from(small.load(&n.to_string()).await.unwrap().is_some());
    }
    assert!((1..=10).contains(&kept), "{kept}");
}

// --- in a layer ---

/// What the simulator answers to a user's question about a bot, through a layer with two accounts' grants.
async fn ask(
    coze: &Simulator,
    (old, new): (&UserTokens, &UserTokens),
    user: &UserId,
    bot: &str,
) -> (Value, Outcome) {
    let layer = coze::layer(&Region::custom(coze.base_url()).unwrap(), old.clone(), new.clone()).unwrap();
    let client = ServiceBuilder::new().layer(layer).service(http_client_for_layer());
    let request = Request::get(format!("{}/v1/bots/{bot}", coze.base_url())).extension(user.clone());
    let response = client.oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    let outcome = Outcome::of(&response).clone();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (serde_json::from_slice::<Value>(&body).unwrap()["code"].clone(), outcome)
}

fn http_client_for_layer() -> support::HyperClient<ReplayBody<Full<Bytes>>> {
    support::hyper_client(support::Protocol::Http1)
}

#[tokio::test]
async fn after_the_move_the_new_grant_serves_or_the_refusal_comes_back_with_where_to_authorise() {
    let coze = Simulator::start().await.unwrap();
    let clock = TestClock::default();
    let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
    let workspace = coze.create_workspace(&person);
    let bot = coze.create_bot(&workspace);
    // Two apps, and one store: an account's grants are its own.
    let (old_client, new_client) = (web_app(&coze, &clock), web_app(&coze, &clock));
    let store = Arc::new(MemoryStore::new());
    let (old, new) = (users(&old_client, &store), users(&new_client, &store));
    let alice = UserId::new("alice");
    old.sign_in(&alice, &log_in(&old_client, &person).await).await.unwrap();

    let (code, outcome) = ask(&coze, (&old, &new), &alice, &bot).await;
    assert_eq!((code, outcome.answered_by()), (json!(0), Some(Slot::Primary)));

    coze.move_workspace(&workspace, &enterprise);
    let (code, outcome) = ask(&coze, (&old, &new), &alice, &bot).await;
    assert_eq!(code, json!(4101), "the refusal, untouched");
    let Some(NoReplay::InteractionRequired { authorize_url }) = outcome.no_replay() else {
        panic!("{outcome:?}");
    };
    assert_eq!(authorize_url, &format!("{LOGIN}alice"));
    assert!(!format!("{outcome:?}").contains("alice"));

    new.sign_in(&alice, &log_in(&new_client, &enterprise).await).await.unwrap();
    let (code, outcome) = ask(&coze, (&old, &new), &alice, &bot).await;
    assert_eq!((code, outcome.answered_by()), (json!(0), Some(Slot::Fallback)));
}

#[tokio::test]
async fn two_refusals_hold_back_one_user_and_nobody_else() {
    let coze = Simulator::start().await.unwrap();
    let clock = TestClock::default();
    let (person, enterprise, stranger) =
        (coze.create_account(), coze.create_enterprise(), coze.create_account());
    let workspace = coze.create_workspace(&enterprise);
    let bot = coze.create_bot(&workspace);
    let client = web_app(&coze, &clock);
    let old = users(&client, &Arc::new(MemoryStore::new()));
    let new = users(&client, &Arc::new(MemoryStore::new()));
    let (alice, mallory) = (UserId::new("alice"), UserId::new("mallory"));
    for (user, olds, news) in [(&alice, &person, &enterprise), (&mallory, &stranger, &stranger)] {
        old.sign_in(user, &log_in(&client, olds).await).await.unwrap();
        new.sign_in(user, &log_in(&client, news).await).await.unwrap();
    }
    let layer = coze::layer(&Region::custom(coze.base_url()).unwrap(), old, new).unwrap();
    let layer = layer.with_cooldown(Duration::from_secs(3600));
    let client = ServiceBuilder::new().layer(layer).service(http_client_for_layer());
    let ask = async |user: &UserId| {
        let request = Request::get(format!("{}/v1/bots/{bot}", coze.base_url())).extension(user.clone());
        let response = client.clone().oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        Outcome::of(&response).clone()
    };
    assert!(ask(&mallory).await.is_refused());
    assert!(matches!(ask(&mallory).await.no_replay(), Some(NoReplay::CoolingDown)));
    assert_eq!(ask(&alice).await.answered_by(), Some(Slot::Fallback));
}

// --- whose token is whose ---

#[derive(Clone, Debug)]
enum Step {
    Get(u8),
    /// So many at once, of all users.
    GetAll(u8),
    Refuse(u8),
    SignIn(u8),
    SignOut(u8),
    Wait(u16),
    ServerFails,
}

fn step() -> impl Strategy<Value = Step> {
    let user = 0..USERS;
    prop_oneof![
        4 => user.clone().prop_map(Step::Get),
        2 => (1..20u8).prop_map(Step::GetAll),
        2 => user.clone().prop_map(Step::Refuse),
        1 => user.clone().prop_map(Step::SignIn),
        1 => user.prop_map(Step::SignOut),
        3 => (1..1_500u16).prop_map(Step::Wait),
        1 => Just(Step::ServerFails),
    ]
}

const USERS: u8 = 5;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Every token names its user; two replicas with room for two users out of five, so that they are always at
    /// evicting; whatever happens, a user gets a token of their own, or an error.
    #[test]
    fn no_user_ever_gets_the_token_of_another(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}

async fn run(steps: Vec<Step>) {
    let clock = TestClock::default();
    let (server, issued) = (Scripted::default(), Arc::new(AtomicU64::new(0)));
    let spent = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
    let fails = Arc::new(AtomicU64::new(0));
    let client = {
        let (issued, spent, fails) = (Arc::clone(&issued), Arc::clone(&spent), Arc::clone(&fails));
        server.client(scripted_config().with_clock(clock.clone()), move |posted: Value| {
            let (issued, spent, fails) = (Arc::clone(&issued), Arc::clone(&spent), Arc::clone(&fails));
            async move {
                // Others get their turn here.
                tokio::time::sleep(Duration::from_millis(10)).await;
                if fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
                {
                    return Some((503, json!({})));
                }
                let token = posted["refresh_token"].as_str().unwrap().to_owned();
                *spent.lock().unwrap().entry(token.clone()).or_default() += 1;
                let user = token.split('.').next().unwrap();
                let number = issued.fetch_add(1, Ordering::SeqCst);
                Some((
                    200,
                    json!({ "access_token": format!("{user}.a{number}"),
                    "refresh_token": format!("{user}.r{number}"), "expires_in": 900 }),
                ))
            }
        })
    };
    let store = Arc::new(MemoryStore::new());
    let replicas: [UserTokens; 2] =
        std::array::from_fn(|_| users_with(&client, &store).with_capacity(2).build().unwrap());
    let user = |n: u8| UserId::new(format!("u{n}"));
    let sign_in = async |n: u8| {
        let number = issued.fetch_add(1, Ordering::SeqCst);
        let end = tower_credential_fallback::Clock::now(&clock) + Duration::from_secs(900);
        let grant =
            Grant::new(format!("u{n}.a{number}"), Some(end), Some(format!("u{n}.r{number}"))).unwrap();
        replicas[0].sign_in(&user(n), &grant).await.unwrap();
    };
    let get = async |n: u8, replica: usize| match replicas[replica % 2].get(&user(n)).await {
        Ok(credential) => {
            let token = secret_of(&credential);
            assert!(token.starts_with(&format!("u{n}.")), "user {n} got {token}");
            Some(credential)
        }
        Err(error) => {
            if let Some(url) = error.authorize_url() {
                assert_eq!(url, format!("{LOGIN}u{n}"), "sent to another's login");
            }
            None
        }
    };
    for n in 0..USERS {
        sign_in(n).await;
    }
    for step in steps {
        match step {
            Step::Get(n) => drop(get(n, n.into()).await),
            Step::GetAll(times) => {
                let times = usize::from(times);
                let calls = (0..times * usize::from(USERS)).map(|n| get((n % usize::from(USERS)) as u8, n));
                join_all(calls).await;
            }
            Step::Refuse(n) => {
                if let Some(credential) = get(n, 0).await {
                    let refusal = Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED);
                    replicas.iter().for_each(|replica| replica.rejected(&credential, &refusal));
                }
            }
            Step::SignIn(n) => sign_in(n).await,
            Step::SignOut(n) => replicas[1].sign_out(&user(n)).await.unwrap(),
            Step::Wait(seconds) => {
                clock.advance(Duration::from_secs(seconds.into()));
                tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            }
            Step::ServerFails => fails.store(2, Ordering::SeqCst),
        }
    }
    let spent = spent.lock().unwrap();
    assert!(spent.values().all(|times| *times == 1), "a refresh token was sent twice: {spent:?}");
    assert_eq!(replicas.iter().map(UserTokens::lost).sum::<u64>(), 0);
}

#[test]
fn the_property_test_runs_into_refreshes_and_not_only_errors() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(vec![
        Step::GetAll(2),
        Step::Wait(1_000),
        Step::GetAll(3),
        Step::Refuse(1),
        Step::GetAll(1),
    ]));
}

#[tokio::test]
async fn the_http_client_is_the_only_thing_that_knows_the_network() {
    // A client that cannot reach its server: the grant stays as it was.
    let world = World::new().await;
    let before = world.stored().await.unwrap();
    world.clock.advance(OVER);
    let nowhere = coze::user_app(
        &Region::custom("http://127.0.0.1:9").unwrap(),
        world.key().split(':').next().unwrap(),
    )
    .with_clock(world.clock.clone());
    let client = OAuthClient::new(http_client(), nowhere).unwrap();
    let error = token(&users(&client, &world.store), &world.alice).await.unwrap_err();
    assert!(error.to_string().contains("could not be reached"), "{error}");
    assert_eq!(refresh_token_of(&world.stored().await.unwrap()), refresh_token_of(&before));
    assert!(token(&world.replica(), &world.alice).await.is_ok());
}
