//! Users, and the identity server as they see it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower_credential_fallback::coze::simulator::{AccountId, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{
    Grant, OAuthClient, OAuthConfig, UserId, UserTokens, UserTokensBuilder,
};
use tower_credential_fallback::store::TokenStore;
use tower_credential_fallback::{BoxError, Clock, Credential};

use crate::support::{HyperClient, Protocol, hyper_client};

pub const CALLBACK: &str = "https://app.example.com/callback";
pub const LOGIN: &str = "https://app.example.com/login?user=";

/// What the browser brings back to the application.
#[derive(Debug)]
pub struct Callback {
    pub code: Option<String>,
    pub state: String,
    pub error: Option<String>,
}

/// A user of this account follows a link to the consent page, and allows what it asks for, or not.
pub async fn consent(authorize_url: &str, account: &AccountId, allow: bool) -> Callback {
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let response = browser.get(authorize_url).send().await.unwrap();
    assert_eq!(response.status(), 302, "{authorize_url}");
    let page = response.url().join(response.headers()["location"].to_str().unwrap()).unwrap();
    let key = page.query_pairs().find(|(name, _)| name == "authorize_key").unwrap().1.into_owned();
    assert_eq!(browser.get(page.clone()).send().await.unwrap().status(), 200);
    let form = form(&[
        ("authorize_key", &key),
        ("account", account.as_str()),
        ("decision", if allow { "allow" } else { "deny" }),
    ]);
    let response = browser
        .post(page.join("/oauth/consent").unwrap())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 302);
    let back = reqwest::Url::parse(response.headers()["location"].to_str().unwrap()).unwrap();
    let values: HashMap<String, String> = back.query_pairs().into_owned().collect();
    Callback {
        code: values.get("code").cloned(),
        state: values.get("state").cloned().unwrap_or_default(),
        error: values.get("error").cloned(),
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("http://form.example/").unwrap();
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap().to_owned()
}

/// A web app of the simulator's, and our client of it.
pub fn web_app(coze: &Simulator, clock: &TestClock) -> OAuthClient {
    let app = coze.create_web_app();
    coze.register_redirect_uri(&app, CALLBACK);
    let config = coze::user_app(&Region::custom(coze.base_url()).unwrap(), &app.client_id)
        .with_client_secret(app.client_secret.unwrap())
        .with_redirect_uri(CALLBACK)
        .with_clock(clock.clone());
    OAuthClient::new(http_client(), config).unwrap()
}

pub fn http_client() -> HyperClient<Full<Bytes>> {
    hyper_client(Protocol::Http1)
}

/// A user of this account logs in.
pub async fn log_in(client: &OAuthClient, account: &AccountId) -> Grant {
    let (url, login) = client.authorize().unwrap();
    let back = consent(&url, account, true).await;
    client.finish(login, &back.state, &back.code.unwrap()).await.unwrap()
}

pub fn users(client: &OAuthClient, store: &Arc<impl TokenStore>) -> UserTokens {
    users_with(client, store).build().unwrap()
}

pub fn users_with(client: &OAuthClient, store: &Arc<impl TokenStore>) -> UserTokensBuilder {
    let store: Arc<dyn TokenStore> = Arc::clone(store) as _;
    UserTokens::builder(client.clone(), store, |user: &UserId| format!("{LOGIN}{}", user.as_str()))
}

/// The token that a credential sends.
pub fn secret_of(credential: &Credential) -> String {
    let mut headers = http::HeaderMap::new();
    credential.apply(&mut headers);
    headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned()
}

/// The refresh token in a grant.
pub fn refresh_token_of(grant: &Grant) -> Option<String> {
    let grant: Value = serde_json::from_slice(&grant.to_bytes()).unwrap();
    grant["refresh_token"].as_str().map(str::to_owned)
}

/// The same grant as a replica leaves it that dies in the middle of a refresh.
pub fn marked(grant: &Grant) -> Grant {
    let mut grant: Value = serde_json::from_slice(&grant.to_bytes()).unwrap();
    grant["being_spent_by"] = "a dead replica's lease".into();
    Grant::from_bytes(&serde_json::to_vec(&grant).unwrap()).unwrap()
}

/// The same grant while a replica is in the middle of a refresh, and may be until then.
pub fn marked_until(grant: &Grant, until: SystemTime) -> Grant {
    let mut grant: Value = serde_json::from_slice(&marked(grant).to_bytes()).unwrap();
    let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    grant["being_spent_until"] = u64::try_from(until).unwrap().into();
    Grant::from_bytes(&serde_json::to_vec(&grant).unwrap()).unwrap()
}

/// This machine's clock, set ahead.
#[derive(Clone, Debug, Default)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// An identity server without a socket, for what depends on timing: its token endpoint answers as it is told.
#[derive(Clone, Default)]
pub struct Scripted {
    asked: Arc<Mutex<Vec<(tokio::time::Duration, Value)>>>,
    started: Arc<Mutex<Option<tokio::time::Instant>>>,
}

/// What a [`Scripted`] server answers; `None`: the connection breaks.
pub type Script = Option<(u16, Value)>;

impl Scripted {
    /// A client of this server. `answer` sees what is posted.
    pub fn client<F, Fut>(&self, config: OAuthConfig, answer: F) -> OAuthClient
    where
        F: Fn(Value) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Script> + Send + 'static,
    {
        let this = self.clone();
        let http = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let (this, answer) = (this.clone(), answer.clone());
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let posted: Value = serde_json::from_slice(&body).unwrap();
                let now = tokio::time::Instant::now();
                let started = *this.started.lock().unwrap().get_or_insert(now);
                this.asked.lock().unwrap().push((now - started, posted.clone()));
                let (status, body) = answer(posted).await.ok_or("the connection broke")?;
                let response = Response::builder().status(status).header("content-type", "application/json");
                Ok::<_, BoxError>(response.body(Full::new(Bytes::from(body.to_string()))).unwrap())
            }
        });
        OAuthClient::new(http, config).unwrap()
    }

    /// When it was asked, since the first time, in seconds.
    pub fn times(&self) -> Vec<u64> {
        self.asked.lock().unwrap().iter().map(|(since, _)| since.as_secs()).collect()
    }

    /// What was posted.
    pub fn posted(&self) -> Vec<Value> {
        self.asked.lock().unwrap().iter().map(|(_, posted)| posted.clone()).collect()
    }
}

/// A config for a [`Scripted`] server.
pub fn scripted_config() -> OAuthConfig {
    OAuthConfig::new("client-1", "http://127.0.0.1/token")
        .with_authorize_url("http://127.0.0.1/authorize")
        .with_redirect_uri(CALLBACK)
        .with_device_url("http://127.0.0.1/device")
        .with_request_style(tower_credential_fallback::RequestStyle::BearerJson)
}

pub fn error(code: &str) -> Script {
    Some((400, json!({ "error": code })))
}
