//! [`Identity`]: an identity server over a socket. It counts how often it sees each refresh token, and holds answers back.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_credential_fallback::oauth::{Grant, OAuthConfig, UserId};
use tower_credential_fallback::{BoxError, RequestStyle};

use crate::support::{self, Body, Server};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Identity {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    tokens: Mutex<Vec<Issued>>,
    /// Users whose answers are held back, and of those the ones who wait for one.
    held: watch::Sender<(BTreeSet<String>, BTreeSet<String>)>,
}

/// An access token and a refresh token. Their names end in their number.
struct Issued {
    user: String,
    /// How often the refresh token was sent.
    sent: usize,
}

impl Identity {
    pub(crate) async fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let known = Arc::clone(&shared);
        let server = Server::start(move |request| {
            let known = Arc::clone(&known);
            async move { known.answer(request).await.expect("a refresh of ours") }
        })
        .await;
        Self { server, shared }
    }

    pub(crate) fn token_url(&self) -> String {
        self.server.url("/token")
    }

    /// A grant of this user, whose access token ends then.
    pub(crate) fn grant(&self, user: &UserId, end: SystemTime) -> Grant {
        let number = self.shared.issue(user.as_str());
        Grant::new(access(number), Some(end), Some(refresh(number))).unwrap()
    }

    /// This user's access token that was issued last.
    pub(crate) fn newest(&self, user: &UserId) -> String {
        let tokens = self.shared.tokens.lock().unwrap();
        access(tokens.iter().rposition(|token| token.user == user.as_str()).unwrap())
    }

    /// How often each of this user's refresh tokens was sent, in the order in which they were issued.
    pub(crate) fn times_sent(&self, user: &UserId) -> Vec<usize> {
        let tokens = self.shared.tokens.lock().unwrap();
        tokens.iter().filter(|token| token.user == user.as_str()).map(|token| token.sent).collect()
    }

    /// The next refresh of this user is carried out, and its answer held back.
    pub(crate) fn hold(&self, user: &UserId) {
        self.shared.held.send_modify(|(held, _)| held.extend([user.as_str().to_owned()]));
    }

    /// Waits until that refresh has come.
    pub(crate) async fn holds_an_exchange_of(&self, user: &UserId) {
        let mut held = self.shared.held.subscribe();
        held.wait_for(|(_, waiting)| waiting.contains(user.as_str())).await.unwrap();
    }

    /// Its answer is sent.
    pub(crate) fn lets_go(&self, user: &UserId) {
        self.shared.held.send_modify(|(held, _)| held.retain(|held| held != user.as_str()));
    }
}

pub(crate) fn config(token_url: &str) -> OAuthConfig {
    OAuthConfig::new("client-1", token_url).with_request_style(RequestStyle::BearerJson)
}

impl Shared {
    fn issue(&self, user: &str) -> usize {
        let mut tokens = self.tokens.lock().unwrap();
        tokens.push(Issued { user: user.to_owned(), sent: 0 });
        tokens.len() - 1
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
        let posted: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
        let token = posted["refresh_token"].as_str().and_then(|token| token.strip_prefix("refresh-"));
        let number: usize = token.ok_or("another request")?.parse()?;
        let user = {
            let mut tokens = self.tokens.lock().unwrap();
            let token = tokens.get_mut(number).ok_or("an unknown token")?;
            token.sent += 1;
            if token.sent > 1 {
                return Ok(support::json(400, json!({ "error": "invalid_grant" }).to_string()));
            }
            token.user.clone()
        };
        let next = self.issue(&user);
        self.held.send_modify(|(_, waiting)| waiting.extend([user.clone()]));
        self.held.subscribe().wait_for(|(held, _)| !held.contains(&user)).await?;
        let answer = json!({
            "access_token": access(next),
            "expires_in": HOUR.as_secs(),
            "refresh_token": refresh(next),
        });
        Ok(support::json(200, answer.to_string()))
    }
}

fn access(number: usize) -> String {
    format!("access-{number}")
}

fn refresh(number: usize) -> String {
    format!("refresh-{number}")
}
