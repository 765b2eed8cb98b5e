//! `RedisStore` with real Redis servers, which come and go.
#![cfg(all(feature = "redis-tls", feature = "simulator"))]

#[path = "support/proxy.rs"]
mod proxy;
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
use proxy::Proxy;
use redis::AsyncCommands;
use redis::cluster::ClusterClientBuilder;
use servers::RedisServer;
use stores::grant;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::simulator::{AccountId, Fault, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{OAuthClient, UserId, UserTokens, UserTokensBuilder};
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

/// Commands as an administrator gives them.
async fn command<T: redis::FromRedisValue>(server: &RedisServer, words: &str) -> T {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| _ = command.arg(word));
    command.query_async(&mut raw(server).await).await.unwrap()
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Three nodes that share the slots.
async fn cluster() -> [RedisServer; 3] {
    let nodes = std::array::from_fn(|_| cluster_node(&[]));
    join(&nodes).await;
    nodes
}

fn cluster_node(options: &[&str]) -> RedisServer {
    let basics =
        ["--cluster-enabled", "yes", "--cluster-config-file", "nodes", "--cluster-node-timeout", "2000"];
    RedisServer::start_with(&[&basics, options].concat())
}

async fn join(nodes: &[RedisServer; 3]) {
    for (node, slots) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
        let () = command(node, &format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
        for other in nodes {
            let () = command(node, &format!("CLUSTER MEET 127.0.0.1 {}", other.port)).await;
        }
    }
    for node in nodes {
        let is_ready = || async {
            let info: String = command(node, "CLUSTER INFO").await;
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        until("the nodes meet", is_ready).await;
    }
}

/// The key of a user's grant, and which of the nodes has it.
async fn place_of(user: &str, nodes: &[RedisServer]) -> (String, usize) {
    let key = format!("tower-credential-fallback:{{{user}}}:grant");
    for (n, node) in nodes.iter().enumerate() {
        let keys: Vec<String> = command(node, "KEYS *").await;
        if keys.contains(&key) {
            return (key, n);
        }
    }
    panic!("{key} is nowhere")
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
        let keys: Vec<String> = command(node, "KEYS *").await;
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

#[test]
fn times_of_nothing_are_refused() {
    let store = || RedisStore::new("redis://localhost/").unwrap();
    for none in [Duration::ZERO, Duration::from_micros(999)] {
        for (refused, field) in [(store().with_ttl(none), "ttl"), (store().with_timeout(none), "timeout")] {
            let error = refused.unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some(field)));
        }
    }
    assert_eq!(store().with_timeout(Duration::MAX).unwrap_err().field(), Some("timeout"));
    let least = Duration::from_millis(1);
    assert!(store().with_ttl(Duration::MAX).is_ok() && store().with_ttl(least).is_ok());
    assert!(store().with_timeout(least).is_ok());
    let no_nodes: Vec<String> = Vec::new();
    let error = RedisStore::try_from(ClusterClientBuilder::new(no_nodes)).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some("nodes")));
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

// --- connections that lead nowhere, or to the wrong server ---

#[tokio::test]
async fn a_save_whose_answer_was_lost_is_not_sent_again_and_so_not_taken_for_anothers() {
    let single = RedisServer::start();
    let to_single = Proxy::to(single.port).await;
    let (mut nodes, mut to_nodes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let proxy = Proxy::start().await;
        let node = cluster_node(&["--cluster-announce-port", &proxy.port.to_string()]);
        proxy.lead_to(node.port);
        nodes.push(node);
        to_nodes.push(proxy);
    }
    let nodes: [RedisServer; 3] = nodes.try_into().ok().unwrap();
    join(&nodes).await;
    let urls: Vec<String> = to_nodes.iter().map(Proxy::url).collect();

    let stores = [
        (RedisStore::new(&to_single.url()).unwrap(), vec![&to_single]),
        (RedisStore::cluster(urls.iter().map(String::as_str)).unwrap(), to_nodes.iter().collect()),
        // Whatever the application thinks of retries.
        (ClusterClientBuilder::new(urls.clone()).retries(16).try_into().unwrap(), to_nodes.iter().collect()),
    ];
    for (n, (store, proxies)) in stores.iter().enumerate() {
        let user = format!("user-{n}");
        let first = store.save(&user, &grant("1"), Version::NONE).await.unwrap().unwrap();
        for proxy in proxies {
            proxy.cut_after("r-second");
        }
        let error = store.save(&user, &grant("second"), first).await.expect_err("nobody knows");
        assert!(error.is_unavailable(), "{error}");
        assert!(proxies.iter().any(|proxy| proxy.has_cut()), "it was sent");
        let found = store.load(&user).await.unwrap().unwrap();
        assert!(found.version > first, "and it was done");
        // What may be repeated is, so that nobody notices.
        for proxy in proxies {
            proxy.cut_after(&format!("{{{user}}}"));
        }
        assert_eq!(store.load(&user).await.unwrap().unwrap().version, found.version);
        assert!(proxies.iter().any(|proxy| proxy.has_cut()));
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_back_is_given_up_and_a_new_one_made() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port).await;
    let store = RedisStore::new(&proxy.url()).unwrap().with_timeout(Duration::from_secs(1)).unwrap();
    let first = store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    proxy.fall_silent();
    assert!(store.load("alice").await.unwrap().is_some(), "at the first try");
    proxy.fall_silent();
    // What may not be repeated fails, in time …
    let started = Instant::now();
    assert!(store.save("alice", &grant("2"), first).await.unwrap_err().is_unavailable());
    assert!(started.elapsed() < Duration::from_secs(3));
    // … and the next question has a new connection, whatever it is.
    assert!(store.save("alice", &grant("2"), first).await.unwrap().is_some());
}

/// A primary, and a replica that has everything the primary has.
async fn pair() -> (RedisServer, RedisServer) {
    let primary = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    let is_linked = || async {
        let info: String = command(&replica, "INFO replication").await;
        info.contains("master_link_status:up")
    };
    until("the replica is in step", is_linked).await;
    (primary, replica)
}

async fn wait_for_replica(primary: &RedisServer) {
    let mut raw = raw(primary).await;
    let () = raw.set("last", 1).await.unwrap();
    let replicas: u64 = redis::cmd("WAIT").arg(1).arg(10_000).query_async(&mut raw).await.unwrap();
    assert_eq!(replicas, 1);
}

#[tokio::test]
async fn after_a_failover_from_a_server_that_hangs_the_next_question_finds_the_new_one() {
    let (old, new) = pair().await;
    let proxy = Proxy::to(old.port).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    let first = store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    wait_for_replica(&old).await;
    old.freeze();
    let () = command(&new, "REPLICAOF NO ONE").await;
    proxy.lead_to(new.port);
    assert_eq!(store.load("alice").await.unwrap().unwrap().version, first);
    assert!(store.save("alice", &grant("2"), first).await.unwrap().is_some());
}

#[tokio::test]
async fn after_a_failover_from_a_server_that_lives_on_as_a_replica_even_a_save_finds_the_new_one() {
    let (old, new) = pair().await;
    let proxy = Proxy::to(old.port).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    let first = store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    wait_for_replica(&old).await;
    let () = command(&new, "REPLICAOF NO ONE").await;
    let () = command(&old, &format!("REPLICAOF 127.0.0.1 {}", new.port)).await;
    proxy.lead_to(new.port);
    // The old one still answers on the old connection: that it may not write.
    assert!(store.save("alice", &grant("2"), first).await.unwrap().is_some());
    assert!(store.lease("alice", OVER).await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_was_a_replica_for_a_while_or_hung_is_used_again() {
    let server = RedisServer::start();
    let store = store(&server).with_timeout(Duration::from_millis(300)).unwrap();
    let first = store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    // Of a server that is not there.
    let () = command(&server, "REPLICAOF 127.0.0.1 1").await;
    assert!(store.save("alice", &grant("2"), first).await.unwrap_err().is_unavailable());
    let () = command(&server, "REPLICAOF NO ONE").await;
    let second = store.save("alice", &grant("2"), first).await.unwrap().unwrap();

    server.freeze();
    for _ in 0..3 {
        assert!(store.load("alice").await.unwrap_err().is_unavailable());
        assert!(store.lease("alice", OVER).await.unwrap_err().is_unavailable());
    }
    server.thaw();
    assert_eq!(store.load("alice").await.unwrap().unwrap().version, second);
}

#[tokio::test]
async fn a_server_that_is_still_reading_its_disk_is_waited_for() {
    let mut server = RedisServer::start();
    let store = store(&server).with_timeout(Duration::from_secs(20)).unwrap();
    store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    let mut filling = redis::pipe();
    (0..8_000).for_each(|n| _ = filling.set(format!("filler-{n}"), n).ignore());
    filling.exec_async(&mut raw(&server).await).await.unwrap();
    server.kill();
    // In microseconds for each key. While it reads, it looks up after every thousand or so.
    server.start_again_with(&["--key-load-delay", "300"]);
    let mut raw = raw(&server).await;
    let answered: Result<Option<String>, _> = raw.get("filler-1").await;
    assert_eq!(answered.unwrap_err().code(), Some("LOADING"), "or this proves nothing");
    assert!(store.load("alice").await.unwrap().is_some());
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_sent_again() {
    let server = RedisServer::start();
    let store = store(&server);
    let first = store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    let () = command(&server, "SCRIPT FLUSH").await;
    let second = store.save("alice", &grant("2"), first).await.unwrap().unwrap();
    let () = command(&server, "SCRIPT FLUSH").await;
    assert_eq!(store.load("alice").await.unwrap().unwrap().version, second);
    let lease = store.lease("alice", OVER).await.unwrap().unwrap();
    let () = command(&server, "SCRIPT FLUSH").await;
    store.release("alice", lease).await.unwrap();
    assert!(store.delete("alice", second).await.unwrap());
}

// --- a cluster that changes ---

#[tokio::test]
async fn while_a_slot_moves_and_after_it_has_its_users_are_served() {
    let nodes = cluster().await;
    let store = RedisStore::cluster([nodes[0].url().as_str()]).unwrap();
    let first = store.save("alice", &grant("1"), Version::NONE).await.unwrap().unwrap();
    let (key, from) = place_of("alice", &nodes).await;
    let (source, target) = (&nodes[from], &nodes[(from + 1) % 3]);
    let slot: u64 = command(source, &format!("CLUSTER KEYSLOT {key}")).await;
    let (source_id, target_id): (String, String) =
        (command(source, "CLUSTER MYID").await, command(target, "CLUSTER MYID").await);
    let () = command(target, &format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}")).await;
    let () = command(source, &format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}")).await;
    assert!(store.load("alice").await.unwrap().is_some(), "it has not gone yet");
    let () = command(source, &format!("MIGRATE 127.0.0.1 {} {key} 0 5000", target.port)).await;

    // The old node sends us to the new one, for this once.
    assert_eq!(store.load("alice").await.unwrap().unwrap().version, first);
    let many = join_all((0..50).map(|_| store.load("alice"))).await;
    assert!(many.into_iter().all(|found| found.unwrap().is_some()));
    let second = store.save("alice", &grant("2"), first).await.unwrap().unwrap();
    let lease = store.lease("alice", OVER).await.unwrap().unwrap();

    for node in [target, source] {
        let () = command(node, &format!("CLUSTER SETSLOT {slot} NODE {target_id}")).await;
    }
    // … and now for good. A save as well is sent on: it was not done.
    let third = store.save("alice", &grant("3"), second).await.unwrap().unwrap();
    store.release("alice", lease).await.unwrap();
    assert!(store.delete("alice", third).await.unwrap());
}

#[tokio::test]
async fn after_a_node_of_a_cluster_hangs_the_replica_that_takes_over_is_found() {
    let nodes = cluster().await;
    let replica = cluster_node(&[]);
    let () = command(&replica, &format!("CLUSTER MEET 127.0.0.1 {}", nodes[0].port)).await;
    let urls: Vec<String> = nodes.iter().map(RedisServer::url).collect();
    let store = RedisStore::cluster(urls.iter().map(String::as_str)).unwrap();
    let users: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
    for user in &users {
        store.save(user, &grant("1"), Version::NONE).await.unwrap().unwrap();
    }
    let (_, at) = place_of(&users[0], &nodes).await;
    let id: String = command(&nodes[at], "CLUSTER MYID").await;
    until("the replica knows all", || async {
        let known: String = command(&replica, "CLUSTER NODES").await;
        let others: Vec<String> =
            join_all(nodes.iter().map(|node| command::<String>(node, "CLUSTER NODES"))).await;
        [known].iter().chain(&others).all(|known| known.lines().count() == 4 && !known.contains("handshake"))
    })
    .await;
    let () = command(&replica, &format!("CLUSTER REPLICATE {id}")).await;
    until("the replica is in step", || async {
        let info: String = command(&replica, "INFO replication").await;
        info.contains("master_link_status:up")
    })
    .await;

    nodes[at].freeze();
    // Those of other nodes are served meanwhile, though a question may come at a bad moment.
    let mut elsewhere = None;
    for user in &users {
        let others = [&nodes[(at + 1) % 3], &nodes[(at + 2) % 3]];
        let key = format!("tower-credential-fallback:{{{user}}}:grant");
        for node in others {
            let found: u64 = raw(node).await.exists(&key).await.unwrap_or(0);
            elsewhere = elsewhere.or((found == 1).then(|| user.clone()));
        }
    }
    let elsewhere = elsewhere.expect("20 users are not all on one node");
    until("another node serves", || async {
        store.load(&elsewhere).await.is_ok_and(|found| found.is_some())
    })
    .await;
    until("the replica serves", || async { store.load(&users[0]).await.is_ok_and(|found| found.is_some()) })
        .await;
    assert!(store.save(&users[0], &grant("2"), Version(1)).await.unwrap().is_some());
    nodes[at].thaw();
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
        self.replica_with().build().unwrap()
    }

    fn replica_with(&self) -> UserTokensBuilder {
        users::users_with(&self.client, &Arc::new(store(&self.server)))
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
async fn with_redis_hanging_tokens_at_hand_go_on_and_other_calls_end_within_the_load_timeout() {
    let world = World::new().await;
    let (limit, lease) = (Duration::from_secs(5), Duration::from_secs(6));
    let replica = || world.replica_with().with_load_timeout(limit).with_lease(lease).build().unwrap();
    let (serving, starting) = (replica(), replica());
    let at_hand = token(&serving, &world.alice).await.unwrap();
    world.server.freeze();
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(token(&serving, &world.alice).await.unwrap(), at_hand);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waits");
    let error = token(&starting, &world.alice).await.unwrap_err();
    assert!(started.elapsed() < limit);
    assert_eq!(error.to_string(), "the token store cannot be reached");
    world.clock.advance(OVER);
    assert_eq!(
        token(&serving, &world.alice).await.unwrap_err().to_string(),
        "the token store cannot be reached"
    );
    world.server.thaw();
    // What was asked of it meanwhile it does now: a lease may have been taken that nobody uses.
    let patient = world.replica_with().with_lease(Duration::from_secs(90));
    let again = patient.with_load_timeout(Duration::from_secs(60)).build().unwrap();
    assert_ne!(token(&again, &world.alice).await.unwrap(), at_hand);
    assert_eq!((world.coze.refreshes(&world.account), again.lost()), (1, 0));
    assert_eq!(world.coze.refresh_tokens_seen_again(), 0);
}

#[tokio::test]
async fn with_redis_down_for_longer_than_a_lease_in_the_middle_of_a_refresh_nothing_is_spent_twice_or_lost() {
    const LEASE: Duration = Duration::from_secs(5);
    let mut world = World::new().await;
    let replica = || world.replica_with().with_load_timeout(LEASE / 2).with_lease(LEASE).build().unwrap();
    let (refreshing, other) = (replica(), replica());
    let old = token(&refreshing, &world.alice).await.unwrap();
    world.clock.advance(OVER);
    // The answer comes in pieces, so that there is time to stop Redis after the server has taken the token.
    world.coze.inject(Fault::trickle(64, Duration::from_millis(30)).on("/api/permission/oauth2/token"));
    let refreshed = {
        let (refreshing, alice) = (refreshing.clone(), world.alice.clone());
        tokio::spawn(async move { token(&refreshing, &alice).await })
    };
    until("the server has taken the token", || async { world.coze.refreshes(&world.account) == 1 }).await;
    world.server.kill();
    let new = refreshed.await.unwrap().unwrap();
    assert_ne!(new, old, "it is used, though it cannot be stored yet");
    assert_eq!(
        token(&other, &world.alice).await.unwrap_err().to_string(),
        "the token store cannot be reached"
    );
    tokio::time::sleep(LEASE + LEASE / 2).await;
    assert_eq!(token(&refreshing, &world.alice).await.unwrap(), new);

    world.server.start_again();
    let (stores, key) = (store(&world.server), other.store_key(&world.alice));
    until("the new one is stored", || async {
        let stored = stores.load(&key).await.ok().flatten();
        stored.is_some_and(|stored| String::from_utf8_lossy(&stored.grant.to_bytes()).contains(&new))
    })
    .await;
    assert_eq!(token(&other, &world.alice).await.unwrap(), new);
    refreshing.settle().await;
    assert_eq!((world.coze.refreshes(&world.account), world.coze.refresh_tokens_seen_again()), (1, 0));
    assert_eq!((refreshing.lost(), other.lost()), (0, 0));
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
