//! [`Fleet`]: starts replicas, listens to them, and kills them.

use std::collections::{BTreeMap, HashSet};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tower_credential_fallback::coze::simulator::{AccountId, Settings, Simulator};
use tower_credential_fallback::oauth::{OAuthClient, UserTokens};
use tower_credential_fallback::store::{RedisStore, StoreError, Stored, TokenStore};

use crate::replica::{is_marked, now};
use crate::servers::RedisServer;
use crate::users::{consent, refresh_token_of};
use crate::verdict::{Call, Cut, Loss, Seen, Server, Span};
use crate::{LEASE, REDIS_RESTARTS, REPLICAS, Setup, TOKEN_LIFETIME, USERS, user};

/// What replicas tell, and what becomes of them.
enum Event {
    Line(usize, String),
    /// Its output has ended.
    Gone(usize),
}

/// How far a refresh is, at the most: what has been told is about to happen.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// The mark is being saved, and the token sent.
    Marked,
    /// The next token is there, and being saved.
    Answered,
}

/// One process.
struct Replica {
    process: Child,
    input: Option<ChildStdin>,
    /// Keys of users whose lease it holds, or asks for.
    leased: HashSet<String>,
    /// … whose refresh token is marked, or about to be.
    marked: HashSet<String>,
    /// … whose next token it has, and not yet stored.
    answered: HashSet<String>,
    /// … whose grant it deletes, and since when.
    deleting: BTreeMap<String, u64>,
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
    let (leased, marked, answered, deleting) = Default::default();
    Replica { input: process.stdin.take(), process, leased, marked, answered, deleting }
}

struct Fleet {
    coze: Simulator,
    redis: Arc<Mutex<RedisServer>>,
    outages: Arc<Mutex<Vec<Span>>>,
    setup: Setup,
    client: OAuthClient,
    store: RedisStore,
    tokens: UserTokens,
    accounts: Vec<AccountId>,
    /// Those whose grant was given up …
    absent: Arc<Mutex<HashSet<usize>>>,
    /// … log in again.
    signing_in: JoinSet<Loss>,
    seen: Seen,
}

pub(crate) async fn run(time: Duration) -> ExitCode {
    let coze = Simulator::start_with(Settings::default().with_token_lifetime(TOKEN_LIFETIME)).await.unwrap();
    let redis = RedisServer::start();
    let app = coze.create_web_app();
    coze.register_redirect_uri(&app, crate::users::CALLBACK);
    let accounts: Vec<AccountId> = (0..USERS).map(|_| coze.create_account()).collect();
    let setup = Setup {
        coze: coze.base_url().to_owned(),
        client_id: app.client_id,
        client_secret: app.client_secret.unwrap(),
        redis: redis.url(),
        bots: accounts.iter().map(|account| coze.create_bot(&coze.create_workspace(account))).collect(),
    };
    println!("{REPLICAS} replicas, {USERS} users, tokens of {TOKEN_LIFETIME:?}, {time:?}");
    let mut this = Fleet {
        tokens: setup.tokens(Arc::new(setup.store())),
        client: setup.client(),
        store: setup.store(),
        redis: Arc::new(Mutex::new(redis)),
        outages: Arc::default(),
        absent: Arc::default(),
        signing_in: JoinSet::new(),
        seen: Seen::default(),
        setup,
        coze,
        accounts,
    };
    for n in 0..USERS {
        this.sign_in(n).await;
    }
    this.live(time).await;
    this.seen.losses.extend(std::mem::take(&mut this.signing_in).join_all().await);
    this.seen.losses.sort_by_key(|loss| loss.absent.from);
    this.seen.outages = std::mem::take(&mut this.outages.lock().unwrap());
    let wrong = this.seen.judge(&Server {
        refreshes: this.accounts.iter().map(|account| this.coze.refreshes(account)).sum(),
        tokens_seen_again: this.coze.refresh_tokens_seen_again(),
        is_spent: &|token| this.coze.is_spent(token),
    });
    wrong.iter().for_each(|what| println!("WRONG: {what}"));
    if wrong.is_empty() {
        println!("holds");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

/// The store's answer. If Redis is away, `None`, after a while: to be asked again.
async fn or_wait<T>(answered: Result<T, StoreError>) -> Option<T> {
    if let Err(error) = &answered {
        assert!(error.is_unavailable(), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answered.ok()
}

/// What a user does who is told to authorize. A grant that may have been stored is not stored again: it may be in use by
/// then, and its refresh token spent.
async fn sign_in(client: OAuthClient, tokens: UserTokens, n: usize, account: AccountId) {
    loop {
        let (url, login) = client.authorize().unwrap();
        let back = consent(&url, &account, true).await;
        let grant = client.finish(login, &back.state, &back.code.unwrap()).await.unwrap();
        if or_wait(tokens.sign_in(&user(n), &grant).await).await.is_some() {
            return;
        }
    }
}

impl Fleet {
    fn sign_in(&self, n: usize) -> impl Future<Output = ()> + use<> {
        sign_in(self.client.clone(), self.tokens.clone(), n, self.accounts[n].clone())
    }

    async fn live(&mut self, time: Duration) {
        let (events, mut heard) = mpsc::unbounded_channel();
        let mut replicas: Vec<Replica> = (0..REPLICAS).map(|n| spawn(n, &self.setup, &events)).collect();
        let started = Instant::now();
        let mut restarts: Vec<Duration> = (1..=REDIS_RESTARTS as u32).map(|n| time * n / 3).collect();
        let mut next_kill = Instant::now() + Duration::from_secs(2);
        // A kill that waits for a refresh to come so far.
        let mut awaited: Option<Stage> = None;
        let mut next_word = Duration::from_secs(5);
        while started.elapsed() < time {
            let event = tokio::time::timeout(Duration::from_millis(20), heard.recv()).await;
            let mut victim = None;
            if let Ok(Some(Event::Line(number, line))) = event {
                let stage = self.hear(&mut replicas, number, &line).await;
                if stage.is_some() && stage == awaited && fastrand::u8(0..4) == 0 {
                    if stage == Some(Stage::Marked) {
                        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..8_000))).await;
                    }
                    (victim, awaited) = (Some(number), None);
                }
            }
            if Instant::now() > next_kill {
                next_kill = Instant::now() + Duration::from_millis(fastrand::u64(100..500));
                match fastrand::u8(0..4) {
                    0 => awaited = Some(Stage::Marked),
                    1 => awaited = Some(Stage::Answered),
                    _ => victim = Some(fastrand::usize(0..REPLICAS)),
                }
            }
            if let Some(number) = victim {
                self.kill(&mut replicas, number, &mut heard).await;
                replicas[number] = spawn(number, &self.setup, &events);
            }
            if restarts.first().is_some_and(|at| started.elapsed() > *at) {
                restarts.remove(0);
                self.restart_redis();
            }
            if started.elapsed() > next_word {
                next_word += Duration::from_secs(5);
                let (seen, lost) = (&self.seen, self.signing_in.len());
                println!(
                    "{:>3} s: {} of {} calls answered, {} replicas killed, {} of them in a refresh; {} users lost",
                    started.elapsed().as_secs(),
                    seen.answered(),
                    seen.calls.len(),
                    seen.kills,
                    seen.kills_in_refresh,
                    lost,
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
    }

    fn restart_redis(&self) {
        let (redis, outages) = (Arc::clone(&self.redis), Arc::clone(&self.outages));
        drop(tokio::task::spawn_blocking(move || {
            let mut redis = redis.lock().unwrap();
            let from = now();
            redis.kill();
            std::thread::sleep(Duration::from_millis(700));
            redis.start_again();
            outages.lock().unwrap().push(Span { from, to: now() });
        }));
    }

    /// Says how far a refresh has come.
    async fn hear(&mut self, replicas: &mut [Replica], number: usize, line: &str) -> Option<Stage> {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let replica = &mut replicas[number];
        let key = || rest.to_owned();
        match what {
            "call" => {
                let words: Vec<&str> = rest.splitn(4, ' ').collect();
                let [user, from, to, ending] = words[..] else { panic!("a replica says {line}") };
                let span = Span { from: from.parse().unwrap(), to: to.parse().unwrap() };
                let (user, ending) = (user.parse().unwrap(), ending.to_owned());
                self.seen.calls.push(Call { user, span, ending });
            }
            "lease" => drop(replica.leased.insert(key())),
            "released" => drop(replica.leased.remove(rest)),
            "mark" => {
                replica.answered.remove(rest);
                replica.marked.insert(key());
                return Some(Stage::Marked);
            }
            "answer" => {
                replica.answered.insert(key());
                return Some(Stage::Answered);
            }
            "safe" => {
                replica.marked.remove(rest);
                replica.answered.remove(rest);
            }
            "deleting" => {
                let (key, from) = rest.split_once(' ').unwrap();
                replica.deleting.insert(key.to_owned(), from.parse().unwrap());
            }
            "deletion-over" => {
                let from = replica.deleting.remove(rest).expect("announced");
                if self.look(rest).await.is_none() {
                    replica.marked.remove(rest);
                    self.lose(user_of(rest), from);
                }
            }
            _ => panic!("a replica says {line}"),
        }
        None
    }

    /// A grant is gone: its user logs in.
    fn lose(&mut self, user: usize, from: u64) {
        if !self.absent.lock().unwrap().insert(user) {
            return;
        }
        let (signing_in, absent) = (self.sign_in(user), Arc::clone(&self.absent));
        self.signing_in.spawn(async move {
            signing_in.await;
            absent.lock().unwrap().remove(&user);
            Loss { user, absent: Span { from, to: now() } }
        });
    }

    /// What is stored. What a replica sent last may be in Redis's inbox still: by the time of a second answer it has been
    /// read.
    async fn look(&self, key: &str) -> Option<Stored> {
        let mut stored = None;
        for _ in 0..2 {
            stored = loop {
                if let Some(stored) = or_wait(self.store.load(key).await).await {
                    break stored;
                }
            };
        }
        stored
    }

    /// Kills a replica, and takes note of what it leaves behind.
    async fn kill(
        &mut self,
        replicas: &mut [Replica],
        number: usize,
        heard: &mut mpsc::UnboundedReceiver<Event>,
    ) {
        replicas[number].process.kill().await.unwrap();
        let at = now();
        // What it has said before it died is still on its way.
        loop {
            match heard.recv().await.unwrap() {
                Event::Gone(gone) if gone == number => break,
                Event::Gone(other) => panic!("replica {other} ended by itself"),
                Event::Line(number, line) => drop(self.hear(replicas, number, &line).await),
            }
        }
        let dead = &replicas[number];
        self.seen.kills += 1;
        self.seen.kills_in_refresh += u64::from(!dead.leased.is_empty());
        for key in &dead.leased {
            let span = Span { from: at, to: at + LEASE.as_millis() as u64 };
            self.seen.held_by_the_dead.push((user_of(key), span));
        }
        for key in &dead.marked {
            let marked = self.look(key).await.filter(|stored| is_marked(&stored.grant));
            if let Some(token) = marked.and_then(|stored| refresh_token_of(&stored.grant)) {
                let has_answer = dead.answered.contains(key);
                self.seen.cuts.push(Cut { user: user_of(key), at, token, has_answer });
            }
        }
        for (key, from) in std::mem::take(&mut replicas[number].deleting) {
            if self.look(&key).await.is_none() {
                self.lose(user_of(&key), from);
            }
        }
    }
}

/// Keys end in the user's name.
fn user_of(key: &str) -> usize {
    key.rsplit_once("user-").unwrap().1.parse().unwrap()
}
