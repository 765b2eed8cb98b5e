//! [`Identity`]: the identity server, in memory. It rotates refresh tokens, and records each one that it sees.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tower_credential_fallback::oauth::{OAuthClient, OAuthConfig};
use tower_credential_fallback::{BoxError, RequestStyle};

use crate::TOKEN_LIFETIME;
use crate::record::Trouble;
use crate::world::{Fate, Life, Step, World, between};

pub(crate) const CLIENT_ID: &str = "fleet";

#[derive(Default)]
pub(crate) struct Identity(Mutex<Tokens>);

#[derive(Default)]
pub(crate) struct Tokens {
    pub(crate) refresh: BTreeMap<String, Refresh>,
    /// The user, and the end.
    access: BTreeMap<String, (usize, Duration)>,
    /// Successful exchanges.
    pub(crate) exchanges: usize,
}

/// A refresh token.
pub(crate) struct Refresh {
    pub(crate) user: usize,
    /// How often it was sent.
    pub(crate) seen: usize,
    /// Who was given it for the one before; `None`: it came with a login.
    pub(crate) given_to: Option<usize>,
    pub(crate) given_at: Duration,
    /// Whether that answer arrived.
    pub(crate) has_arrived: bool,
    /// What was given for it.
    pub(crate) next: Option<String>,
}

impl Identity {
    pub(crate) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.0.lock().unwrap()
    }
}

impl Tokens {
    /// What the API says to an access token that is sent on behalf of a user.
    pub(crate) fn serve(&self, token: &str, user: usize, now: Duration) -> Result<(), &'static str> {
        match self.access.get(token) {
            None => Err("API: an unknown token"),
            Some((owner, _)) if *owner != user => Err("API: another user's token"),
            Some((_, end)) if now >= *end => Err("API: an ended token"),
            Some(_) => Ok(()),
        }
    }

    fn answer(&mut self, posted: &Value, life: &Life, now: Duration) -> (u16, Value) {
        let text = |name: &str| posted[name].as_str().unwrap_or_default();
        if text("grant_type") == "authorization_code" {
            return (200, self.grant(text("code").parse().unwrap(), None, now));
        }
        let token = text("refresh_token").to_owned();
        let known = self.refresh.get_mut(&token).expect("a token of ours");
        known.seen += 1;
        if known.next.is_some() {
            return (400, json!({ "error": "invalid_grant" }));
        }
        let user = known.user;
        self.exchanges += 1;
        let given = self.grant(user, Some(life.number), now);
        let next = given["refresh_token"].as_str().map(str::to_owned);
        self.refresh.get_mut(&token).expect("seen above").next = next;
        (200, given)
    }

    fn grant(&mut self, user: usize, given_to: Option<usize>, now: Duration) -> Value {
        let number = self.refresh.len();
        let (access, refresh) = (format!("access-{number}"), format!("refresh-{number}"));
        let token = Refresh { user, seen: 0, given_to, given_at: now, has_arrived: false, next: None };
        self.refresh.insert(refresh.clone(), token);
        self.access.insert(access.clone(), (user, now + TOKEN_LIFETIME));
        json!({
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": TOKEN_LIFETIME.as_secs(),
            "refresh_token": refresh,
        })
    }
}

/// A client that this replica asks through. All answers arrive, if the replica lives: a request whose answer is lost is
/// sent again, as `UserTokens` documents.
pub(crate) fn client(world: &Arc<World>, life: &Arc<Life>) -> OAuthClient {
    let config = OAuthConfig::new(CLIENT_ID, "https://identity.example.com/token")
        .with_authorize_url("https://identity.example.com/authorize")
        .with_redirect_uri("https://app.example.com/callback")
        .with_request_style(RequestStyle::BearerJson)
        .with_clock(world.clock.clone());
    let (world, life) = (Arc::clone(world), Arc::clone(life));
    let http = tower::service_fn(move |request| ask(Arc::clone(&world), Arc::clone(&life), request));
    OAuthClient::new(http, config).unwrap()
}

async fn ask(
    world: Arc<World>,
    life: Arc<Life>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Full<Bytes>>, BoxError> {
    life.go_on().await;
    let body = request.into_body().collect().await?.to_bytes();
    let posted: Value = serde_json::from_slice(&body)?;
    if posted["grant_type"] == "refresh_token" {
        world.passes(Step::Exchange, &life);
    }
    if world.fate() == Fate::NotApplied {
        let token = posted["refresh_token"].as_str().unwrap_or_default();
        let user = world.identity.tokens().refresh.get(token).map(|token| token.user);
        let now = world.now();
        world.record().connections_rejected += 1;
        if let Some(user) = user {
            world.record().trouble(user, Some(life.number), Trouble::Unconnected, now, now);
        }
        return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
    }
    let (answer, answered) = oneshot::channel();
    // The network and the server. They go on whatever becomes of the replica.
    tokio::spawn(carry(Arc::clone(&world), Arc::clone(&life), posted, answer));
    let (status, body) = answered.await?;
    life.go_on().await;
    if let Some(token) = body["refresh_token"].as_str() {
        world.identity.tokens().refresh.get_mut(token).expect("given").has_arrived = true;
    }
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::from(body.to_string()))?)
}

async fn carry(world: Arc<World>, life: Arc<Life>, posted: Value, answer: oneshot::Sender<(u16, Value)>) {
    sleep(between(2, 100)).await;
    // What a process has sent when it dies may arrive or not.
    if life.is_dead() && fastrand::bool() {
        return std::future::pending().await;
    }
    let now = world.now();
    let answered = world.identity.tokens().answer(&posted, &life, now);
    world.record().note(&("exchange", life.number, posted["refresh_token"].as_str(), answered.0, now));
    sleep(between(2, 200)).await;
    let _ = answer.send(answered);
}
