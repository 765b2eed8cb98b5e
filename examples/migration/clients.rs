//! The two ways to call: through the layer, and as the recipe has it.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::{self, OAuthApp, Region};
use tower_credential_fallback::{
    BoxError, CredentialFallback, CredentialFallbackLayer, FallbackHandle, JwtBearer, Order, Outcome,
    ReplayBody, Slot,
};

use crate::rehearsal::Stage;

/// What a caller sees of an answer.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) slot: Slot,
}

/// A way to call.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    fn call(&self, request: Request<Full<Bytes>>) -> impl Future<Output = Result<Answer, BoxError>> + Send;
}

fn hyper<B>() -> Client<HttpConnector, B>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

fn layer(stage: &Stage) -> Result<CredentialFallbackLayer<JwtBearer, JwtBearer>, BoxError> {
    let region = Region::custom(stage.simulator.base_url())?;
    let app = OAuthApp::new(region, &stage.app.client_id, &stage.app.key_id, &stage.app.private_key_pem)?;
    Ok(coze::oauth_app(&app, hyper(), stage.person.as_str(), stage.enterprise.as_str())?)
}

/// This crate: one line around the client.
#[derive(Clone)]
pub(crate) struct Layered {
    handle: FallbackHandle,
    client: CredentialFallback<Client<HttpConnector, ReplayBody<Full<Bytes>>>, JwtBearer, JwtBearer>,
}

impl Layered {
    pub(crate) fn new(stage: &Stage) -> Result<Self, BoxError> {
        Self::with_order(stage, Order::default())
    }

    pub(crate) fn handle(&self) -> FallbackHandle {
        self.handle.clone()
    }

    fn with_order(stage: &Stage, order: Order) -> Result<Self, BoxError> {
        let layer = layer(stage)?.with_order(order);
        Ok(Self { handle: layer.handle(), client: layer.layer(hyper()) })
    }
}

impl Caller for Layered {
    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Answer, BoxError> {
        let response = self.client.clone().oneshot(request).await?;
        let slot = Outcome::of(&response).answered_by().unwrap_or(Slot::Primary);
        Ok(Answer { slot, body: response.into_body().collect().await?.to_bytes() })
    }
}

/// Two clients and an `if`, as the migration guide shows it. Both clients keep their token in this crate's
/// cache, which is kinder to the recipe than the SDKs are: what is compared is the `if`.
#[derive(Clone)]
pub(crate) struct Recipe {
    personal: Layered,
    enterprise: Layered,
}

impl Recipe {
    pub(crate) fn new(stage: &Stage) -> Result<Self, BoxError> {
        Ok(Self {
            personal: Layered::with_order(stage, Order::PrimaryOnly)?,
            enterprise: Layered::with_order(stage, Order::FallbackOnly)?,
        })
    }
}

impl Caller for Recipe {
    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Answer, BoxError> {
        let again = request.clone();
        let answer = self.personal.call(request).await?;
        let code = serde_json::from_slice::<serde_json::Value>(&answer.body)
            .ok()
            .and_then(|json| json["code"].as_i64());
        if matches!(code, Some(4100 | 4101)) {
            return self.enterprise.call(again).await;
        }
        Ok(answer)
    }
}
