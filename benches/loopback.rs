//! Real clients and a real server on one machine: calls per second and latency, before, during and after the move.
//!
//! Measured in several processes, one after the other: where the loader and the allocator put things stays the same while a
//! process runs, and makes a difference as large as those which are looked for.

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::f64::consts::PI;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest_chain::{ChainMiddleware, Chainer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt};
use tower_credential_fallback::reqwest::FallbackMiddleware;
use tower_credential_fallback::{Credential, CredentialFallbackLayer};

/// An odd number, so that one of them is in the middle.
const PROCESSES: usize = 9;
/// Set in each of them.
const IS_ONE_OF_THEM: &str = "LOOPBACK_PROCESS";
const CALLERS: usize = 16;
/// Short, so that what disturbs one of them disturbs those beside it too.
const ROUND: Duration = Duration::from_millis(25);
/// An odd number too.
const ROUNDS: usize = 101;
const BODY: usize = 4 * 1024;
/// Each call is about one of these, at random. They move one after the other.
const BOTS: usize = 1_000;

/// Says whether the call was accepted in the end.
type Call = Arc<dyn Fn(String) -> BoxFuture<'static, bool> + Send + Sync>;

/// Refuses the old token for bots that have moved, the new one for the others, and counts.
struct Server {
    url: String,
    /// Bots of a lower number have moved.
    moved: Arc<AtomicUsize>,
    requests: Arc<Count>,
}

/// Alone in its cache lines: the requests are counted by both threads, and nobody's client is to suffer from having been
/// allocated beside that.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/v3/chat", listener.local_addr().expect("it is bound"));
        let (bots_moved, requests) = (Arc::<AtomicUsize>::default(), Arc::<Count>::default());
        let (moved, count) = (Arc::clone(&bots_moved), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (moved, count) = (Arc::clone(&moved), Arc::clone(&count));
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    count.0.fetch_add(1, Ordering::Relaxed);
                    let bot: usize = request
                        .uri()
                        .query()
                        .and_then(bot_of)
                        .and_then(|bot| bot.parse().ok())
                        .expect("a bot");
                    let right = if bot < moved.load(Ordering::Relaxed) { common::NEW } else { common::OLD };
                    let is_right = request.headers().get(AUTHORIZATION).is_some_and(|value| value == right);
                    async move {
                        let _ = request.into_body().collect().await;
                        let (status, text) =
                            if is_right { (200, common::ACCEPTED) } else { (401, common::REFUSED) };
                        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                        *response.status_mut() = status.try_into().expect("a valid status");
                        response
                            .headers_mut()
                            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                        Ok::<_, Infallible>(response)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, moved: bots_moved, requests }
    }

    fn move_bots(&self, share: f64) {
        self.moved.store((BOTS as f64 * share) as usize, Ordering::Relaxed);
    }
}

fn bot_of(query: &str) -> Option<&str> {
    query.strip_prefix("bot=")
}

/// The layer of all the benchmarks, which learns by bot.
fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    fn bot<'r>(head: &'r Parts, _: &'r [u8]) -> Option<&'r str> {
        bot_of(head.uri.query()?)
    }
    common::layer().with_resource_key(bot)
}

fn content() -> Bytes {
    Bytes::from(vec![b'x'; BODY])
}

fn request(url: &str) -> Request<Full<Bytes>> {
    let mut request = Request::post(url).body(Full::new(content())).expect("a valid URL");
    *request.headers_mut() = common::headers();
    request
}

/// … with a credential: made once, as whoever calls often would.
fn signed(url: &str, token: &HeaderValue) -> Request<Full<Bytes>> {
    let mut request = request(url);
    request.headers_mut().insert(AUTHORIZATION, token.clone());
    request
}

fn hyper<B>() -> Client<HttpConnector, B>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn is_accepted<S, B>(client: S, request: Request<Full<Bytes>>) -> bool
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: std::fmt::Debug>,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let response = client.oneshot(request).await.expect("loopback");
    let is_accepted = response.status().is_success();
    response.into_body().collect().await.expect("loopback");
    is_accepted
}

fn hyper_bare() -> Call {
    let (client, token) = (hyper(), HeaderValue::from_static(common::OLD));
    Arc::new(move |url| Box::pin(is_accepted(client.clone(), signed(&url, &token))))
}

/// A layer sets the credential, and the body is kept until the answer comes, as by anyone who may have to send it again.
fn hyper_kept() -> Call {
    let client = common::set(common::OLD).layer(hyper());
    let kept = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let body = request.body().clone();
        client.clone().oneshot(request).inspect(move |_| drop(body))
    });
    Arc::new(move |url| Box::pin(is_accepted(kept.clone(), request(&url))))
}

fn hyper_ours() -> Call {
    let client = layer().layer(hyper());
    Arc::new(move |url| Box::pin(is_accepted(client.clone(), request(&url))))
}

/// Clone, send, collect, parse, look at the code, send again with a second client.
fn hyper_recipe() -> Call {
    let (personal, old) = (hyper(), HeaderValue::from_static(common::OLD));
    // Of no use before a refusal.
    let second = Arc::new((hyper(), HeaderValue::from_static(common::NEW)));
    Arc::new(move |url| {
        let (personal, second) = (personal.clone(), Arc::clone(&second));
        let request = signed(&url, &old);
        Box::pin(async move {
            let mut again = request.clone();
            let response = personal.oneshot(request).await.expect("loopback");
            let is_accepted_at_once = response.status().is_success();
            let body = response.into_body().collect().await.expect("loopback").to_bytes();
            let code = serde_json::from_slice::<Value>(&body).ok().and_then(|json| json["code"].as_i64());
            if matches!(code, Some(4100 | 4101)) {
                let (enterprise, new) = &*second;
                again.headers_mut().insert(AUTHORIZATION, new.clone());
                return is_accepted(enterprise.clone(), again).await;
            }
            is_accepted_at_once
        })
    })
}

struct Swap;

#[async_trait]
impl Chainer for Swap {
    type State = bool;

    async fn chain(
        &self,
        result: reqwest_middleware::Result<reqwest::Response>,
        has_swapped: &mut bool,
        request: &mut reqwest::Request,
    ) -> reqwest_middleware::Result<Option<reqwest::Response>> {
        let response = result?;
        if response.status() != 401 || std::mem::replace(has_swapped, true) {
            return Ok(Some(response));
        }
        request.headers_mut().insert(AUTHORIZATION, const { HeaderValue::from_static(common::NEW) });
        Ok(None)
    }
}

fn reqwest(client: reqwest_middleware::ClientWithMiddleware, token: Option<&'static str>) -> Call {
    let token = token.map(HeaderValue::from_static);
    Arc::new(move |url| {
        let request = client.post(url).headers(common::headers()).body(content());
        let request = token.iter().fold(request, |request, token| request.header(AUTHORIZATION, token));
        Box::pin(async move {
            let response = request.send().await.expect("loopback");
            let is_accepted = response.status().is_success();
            response.bytes().await.expect("loopback");
            is_accepted
        })
    })
}

fn reqwest_with<M: reqwest_middleware::Middleware>(
    middleware: M,
) -> reqwest_middleware::ClientWithMiddleware {
    reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(middleware).build()
}

/// Calls in a round by all callers, those that were accepted, and how long each took, in microseconds.
async fn round(call: &Call, url: &str) -> (f64, u64, Vec<f64>) {
    let started = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (call, url) = (Arc::clone(call), url.to_owned());
            tokio::spawn(async move {
                let (mut accepted, mut took) = (0, Vec::new());
                while started.elapsed() < ROUND {
                    let url = format!("{url}?bot={}", fastrand::usize(..BOTS));
                    let sent = Instant::now();
                    accepted += u64::from(call(url).await);
                    took.push(sent.elapsed().as_secs_f64() * 1e6);
                }
                (accepted, took)
            })
        })
        .collect();
    let (mut accepted, mut took) = (0, Vec::new());
    for caller in callers {
        let (more, each) = caller.await.expect("no caller panics");
        accepted += more;
        took.extend(each);
    }
    (took.len() as f64 / started.elapsed().as_secs_f64(), accepted, took)
}

/// What one way has come to.
#[derive(Default)]
struct Seen {
    /// Of each round, calls per second.
    rates: Vec<f64>,
    /// Of each call, microseconds.
    took: Vec<f64>,
    requests: u64,
    accepted: u64,
}

impl Seen {
    /// How long these many of a hundred calls took, at the most.
    fn latency(&self, percent: usize) -> f64 {
        self.took[self.took.len() * percent / 100]
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let number = values.len() as f64;
    values.sum::<f64>() / number
}

/// Everybody in turn, in another order in each round, so that all meet with the same noise. `moved` is the share of the bots
/// that have moved by each round. Rates and latencies are in ratio to the bare clients' of the same kind.
async fn phase(
    name: &str,
    server: &Server,
    ways: &[(&'static str, Call)],
    moved: impl Fn(usize) -> f64,
) -> Value {
    let mut seen: Vec<_> = ways.iter().map(|_| Seen::default()).collect();
    let mut order: Vec<_> = (0..ways.len()).collect();
    for nth in 0..ROUNDS {
        eprint!("\r{name}: round {} of {ROUNDS}  ", nth + 1);
        server.move_bots(moved(nth));
        fastrand::shuffle(&mut order);
        for &way in &order {
            let ((_, call), seen) = (&ways[way], &mut seen[way]);
            let before = server.requests.0.load(Ordering::Relaxed);
            let (rate, yes, each) = round(call, &server.url).await;
            seen.requests += server.requests.0.load(Ordering::Relaxed) - before;
            seen.accepted += yes;
            seen.rates.push(rate);
            seen.took.extend(each);
        }
    }
    seen.iter_mut().for_each(|seen| seen.took.sort_by(f64::total_cmp));
    let rows = ways.iter().zip(&seen).map(|((name, _), way)| {
        let bare = format!("{}: bare", name.split(':').next().unwrap_or_default());
        let all = ways.iter().zip(&seen);
        let bare: Vec<_> =
            all.filter(|((name, _), _)| name.starts_with(&bare)).map(|(_, seen)| seen).collect();
        // Round by round: what disturbs a round disturbs all of them.
        let rates = way.rates.iter().enumerate();
        let per_second = rates.map(|(nth, rate)| rate / mean(bare.iter().map(|bare| bare.rates[nth])));
        let latency = |percent| way.latency(percent) / mean(bare.iter().map(|bare| bare.latency(percent)));
        let calls = way.took.len() as f64;
        json!({
            "way": name,
            "per_second": common::median(per_second.collect()),
            "latency_50": latency(50),
            "latency_99": latency(99),
            "requests_per_call": way.requests as f64 / calls,
            "accepted": way.accepted as f64 / calls,
        })
    });
    Value::Array(rows.collect())
}

type Make = fn() -> Call;

const WAYS: [(&str, Make); 8] = [
    ("hyper: bare", hyper_bare),
    // What differs between these two is noise. All others are compared with their mean.
    ("hyper: bare, another", hyper_bare),
    ("hyper: body kept", hyper_kept),
    ("hyper: ours", hyper_ours),
    ("hyper: recipe", hyper_recipe),
    ("reqwest: bare", || reqwest(reqwest::Client::new().into(), Some(common::OLD))),
    ("reqwest: ours", || reqwest(reqwest_with(FallbackMiddleware::new(layer())), None)),
    ("reqwest: reqwest-chain", || reqwest(reqwest_with(ChainMiddleware::new(Swap)), Some(common::OLD))),
];

/// What one process sees of the three phases.
#[tokio::main(worker_threads = 2)]
async fn measure() -> Value {
    let server = Server::start().await;
    let mut ways: Vec<_> = WAYS.into_iter().enumerate().collect();
    // Whoever comes first has another place in memory.
    fastrand::shuffle(&mut ways);
    let ways: BTreeMap<_, _> = ways.into_iter().map(|(nth, (name, make))| (nth, (name, make()))).collect();
    let ways: Vec<_> = ways.into_values().collect();
    let before = phase("before the move", &server, &ways, |_| 0.0).await;
    let during = phase("during the move", &server, &ways, |nth| (nth + 1) as f64 / ROUNDS as f64).await;
    let after = phase("after the move", &server, &ways, |_| 1.0).await;
    for row in [&before, &during, &after].into_iter().filter_map(Value::as_array).flatten() {
        let has_one_credential = |way: &str| way.contains("bare") || way.contains("kept");
        let may_fail = row["way"].as_str().is_some_and(has_one_credential);
        assert!(may_fail || row["accepted"] == 1.0, "it has to find the way: {row}");
    }
    json!({ "before": before, "during": during, "after": after })
}

/// Starts this program once more, and waits for what it has measured.
fn measured_apart(program: &Path) -> Value {
    let process = Command::new(program).env(IS_ONE_OF_THEM, "1").stderr(Stdio::inherit()).output();
    let process = process.expect("it can be started");
    assert!(process.status.success(), "a process failed: {}", process.status);
    serde_json::from_slice(&process.stdout).expect("it prints JSON, and nothing else")
}

/// The medians of a phase's rows; of their rates also the least, the most, and the standard error.
fn middle(processes: &[Value], phase: &str) -> Value {
    let rows = processes[0][phase].as_array().expect("a phase has rows").iter().enumerate();
    let rows = rows.map(|(nth, row)| {
        let all = |field: &str| -> Vec<f64> {
            processes.iter().filter_map(|process| process[phase][nth][field].as_f64()).collect()
        };
        let rates = all("per_second");
        let mut middle = row.clone();
        for (field, value) in middle.as_object_mut().expect("a row is an object") {
            if value.is_number() {
                *value = common::median(all(field)).into();
            }
        }
        middle["least"] = rates.iter().copied().fold(f64::INFINITY, f64::min).into();
        middle["most"] = rates.iter().copied().fold(0.0, f64::max).into();
        let about = mean(rates.iter().copied());
        let spread = mean(rates.iter().map(|rate| (rate - about).powi(2)));
        // A median's error is that of a mean times the root of π/2.
        middle["error"] = (PI / 2.0 * spread / (rates.len() - 1) as f64).sqrt().into();
        middle
    });
    Value::Array(rows.collect())
}

fn main() {
    if std::env::var_os(IS_ONE_OF_THEM).is_some() {
        println!("{}", measure());
        return;
    }
    let program = std::env::current_exe().expect("a program knows itself");
    let processes: Vec<_> = (1..=PROCESSES)
        .map(|nth| {
            eprintln!("process {nth} of {PROCESSES}");
            let seen = measured_apart(&program);
            eprintln!();
            seen
        })
        .collect();
    common::save(
        "loopback",
        &json!({
            "processes": PROCESSES, "callers": CALLERS, "body": BODY, "bots": BOTS,
            "before": middle(&processes, "before"),
            "during": middle(&processes, "during"),
            "after": middle(&processes, "after"),
        }),
    );
}
