//! `RedisStore` with real Redis servers, which come and go.
#![cfg(all(feature = "redis-tls", feature = "simulator"))]

#[path = "support/redis.rs"]
mod servers;
#[path = "support/stores.rs"]
mod stores;
mod support;
#[path = "support/oauth.rs"]
mod users;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use redis::AsyncCommands;
use servers::RedisServer;
use stores::grant;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::simulator::{AccountId, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{OAuthClient, UserId, UserTokens};
use tower_credential_fallback::store::{RedisStore, TokenStore, Version};
use tower_credential_fallback::{
    Credential, CredentialError, CredentialFallback, ErrorKind, Learnt, Outcome, PreferenceLog, ReplayBody,
    SharedPreferences, Slot,
};
use users::{LOGIN, TestClock, log_in, secret_of, web_app};

/// A little over the life of a token of Coze's.
const OVER: Duration = Duration::from_secs(16 * 60);

fn store(server: &RedisServer) -> RedisStore {
    RedisStore::new(&server.url()).unwrap()
}

async fn raw(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn token(tokens: &UserTokens, user: &UserId) -> Result<String, CredentialError> {
    tokens.get(user).await.map(|credential| secret_of(&credential))
}

#[tokio::test]
async fn a_single_redis_keeps_the_contract_of_a_store() {
    let server = RedisServer::start();
    stores::keeps_its_contract(&store(&server), "plain ").await;
    stores::keeps_its_contract(&store(&server).with_encryption_key(&[7; 32]), "sealed ").await;
    stores::keeps_its_contract(&store(&server).with_prefix("{odd}:"), "").await;
}

/// Three nodes that share the slots.
async fn cluster() -> [RedisServer; 3] {
    let nodes = std::array::from_fn(|_| {
        RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-config-file", "nodes"])
    });
    for (node, slots) in nodes.iter().zip([(0, 5_460), (5_461, 10_922), (10_923, 16_383)]) {
        let mut node = raw(node).await;
        let add = redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(slots.0).arg(slots.1).to_owned();
        add.exec_async(&mut node).await.unwrap();
        for other in &nodes {
            let meet = redis::cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(other.port).to_owned();
            meet.exec_async(&mut node).await.unwrap();
        }
    }
    let started = Instant::now();
    for node in &nodes {
        let mut node = raw(node).await;
        loop {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut node).await.unwrap();
            if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{info}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    nodes
}

#[tokio::test]
async fn a_redis_cluster_keeps_the_contract_of_a_store_on_every_node() {
    let nodes = cluster().await;
    let urls: Vec<String> = nodes[..2].iter().map(RedisServer::url).collect();
    let store = RedisStore::cluster(urls.iter().map(String::as_str)).unwrap();
    stores::keeps_its_contract(&store, "").await;
    for n in 0..30 {
        store.save(&format!("user-{n}"), &grant("x"), Version::NONE).await.unwrap().unwrap();
        assert!(store.lease(&format!("user-{n}"), OVER).await.unwrap().is_some());
    }
    for node in &nodes {
        let keys: Vec<String> = raw(node).await.keys("*").await.unwrap();
        assert!(!keys.is_empty(), "each node has some");
        for user in (0..30).map(|n| format!("{{user-{n}}}")) {
            let of_user = keys.iter().filter(|key| key.contains(&user)).count();
            assert!([0, 2].contains(&of_user), "a user's grant and lease are on one node");
        }
    }
}

#[tokio::test]
async fn a_redis_over_tls_keeps_the_contract_of_a_store() {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = issued.cert.pem();
    let directory =
        std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&cert, &pem).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let server = RedisServer::start_with(&[
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        cert,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://localhost:{}/", server.port);

    // Nobody vouches for this certificate.
    let error = RedisStore::new(&url).unwrap().load("alice").await.unwrap_err();
    assert!(error.is_unavailable());

    let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(pem.into_bytes()) };
    let client = redis::Client::build_with_tls(url.as_str(), certificates).unwrap();
    stores::keeps_its_contract(&RedisStore::from(client), "").await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn what_is_sealed_is_unreadable_in_redis_and_opens_under_its_own_key_and_name_alone() {
    let server = RedisServer::start();
    let sealed = store(&server).with_encryption_key(&[1; 32]);
    sealed.save("alice", &grant("s3cret"), Version::NONE).await.unwrap().unwrap();
    store(&server).save("bob", &grant("s3cret"), Version::NONE).await.unwrap().unwrap();
    let mut raw = raw(&server).await;
    let value = async |raw: &mut redis::aio::MultiplexedConnection, user: &str| -> Vec<u8> {
        raw.hget(format!("tower-credential-fallback:{{{user}}}:grant"), "d").await.unwrap()
    };
    let shows = |value: &[u8]| String::from_utf8_lossy(value).contains("s3cret");
    let of_alice = value(&mut raw, "alice").await;
    assert!(!shows(&of_alice) && shows(&value(&mut raw, "bob").await), "and it shows without a key");

    let unreadable = async |store: RedisStore, user: &str| {
        let error = store.load(user).await.unwrap_err();
        assert!(!error.is_unavailable() && !format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    };
    unreadable(store(&server), "alice").await;
    unreadable(store(&server).with_encryption_key(&[2; 32]), "alice").await;
    unreadable(sealed.clone(), "bob").await;
    // Somebody who can write to Redis gives bob what is alice's.
    let () = raw.hset("tower-credential-fallback:{bob}:grant", "d", of_alice).await.unwrap();
    unreadable(sealed, "bob").await;
    // After a change of keys.
    let both = store(&server).with_encryption_key(&[2; 32]).with_encryption_key(&[1; 32]);
    assert!(both.load("alice").await.unwrap().is_some());
}

#[tokio::test]
async fn grants_and_leases_end_by_themselves_and_prefixes_keep_apps_apart() {
    let server = RedisServer::start();
    let (one, two) = (store(&server).with_prefix("one"), store(&server).with_prefix("two"));
    one.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    assert!(two.load("alice").await.unwrap().is_none());
    assert!(
        one.lease("alice", OVER).await.unwrap().is_some()
            && two.lease("alice", OVER).await.unwrap().is_some()
    );
    let mut raw = raw(&server).await;
    let month: i64 = raw.ttl("one:{alice}:grant").await.unwrap();
    assert!(((31 * 24 * 3600 - 60)..=31 * 24 * 3600).contains(&month), "{month}");
    let short = one.with_ttl(Duration::from_millis(30)).unwrap();
    short.save("bob", &grant("1"), Version::NONE).await.unwrap().unwrap();
    while short.load("bob").await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_url_that_is_none_is_refused_without_showing_it() {
    for url in ["", "localhost", "http://:p4ssword@localhost", "redis://:p4ssword@[::1"] {
        let error = RedisStore::new(url).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some("url")));
        assert!(!format!("{error} {error:?}").contains("p4ssword"));
    }
    assert_eq!(RedisStore::cluster([]).unwrap_err().field(), Some("urls"));
    assert_eq!(RedisStore::cluster(["nonsense"]).unwrap_err().field(), Some("urls"));
    let store = RedisStore::new("redis://:p4ssword@localhost/").unwrap().with_encryption_key(&[77; 32]);
    let shown = format!("{store:?}");
    assert!(!shown.contains("p4ssword") && !shown.contains("77"), "{shown}");
}

#[tokio::test]
async fn a_redis_that_is_away_or_does_not_answer_is_an_error_in_time_and_one_that_comes_back_is_found() {
    let mut server = RedisServer::start();
    let (known, unknown) = (store(&server), store(&server));
    known.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    server.kill();
    for store in [&known, &unknown] {
        let error = store.load("alice").await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert!(
            store.lease("alice", OVER).await.unwrap_err().is_unavailable(),
            "not the same as one that is held"
        );
        assert!(store.save("alice", &grant("2"), Version(1)).await.unwrap_err().is_unavailable());
        assert!(store.delete("alice", Version(1)).await.unwrap_err().is_unavailable());
    }
    server.start_again();
    // The connection is made anew behind the scenes.
    let found = join_all([&known, &unknown].map(async |store| {
        loop {
            match store.load("alice").await {
                Ok(found) => return found.expect("it was written to disk before it was answered"),
                Err(error) => assert!(error.is_unavailable()),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }));
    assert!(tokio::time::timeout(Duration::from_secs(20), found).await.is_ok());

    // Nobody answers at this port.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/", silent.local_addr().unwrap());
    let mute = RedisStore::new(&url).unwrap().with_timeout(Duration::from_millis(200)).unwrap();
    assert!(mute.load("alice").await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn after_a_restart_that_nobody_noticed_the_next_question_is_answered() {
    let mut server = RedisServer::start();
    let store = store(&server);
    store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    for _ in 0..3 {
        server.kill();
        server.start_again();
        assert!(store.load("alice").await.unwrap().is_some(), "at the first try");
    }
}

/// A simulator, an app and one user, whose grant is in Redis.
struct World {
    coze: Simulator,
    clock: TestClock,
    client: OAuthClient,
    account: AccountId,
    alice: UserId,
    server: RedisServer,
}

impl World {
    async fn new() -> Self {
        let coze = Simulator::start().await.unwrap();
        let clock = TestClock::default();
        let (client, account) = (web_app(&coze, &clock), coze.create_account());
        let this =
            Self { coze, clock, client, account, alice: UserId::new("alice"), server: RedisServer::start() };
        let grant = log_in(&this.client, &this.account).await;
        this.replica().sign_in(&this.alice, &grant).await.unwrap();
        this
    }

    /// One more process of the application: with a connection of its own.
    fn replica(&self) -> UserTokens {
        users::users(&self.client, &Arc::new(store(&self.server)))
    }
}

#[tokio::test]
async fn a_thousand_calls_on_eight_replicas_make_one_refresh_in_the_whole_fleet() {
    let world = World::new().await;
    world.clock.advance(OVER);
    let replicas: Vec<UserTokens> = (0..8).map(|_| world.replica()).collect();
    let calls = (0..1_000).map(|n| token(&replicas[n % 8], &world.alice));
    let mut tokens: Vec<String> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    assert_eq!((world.coze.refreshes(&world.account), world.coze.refresh_tokens_seen_again()), (1, 0));
}

#[tokio::test]
async fn with_redis_stopped_tokens_at_hand_go_on_others_are_told_and_nothing_is_spent_or_lost() {
    let mut world = World::new().await;
    let limit = Duration::from_secs(10);
    let (serving, starting) = (world.replica(), world.replica());
    let at_hand = token(&serving, &world.alice).await.unwrap();
    world.server.kill();
    for _ in 0..3 {
        assert_eq!(token(&serving, &world.alice).await.unwrap(), at_hand);
    }
    for replica in [&starting, &world.replica()] {
        let answered = tokio::time::timeout(limit, token(replica, &world.alice)).await;
        let error = answered.expect("within the load timeout").unwrap_err();
        assert_eq!(error.to_string(), "the token store cannot be reached");
    }
    world.clock.advance(OVER);
    let error = token(&serving, &world.alice).await.unwrap_err();
    assert_eq!(error.to_string(), "the token store cannot be reached");
    assert_eq!(world.coze.refreshes(&world.account), 0, "nothing is spent");

    world.server.start_again();
    let again = world.replica();
    assert_ne!(token(&again, &world.alice).await.unwrap(), at_hand);
    assert_eq!((world.coze.refreshes(&world.account), again.lost()), (1, 0), "and nothing is lost");
}

#[tokio::test]
async fn a_user_who_is_not_in_redis_is_sent_to_authorise_and_not_told_that_the_store_is_down() {
    let world = World::new().await;
    let error = token(&world.replica(), &UserId::new("bob")).await.unwrap_err();
    assert_eq!(error.authorize_url(), Some(format!("{LOGIN}bob").as_str()));
}

// --- preferences ---

/// One more process: a client of the simulator whose layer shares what it learns.
async fn sharing(
    coze: &Simulator,
    tokens: &(String, String),
    log: RedisStore,
) -> CredentialFallback<support::HyperClient<ReplayBody<Full<Bytes>>>, Credential, Credential> {
    let preferences = SharedPreferences::open(log).await.unwrap();
    let region = Region::custom(coze.base_url()).unwrap();
    let layer = coze::tokens(&region, &tokens.0, &tokens.1).unwrap().with_shared_preferences(&preferences);
    layer.layer(support::hyper_client(support::Protocol::Http1))
}

#[tokio::test]
async fn a_new_replica_starts_where_the_others_are_and_all_hear_of_a_move_back() {
    let (server, coze) = (RedisServer::start(), Simulator::start().await.unwrap());
    let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
    let tokens = (coze.create_token(&person), coze.create_token(&enterprise));
    let workspace = coze.create_workspace(&person);
    let bots: Vec<String> = (0..5).map(|_| coze.create_bot(&workspace)).collect();
    let slots = async |client: &CredentialFallback<_, _, _>| {
        let mut slots = Vec::new();
        for bot in &bots {
            let request = Request::get(format!("{}/v1/bots/{bot}", coze.base_url()));
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let response = client.clone().oneshot(request).await.unwrap();
            slots.push(Outcome::of(&response).attempts().map(|attempt| attempt.slot).collect::<Vec<_>>());
        }
        slots
    };
    let all = |slots: &[Slot]| vec![slots.to_vec(); 5];

    let first = sharing(&coze, &tokens, store(&server)).await;
    coze.move_workspace(&workspace, &enterprise);
    assert_eq!(slots(&first).await, all(&[Slot::Primary, Slot::Fallback]), "each is learnt once");
    let written: usize = loop {
        let mut raw = raw(&server).await;
        let length = redis::cmd("XLEN").arg("tower-credential-fallback:{preferences}:log").to_owned();
        match length.query_async(&mut raw).await.unwrap() {
            length @ 5.. => break length,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert_eq!(written, 5);

    let second = sharing(&coze, &tokens, store(&server)).await;
    assert_eq!(slots(&second).await, all(&[Slot::Fallback]), "at its first call");

    coze.move_workspace(&workspace, &person);
    assert_eq!(slots(&second).await, all(&[Slot::Fallback, Slot::Primary]));
    let heard = async {
        while slots(&first).await != all(&[Slot::Primary]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("the first replica hears of it");

    // Others have a log of their own.
    let other = sharing(&coze, &tokens, store(&server).with_prefix("other")).await;
    coze.move_workspace(&workspace, &enterprise);
    assert_eq!(slots(&other).await, all(&[Slot::Primary, Slot::Fallback]));
}

#[tokio::test]
async fn with_redis_stopped_calls_go_on_and_a_replica_that_starts_is_told() {
    let (mut server, coze) = (RedisServer::start(), Simulator::start().await.unwrap());
    let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
    let tokens = (coze.create_token(&person), coze.create_token(&enterprise));
    let bot = coze.create_bot(&coze.create_workspace(&enterprise));
    let client = sharing(&coze, &tokens, store(&server)).await;
    server.kill();
    for attempts in [2, 1] {
        let request = Request::get(format!("{}/v1/bots/{bot}", coze.base_url()));
        let response = client.clone().oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(Outcome::of(&response).attempts().count(), attempts, "learnt all the same");
    }
    assert!(SharedPreferences::open(store(&server)).await.is_err());
}

#[tokio::test]
async fn a_log_on_a_cluster_is_read_as_it_was_written_whatever_its_length() {
    let nodes = cluster().await;
    let log = RedisStore::cluster([nodes[0].url().as_str()]).unwrap();
    let seed = log.seed(7).await.unwrap();
    assert_eq!((seed, log.seed(8).await.unwrap()), (7, 7), "whoever asks first");
    let learnt: Vec<Learnt> =
        (0..2_500).map(|n| Learnt::new(n * 2, [Slot::Fallback, Slot::Primary][n as usize % 2])).collect();
    log.append(&learnt).await.unwrap();
    let (mut found, mut after) = (Vec::new(), None);
    while let (page, Some(last)) = log.read(after.as_deref()).await.unwrap() {
        found.extend(page);
        after = Some(last);
    }
    assert_eq!(found, learnt);
    log.append(&learnt[..1]).await.unwrap();
    assert_eq!(log.read(after.as_deref()).await.unwrap().0, learnt[..1]);
}
