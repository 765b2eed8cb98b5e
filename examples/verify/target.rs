//! Who is asked: the local Coze, or the one that the environment names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::{self, OAuthApp, Region, simulator::Simulator};
use tower_credential_fallback::{
    AuthProvider, BoxError, Credential, CredentialChoice, CredentialFallback, JwtBearer, Outcome, ReplayBody,
    Slot,
};

use super::matrix::Cell;
use super::probes::Probe;

type Provider = Arc<dyn AuthProvider>;
type Http<B> = Client<HttpsConnector<HttpConnector>, B>;

/// How long one answer may take, and how much of it is read.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST: usize = 1024 * 1024;

/// Set by whoever means a real Coze.
const REAL: [&str; 7] = [
    "COZE_API_TOKEN",
    "COZE_API_TOKEN_ENTERPRISE",
    "COZE_JWT_OAUTH_CLIENT_ID",
    "COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH",
    "COZE_JWT_OAUTH_PUBLIC_KEY_ID",
    "COZE_ACCOUNT_ID",
    "COZE_ENTERPRISE_ID",
];

pub(crate) struct Target {
    base_url: String,
    client: CredentialFallback<Http<ReplayBody<Full<Bytes>>>, Provider, Provider>,
    /// What the local Coze gives for the probes' variables.
    variables: HashMap<&'static str, String>,
    /// Stops when dropped.
    _simulator: Option<Simulator>,
}

impl Target {
    pub(crate) async fn from_variables(variable: &impl Fn(&str) -> Option<String>) -> Result<Self, BoxError> {
        let Some(base_url) = variable("COZE_API_BASE") else {
            // A matrix of the local Coze must not pass for one of the real one.
            return match REAL.into_iter().find(|name| variable(name).is_some()) {
                Some(name) => Err(format!("{name} is set, but COZE_API_BASE is not").into()),
                None => Self::local().await,
            };
        };
        let region = Region::custom(&base_url)?;
        let needed = |name: &str| variable(name).ok_or_else(|| format!("{name} is not set"));
        let (primary, fallback): (Provider, Provider) = match variable("COZE_JWT_OAUTH_CLIENT_ID") {
            Some(client_id) => {
                let file = needed("COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH")?;
                let key = std::fs::read_to_string(&file)
                    .map_err(|error| format!("COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH: {file}: {error}"))?;
                let app =
                    OAuthApp::new(region.clone(), client_id, needed("COZE_JWT_OAUTH_PUBLIC_KEY_ID")?, &key)?;
                let account = app.account_grant(&needed("COZE_ACCOUNT_ID")?)?;
                let enterprise = app.enterprise_grant(&needed("COZE_ENTERPRISE_ID")?)?;
                (Arc::new(JwtBearer::new(http()?, account)?), Arc::new(JwtBearer::new(http()?, enterprise)?))
            }
            None => {
                let token = |name| Ok::<_, BoxError>(Credential::bearer(needed(name)?)?);
                (Arc::new(token("COZE_API_TOKEN")?), Arc::new(token("COZE_API_TOKEN_ENTERPRISE")?))
            }
        };
        Self::new(&region, primary, fallback)
    }

    /// A Coze with a bot in each account.
    async fn local() -> Result<Self, BoxError> {
        let simulator = Simulator::start().await?;
        let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
        let bot = |account| simulator.create_bot(&simulator.create_workspace(account));
        let variables = [("PUBLISHED_BOT_ID", bot(&person)), ("ENTERPRISE_BOT_ID", bot(&enterprise))];
        let token = |account| Credential::bearer(simulator.create_token(account));
        let (old, new) = (token(&person)?, token(&enterprise)?);
        let region = Region::custom(simulator.base_url())?;
        let target = Self::new(&region, Arc::new(old), Arc::new(new))?;
        Ok(Self { variables: variables.into(), _simulator: Some(simulator), ..target })
    }

    fn new(region: &Region, primary: Provider, fallback: Provider) -> Result<Self, BoxError> {
        Ok(Self {
            base_url: region.base_url(),
            client: coze::layer(region, primary, fallback)?.layer(http()?),
            variables: HashMap::new(),
            _simulator: None,
        })
    }

    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// Asks with this credential and no other.
    pub(crate) async fn ask(&self, probe: &Probe, slot: Slot) -> Cell {
        let asked = tokio::time::timeout(PATIENCE, self.try_ask(probe, slot)).await;
        asked
            .unwrap_or_else(|_| Err("no answer in time".into()))
            .unwrap_or_else(|error| Cell::failed(&*error))
    }

    async fn try_ask(&self, probe: &Probe, slot: Slot) -> Result<Cell, BoxError> {
        let request = Request::builder()
            .method(probe.method.as_str())
            .uri(format!("{}{}", self.base_url, probe.path))
            .header(CONTENT_TYPE, "application/json")
            .extension(CredentialChoice::Only(slot))
            .body(Full::from(probe.body.clone()))?;
        let response = self.client.clone().oneshot(request).await?;
        let (outcome, status) = (Outcome::of(&response).clone(), response.status());
        let body = Limited::new(response.into_body(), MOST).collect().await?.to_bytes();
        Ok(Cell::judge(&outcome, status, &body))
    }
}

/// Over TLS, but for the local Coze.
fn http<B>() -> Result<Http<B>, BoxError>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    let connector =
        HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_all_versions().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}
