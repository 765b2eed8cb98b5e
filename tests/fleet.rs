//! A fleet: eight replicas of an application, each a process, act for fifty users whose tokens live two seconds. They
//! share a Redis. Replicas are killed, half of them in the middle of a refresh; Redis is killed twice.
//!
//! What has to hold: the identity server never sees a refresh token twice; no user is sent to authorise again but those
//! whose refresh was under way in a replica that was killed; every call ends in an answer or a clear error; nobody ever
//! gets another's token.
//!
//! `FLEET_SECONDS` says how long it runs; default 30.

#[path = "support/redis.rs"]
mod servers;
mod support;
#[path = "support/oauth.rs"]
mod users;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use comfy_table::{Table, presets};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use servers::RedisServer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::coze::simulator::{AccountId, Settings, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{Grant, OAuthClient, UserId, UserTokens};
use tower_credential_fallback::store::{
    Lease, RedisStore, StoreError, StoreFuture, Stored, TokenStore, Version,
};
use tower_credential_fallback::{BoxError, CredentialError, Error, Outcome, provider_fn};
use users::{consent, http_client, refresh_token_of};

const REPLICAS: usize = 8;
const USERS: usize = 50;
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);
const REDIS_RESTARTS: usize = 2;

/// Half of it for the exchange: more than this machine takes when all of the fleet is busy.
const LEASE: Duration = Duration::from_secs(6);

/// Longer than any call may take: the token's load timeout is 10 s.
const HANG: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match &arguments[1..] {
        [role, setup] if role == "replica" => {
            runtime.block_on(replica(serde_json::from_str(setup).unwrap()));
            ExitCode::SUCCESS
        }
        [option, ..] if option == "--list" => ExitCode::SUCCESS,
        // As libtest does it: a name that is not ours.
        [filter, ..] if !filter.starts_with('-') && !"fleet".contains(filter.as_str()) => ExitCode::SUCCESS,
        _ => runtime.block_on(fleet()),
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
        UserTokens::new(self.client(), store, |user| format!("{}{}", users::LOGIN, user.as_str()))
            .with_lease(LEASE)
            .unwrap()
    }
}

fn user(n: usize) -> UserId {
    UserId::new(format!("user-{n}"))
}

// --- a replica ---

/// Tells the parent. One write, so that it is whole even if the next thing is the end.
fn tell(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Tells when a refresh token is about to be spent, and when what replaces it is safe.
struct Telling(RedisStore);

fn is_marked(grant: &Grant) -> bool {
    serde_json::from_slice::<Value>(&grant.to_bytes()).unwrap().get("being_spent_by").is_some()
}

impl TokenStore for Telling {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>> {
        self.0.load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        Box::pin(async move {
            let is_mark = is_marked(grant);
            if is_mark {
                tell(&format!("mark {key}"));
            }
            let saved = self.0.save(key, grant, expected).await;
            if !is_mark && saved.is_ok() {
                tell(&format!("safe {key}"));
            }
            saved
        })
    }

    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        self.0.lease(key, time)
    }

    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        self.0.release(key, lease)
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let deleted = self.0.delete(key, expected).await;
            if matches!(deleted, Ok(true)) {
                tell(&format!("lost {key}"));
            }
            deleted
        })
    }
}

/// Makes calls for every user until its input ends.
async fn replica(setup: Setup) {
    let tokens = setup.tokens(Arc::new(Telling(setup.store())));
    let nobody = provider_fn(|_| async { Err(CredentialError::new("there is no fallback here")) });
    let layer = coze::layer(&setup.region(), tokens.clone(), nobody).unwrap();
    let client = ServiceBuilder::new().layer(layer).service(support::hyper_client(support::Protocol::Http1));
    let calls: Vec<JoinHandle<()>> = setup
        .bots
        .iter()
        .enumerate()
        .map(|(n, bot)| {
            let (client, url) = (client.clone(), format!("{}/v1/bots/{bot}", setup.coze));
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(100..700))).await;
                    let request =
                        Request::get(&url).extension(user(n)).body(Full::<Bytes>::default()).unwrap();
                    let ended = match tokio::time::timeout(HANG, client.clone().oneshot(request)).await {
                        Ok(answered) => name(answered).await,
                        Err(_) => "HANGS".to_owned(),
                    };
                    tell(&format!("call {ended}"));
                }
            })
        })
        .collect();
    let mut input = Vec::new();
    let _ = tokio::io::stdin().read_to_end(&mut input).await;
    for call in calls {
        call.abort();
        let _ = call.await;
    }
    tokens.settle().await;
    tell("settled");
}

/// What a call ended in, without what differs between users.
async fn name(
    answered: Result<http::Response<impl http_body::Body<Error: Into<BoxError>>>, BoxError>,
) -> String {
    let response = match answered {
        Ok(response) => response,
        Err(error) => {
            // The primary's reason; the fallback's is always the same.
            let ours = error.downcast_ref::<Error>();
            let cause =
                ours.and_then(|error| error.credential_error(tower_credential_fallback::Slot::Primary));
            return cause.map_or_else(|| format!("ERROR {error}"), |cause| format!("no token: {cause}"));
        }
    };
    let is_refused = Outcome::of(&response).is_refused();
    match response.into_body().collect().await {
        Ok(body) => {
            let answer: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            let verb = if is_refused { "refused" } else { "answered" };
            format!("{verb}: code {}", answer["code"])
        }
        Err(error) => format!("ERROR {}", error.into()),
    }
}

// --- the fleet ---

/// What replicas tell, and what becomes of them.
enum Event {
    Line(usize, String),
    /// Its output has ended.
    Gone(usize),
}

/// One process.
struct Replica {
    process: Child,
    input: Option<ChildStdin>,
    /// Users whose refresh token may be on its way.
    marked: HashSet<String>,
}

#[derive(Default)]
struct Tally {
    calls: BTreeMap<String, u64>,
    kills: u64,
    kills_in_refresh: u64,
    /// By user: refreshes that were under way in a replica that was killed.
    cut: HashMap<String, u64>,
    /// … of which the server had taken the token.
    cut_after_spending: u64,
    /// Users whose last one it had not taken.
    unspent: HashSet<String>,
    lost: HashMap<String, u64>,
    lost_unspent: u64,
    refreshes: u64,
    sign_ins: u64,
}

impl Tally {
    fn total(counts: &HashMap<String, u64>) -> u64 {
        counts.values().sum()
    }
}

fn spawn(number: usize, setup: &Setup, events: &mpsc::UnboundedSender<Event>) -> Replica {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["replica", &serde_json::to_string(setup).unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let events = events.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let _ = events.send(Event::Line(number, line));
        }
        let _ = events.send(Event::Gone(number));
    });
    Replica { input: process.stdin.take(), process, marked: HashSet::new() }
}

async fn fleet() -> ExitCode {
    let seconds = std::env::var("FLEET_SECONDS").ok().map_or(30, |text| text.parse().expect("FLEET_SECONDS"));
    let coze = Simulator::start_with(Settings::default().with_token_lifetime(TOKEN_LIFETIME)).await.unwrap();
    let redis = RedisServer::start();
    let app = coze.create_web_app();
    coze.register_redirect_uri(&app, users::CALLBACK);
    let accounts: Vec<AccountId> = (0..USERS).map(|_| coze.create_account()).collect();
    let setup = Setup {
        coze: coze.base_url().to_owned(),
        client_id: app.client_id,
        client_secret: app.client_secret.unwrap(),
        redis: redis.url(),
        bots: accounts.iter().map(|account| coze.create_bot(&coze.create_workspace(account))).collect(),
    };
    println!("{REPLICAS} replicas, {USERS} users, tokens of {TOKEN_LIFETIME:?}, {seconds} s");
    let mut this = Fleet {
        tokens: setup.tokens(Arc::new(setup.store())),
        client: setup.client(),
        store: setup.store(),
        redis: Arc::new(Mutex::new(redis)),
        tally: Tally::default(),
        setup,
        coze,
        accounts,
    };
    for n in 0..USERS {
        this.sign_in(n).await;
    }
    this.tally.sign_ins = 0;
    this.run(Duration::from_secs(seconds)).await;
    this.report()
}

struct Fleet {
    coze: Simulator,
    redis: Arc<Mutex<RedisServer>>,
    setup: Setup,
    client: OAuthClient,
    store: RedisStore,
    tokens: UserTokens,
    accounts: Vec<AccountId>,
    tally: Tally,
}

impl Fleet {
    /// What a user does who is sent to authorise.
    async fn sign_in(&mut self, n: usize) {
        let (url, login) = self.client.authorize().unwrap();
        let back = consent(&url, &self.accounts[n], true).await;
        let grant = self.client.finish(login, &back.state, &back.code.unwrap()).await.unwrap();
        self.tally.sign_ins += 1;
        self.until_redis_answers(async |tokens, _| tokens.sign_in(&user(n), &grant).await).await;
    }

    async fn until_redis_answers<T>(
        &self,
        ask: impl AsyncFn(&UserTokens, &RedisStore) -> Result<T, StoreError>,
    ) -> T {
        loop {
            match ask(&self.tokens, &self.store).await {
                Ok(answer) => return answer,
                Err(error) => assert!(error.is_unavailable(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn run(&mut self, time: Duration) {
        let (events, mut heard) = mpsc::unbounded_channel();
        let mut replicas: Vec<Replica> = (0..REPLICAS).map(|n| spawn(n, &self.setup, &events)).collect();
        let started = Instant::now();
        let mut restarts: Vec<Duration> = (1..=REDIS_RESTARTS as u32).map(|n| time * n / 3).collect();
        let mut next_kill = Instant::now() + Duration::from_secs(2);
        // Kills that wait for a refresh to begin.
        let mut is_armed = false;
        let mut next_word = Duration::from_secs(5);
        while started.elapsed() < time {
            let event = tokio::time::timeout(Duration::from_millis(20), heard.recv()).await;
            let mut victim = None;
            if let Ok(Some(Event::Line(number, line))) = event {
                let is_mark = self.hear(&mut replicas, number, &line).await;
                if is_mark && is_armed && fastrand::u8(0..8) == 0 {
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(0..8_000))).await;
                    (victim, is_armed) = (Some(number), false);
                }
            }
            if Instant::now() > next_kill {
                next_kill = Instant::now() + Duration::from_millis(fastrand::u64(100..500));
                if fastrand::bool() { is_armed = true } else { victim = Some(fastrand::usize(0..REPLICAS)) }
            }
            if let Some(number) = victim {
                self.kill(&mut replicas, number, &mut heard).await;
                replicas[number] = spawn(number, &self.setup, &events);
            }
            if restarts.first().is_some_and(|at| started.elapsed() > *at) {
                restarts.remove(0);
                let redis = Arc::clone(&self.redis);
                drop(tokio::task::spawn_blocking(move || {
                    let mut redis = redis.lock().unwrap();
                    redis.kill();
                    std::thread::sleep(Duration::from_millis(700));
                    redis.start_again();
                }));
            }
            if started.elapsed() > next_word {
                next_word += Duration::from_secs(5);
                let tally = &self.tally;
                println!(
                    "{:>3} s: {} calls, {} replicas killed, {} of them in a refresh; {} users lost",
                    started.elapsed().as_secs(),
                    tally.calls.values().sum::<u64>(),
                    tally.kills,
                    tally.kills_in_refresh,
                    Tally::total(&tally.lost),
                );
            }
        }
        // The end of a deployment: each finishes what it has begun.
        replicas.iter_mut().for_each(|replica| drop(replica.input.take()));
        let mut running = REPLICAS;
        let mut settled = 0;
        while running > 0 {
            match heard.recv().await.unwrap() {
                Event::Line(_, line) if line == "settled" => settled += 1,
                Event::Line(number, line) => drop(self.hear(&mut replicas, number, &line).await),
                Event::Gone(_) => running -= 1,
            }
        }
        assert_eq!(settled, REPLICAS, "a replica ended by itself");
        self.tally.refreshes = self.accounts.iter().map(|account| self.coze.refreshes(account)).sum();
    }

    /// Says whether a refresh begins.
    async fn hear(&mut self, replicas: &mut [Replica], number: usize, line: &str) -> bool {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let marked = &mut replicas[number].marked;
        match what {
            "call" => *self.tally.calls.entry(rest.to_owned()).or_default() += 1,
            "mark" => return marked.insert(rest.to_owned()),
            "safe" => drop(marked.remove(rest)),
            "lost" => {
                marked.remove(rest);
                *self.tally.lost.entry(rest.to_owned()).or_default() += 1;
                self.tally.lost_unspent += u64::from(self.tally.unspent.remove(rest));
                let n = rest.trim_start_matches("user-").parse().unwrap();
                self.sign_in(n).await;
            }
            _ => panic!("a replica says {line}"),
        }
        false
    }

    /// Kills a replica, and takes note of what it was doing.
    async fn kill(
        &mut self,
        replicas: &mut [Replica],
        number: usize,
        heard: &mut mpsc::UnboundedReceiver<Event>,
    ) {
        replicas[number].process.kill().await.unwrap();
        // What it has said before it died is still on its way.
        loop {
            match heard.recv().await.unwrap() {
                Event::Gone(gone) if gone == number => break,
                Event::Gone(other) => panic!("replica {other} ended by itself"),
                Event::Line(number, line) => drop(self.hear(replicas, number, &line).await),
            }
        }
        self.tally.kills += 1;
        let cut: Vec<String> = replicas[number].marked.drain().collect();
        self.tally.kills_in_refresh += u64::from(!cut.is_empty());
        for user in cut {
            let stored = self.until_redis_answers(async |_, store| store.load(&user).await).await;
            let token = stored.and_then(|stored| refresh_token_of(&stored.grant));
            if token.is_some_and(|token| self.coze.is_spent(&token)) {
                self.tally.cut_after_spending += 1;
                self.tally.unspent.remove(&user);
            } else {
                self.tally.unspent.insert(user.clone());
            }
            *self.tally.cut.entry(user).or_default() += 1;
        }
    }

    fn report(&self) -> ExitCode {
        let tally = &self.tally;
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(["what", "count"]);
        let cut = Tally::total(&tally.cut);
        let rows = [
            ("replicas killed", tally.kills),
            ("… in the middle of a refresh", tally.kills_in_refresh),
            ("Redis killed", REDIS_RESTARTS as u64),
            ("refreshes", tally.refreshes),
            ("refreshes cut off by a kill", cut),
            ("… the server had taken the token, its successor was not saved", tally.cut_after_spending),
            ("users sent to authorise again", Tally::total(&tally.lost)),
            ("… though the server had not taken the token yet, which nobody can tell", tally.lost_unspent),
            ("refresh tokens that the server saw twice", self.coze.refresh_tokens_seen_again()),
        ];
        for (what, count) in rows {
            table.add_row([what.to_owned(), count.to_string()]);
        }
        println!("\n{table}\n");
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(["a call ended in", "calls"]);
        for (name, count) in &tally.calls {
            table.add_row([name.clone(), count.to_string()]);
        }
        println!("{table}\n");

        let mut wrong = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };
        check(self.coze.refresh_tokens_seen_again() == 0, "a refresh token was sent twice".to_owned());
        for (user, lost) in &tally.lost {
            let cut = tally.cut.get(user).copied().unwrap_or(0);
            check(*lost <= cut, format!("{user} was asked {lost} times; refreshes cut off by a kill: {cut}"));
        }
        check(tally.sign_ins == Tally::total(&tally.lost), "somebody was asked without a cause".to_owned());
        for name in tally.calls.keys() {
            let known = [
                "answered: code 0",
                // A token that ended on its way.
                "refused: code 700012006",
                "no token: the token store cannot be reached",
                "no token: the user has to authorise again",
                "no token: fetching the token took longer than its time limit of 10s",
            ];
            let is_known = known.contains(&name.as_str())
                || name.starts_with("no token: the new token has expired on arrival");
            check(is_known, format!("a call ended in: {name}"));
        }
        let answered = tally.calls.get("answered: code 0").copied().unwrap_or(0);
        let calls: u64 = tally.calls.values().sum();
        check(answered * 2 > calls, format!("of {calls} calls, only {answered} were answered"));
        check(tally.kills_in_refresh > 0, "no kill fell into a refresh: run it for longer".to_owned());
        if wrong.is_empty() {
            println!("holds");
            return ExitCode::SUCCESS;
        }
        wrong.iter().for_each(|what| println!("WRONG: {what}"));
        ExitCode::FAILURE
    }
}
