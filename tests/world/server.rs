//! The server, in memory, and the providers. Both keep their own record of each call.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, Uri, request};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::Service;
use tower_credential_fallback::oauth::UserId;
use tower_credential_fallback::{
    AuthProvider, BoxError, Credential, CredentialError, CredentialFuture, ReplayBody, Slot, provider_fn,
};

use crate::answer::{Reply, ScriptBody, content};
use crate::state::State;

/// What all parts of one world share. One thread runs it, so the lock is always free.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

impl World {
    pub(crate) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A failed check has said why by then.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is planned for one request.
#[derive(Clone)]
pub(crate) struct Plan {
    /// `None`: the transport fails.
    pub(crate) reply: Option<Reply>,
    pub(crate) wait: Duration,
    /// How many bytes of the request's body are read before the answer.
    pub(crate) reads: usize,
    /// Whether a body that breaks off is answered none the less.
    pub(crate) is_tolerant: bool,
}

/// One request, as the server saw it.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) slot: Slot,
    pub(crate) token: String,
    /// Its place among all events of the world.
    pub(crate) seq: u64,
    pub(crate) head: (Method, Uri, HeaderMap),
    pub(crate) received: Vec<u8>,
    pub(crate) end: BodyEnd,
    pub(crate) reply: Option<Reply>,
    /// Whether the transport failed.
    pub(crate) has_failed: bool,
    /// When its head was handed to the layer.
    pub(crate) head_at: Option<Instant>,
    /// How many steps of its body were taken.
    pub(crate) told: Arc<AtomicUsize>,
}

/// How the request's body ended at the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BodyEnd {
    Open,
    Whole,
    Broken,
}

/// The slot that a token is for.
pub(crate) fn slot_of(token: &str) -> Slot {
    if token.starts_with("old") { Slot::Primary } else { Slot::Fallback }
}

fn call_of(headers: &HeaderMap) -> usize {
    headers["x-request-id"].to_str().unwrap().parse().unwrap()
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) world: World,
}

impl Service<Request<ReplayBody<ScriptBody>>> for Server {
    type Response = Response<ScriptBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ScriptBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody<ScriptBody>>) -> Self::Future {
        let (head, body) = request.into_parts();
        let call = call_of(&head.headers);
        let token = head.headers.get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap());
        let token = token.trim_start_matches("Bearer ").to_owned();
        let mut state = self.world.lock();
        let plan = state.plan(call, slot_of(&token));
        let exchange = Exchange {
            slot: slot_of(&token),
            token,
            seq: state.next_seq(),
            head: (head.method, head.uri, head.headers),
            received: Vec::new(),
            end: BodyEnd::Open,
            reply: plan.reply.clone(),
            has_failed: false,
            head_at: None,
            told: Arc::default(),
        };
        let nth = state.arrived(call, exchange);
        Box::pin(answer(self.world.clone(), call, nth, plan, body))
    }
}

async fn answer(
    world: World,
    call: usize,
    nth: usize,
    plan: Plan,
    mut body: ReplayBody<ScriptBody>,
) -> Result<Response<ScriptBody>, BoxError> {
    let end = read(&world, call, nth, &mut body, plan.reads).await;
    if !plan.wait.is_zero() {
        sleep(plan.wait).await;
    }
    let mut state = world.lock();
    let exchange = state.exchange(call, nth).expect("its call goes on");
    let is_broken = end == BodyEnd::Broken && !plan.is_tolerant;
    let Some(reply) = plan.reply.filter(|_| !is_broken) else {
        exchange.has_failed = true;
        return Err("connection reset".into());
    };
    exchange.head_at = Some(Instant::now());
    let told = Arc::clone(&exchange.told);
    drop(state);
    if end == BodyEnd::Open {
        // As a connection does it: the upload goes on beside the answer.
        tokio::spawn(async move { read(&world, call, nth, &mut body, usize::MAX).await });
    }
    let mut response = Response::builder().status(reply.status).header("x-answer", format!("{call}.{nth}"));
    for (name, value) in &reply.headers {
        response = response.header(*name, *value);
    }
    Ok(response.body(ScriptBody::new(reply.steps, told)).unwrap())
}

/// Reads until so many bytes have come.
async fn read(
    world: &World,
    call: usize,
    nth: usize,
    body: &mut ReplayBody<ScriptBody>,
    until: usize,
) -> BodyEnd {
    let mut len = 0;
    while len < until {
        let frame = body.frame().await;
        let mut state = world.lock();
        let Some(exchange) = state.exchange(call, nth) else { return BodyEnd::Open };
        match frame {
            Some(Ok(frame)) => {
                exchange.received.extend_from_slice(frame.data_ref().expect("there are no trailers"));
                len = exchange.received.len();
            }
            Some(Err(_)) => exchange.end = BodyEnd::Broken,
            None => exchange.end = BodyEnd::Whole,
        }
        if exchange.end != BodyEnd::Open {
            return exchange.end;
        }
    }
    BodyEnd::Open
}

/// What a provider was asked for a call.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) slot: Slot,
    pub(crate) token: String,
    /// What is wrong with it, if anything: whether the user has to do something.
    pub(crate) outage: Option<bool>,
    pub(crate) has_answered: bool,
}

fn user_of(head: &request::Parts) -> String {
    head.extensions.get::<UserId>().map_or_else(|| "nobody".to_owned(), |user| user.as_str().to_owned())
}

/// Takes note that `slot`'s provider is asked. Returns the number of the question, and what it will give.
fn ask(world: &World, slot: Slot, head: &request::Parts) -> (usize, Result<Credential, CredentialError>) {
    let mut state = world.lock();
    let (user, call) = (user_of(head), call_of(&head.headers));
    let token = state.truth.token(slot, &user);
    let outage = state.truth.outage(slot, &user);
    let given = match outage {
        None => Ok(Credential::bearer(&token).unwrap()),
        Some(false) => Err(CredentialError::new("the identity server is down")),
        Some(true) => Err(CredentialError::interaction_required("https://login.example/")),
    };
    let asks = &mut state.call(call).asks;
    asks.push(Ask { slot, token, outage, has_answered: false });
    (asks.len() - 1, given)
}

fn told(world: &World, call: usize, nth: usize) {
    world.lock().call(call).asks[nth].has_answered = true;
}

/// Gives each user's token at once.
struct Ready(World, Slot);

impl AuthProvider for Ready {
    fn credential(&self, head: &request::Parts) -> CredentialFuture {
        let (nth, given) = ask(&self.0, self.1, head);
        told(&self.0, call_of(&head.headers), nth);
        CredentialFuture::ready(given)
    }
}

/// Gives each user's token, sometimes after a while.
fn slow(world: World, slot: Slot) -> impl AuthProvider {
    provider_fn(move |head: &request::Parts| {
        let (nth, given) = ask(&world, slot, head);
        let (world, call) = (world.clone(), call_of(&head.headers));
        async move {
            let wait = world.lock().provider_wait();
            if !wait.is_zero() {
                sleep(wait).await;
            }
            told(&world, call, nth);
            given
        }
    })
}

/// The provider of a replica's slot: a closure, one that has its credentials at hand, or a single credential.
pub(crate) fn provider(world: &World, replica: usize, slot: Slot) -> Arc<dyn AuthProvider> {
    match replica {
        0 => Arc::new(slow(world.clone(), slot)),
        1 => Arc::new(Ready(world.clone(), slot)),
        _ => Arc::new(Credential::bearer(fixed_token(slot)).unwrap()),
    }
}

/// The token of a replica that has a single one for each slot.
pub(crate) fn fixed_token(slot: Slot) -> &'static str {
    match slot {
        Slot::Primary => "old-fixed",
        Slot::Fallback => "new-fixed",
    }
}

/// Whether the verdict on an answer could be known when its caller gave up.
pub(crate) fn was_decided(exchange: &Exchange, given_up_at: Instant) -> bool {
    use crate::answer::Decided;
    let (Some(at), Some(reply)) = (exchange.head_at, &exchange.reply) else { return false };
    match reply.decided {
        Decided::Head => true,
        Decided::Steps(steps) => exchange.told.load(Ordering::Relaxed) >= steps,
        Decided::Patience => given_up_at >= at + Duration::from_secs(1),
    }
}

/// The content of an answer.
pub(crate) fn reply_content(exchange: &Exchange) -> Vec<u8> {
    exchange.reply.as_ref().map(|reply| content(&reply.steps)).unwrap_or_default()
}
