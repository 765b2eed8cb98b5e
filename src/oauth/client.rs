//! [`OAuthClient`]: asks users for their consent, and the identity server for tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use oauth2::RefreshToken;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{Grant, Login, OAuthConfig, OAuthError};
use crate::error::Error;
use crate::provider::token_endpoint::{
    Answer, ExpiresIn, NoToken, Proof, Ready, Reply, TokenEndpoint, request, shown,
};
use crate::provider::{CredentialError, HttpClient};

#[cfg(doc)]
use super::OAuthErrorKind;

/// A client of an identity server: authorisation code with or without PKCE, refresh, and device codes
/// ([RFC 6749](https://www.rfc-editor.org/rfc/rfc6749), [RFC 7636](https://www.rfc-editor.org/rfc/rfc7636),
/// [RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)). Cheap to clone.
///
/// The HTTP client under it follows no redirects and repeats nothing: a code or a refresh token that is sent twice is a
/// stolen one to many servers.
#[derive(Clone)]
pub struct OAuthClient {
    inner: Arc<Inner>,
}

struct Inner {
    config: OAuthConfig,
    token_url: Uri,
    authorize_url: Option<Uri>,
    device_url: Option<Uri>,
    endpoint: Box<dyn Endpoint>,
}

type BoxFuture<'e, T> = Pin<Box<dyn Future<Output = T> + Send + 'e>>;

/// [`TokenEndpoint`], whatever its client.
trait Endpoint: Send + Sync {
    fn ready(&self) -> BoxFuture<'_, Result<Box<dyn ReadyEndpoint<'_> + '_>, NoToken>>;

    fn read(&self, reply: &Reply, expires_in: ExpiresIn) -> Result<Answer, CredentialError>;

    fn server_ahead_by(&self) -> i64;
}

trait ReadyEndpoint<'e>: Send {
    fn send(self: Box<Self>, request: Request<Full<Bytes>>) -> BoxFuture<'e, Result<Reply, NoToken>>;
}

impl<S: HttpClient> Endpoint for TokenEndpoint<S> {
    fn ready(&self) -> BoxFuture<'_, Result<Box<dyn ReadyEndpoint<'_> + '_>, NoToken>> {
        Box::pin(async move {
            let ready: Box<dyn ReadyEndpoint<'_> + '_> = Box::new(Self::ready(self).await?);
            Ok(ready)
        })
    }

    fn read(&self, reply: &Reply, expires_in: ExpiresIn) -> Result<Answer, CredentialError> {
        Self::read(self, reply, expires_in)
    }

    fn server_ahead_by(&self) -> i64 {
        Self::server_ahead_by(self)
    }
}

impl<'e, S: HttpClient> ReadyEndpoint<'e> for Ready<'e, S> {
    fn send(self: Box<Self>, request: Request<Full<Bytes>>) -> BoxFuture<'e, Result<Reply, NoToken>> {
        Box::pin(Self::send(*self, |_| Ok(request)))
    }
}

impl OAuthClient {
    /// A client as `config` says, which asks through `http`. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig), naming the part of the config that is not usable:
    /// `client_id`, `client_secret`, `token_url`, `authorize_url`, `device_url` or `redirect_uri`.
    pub fn new(http: impl HttpClient, config: OAuthConfig) -> Result<Self, Error> {
        let (token_url, authorize_url, device_url) = config.check()?;
        let endpoint = Box::new(TokenEndpoint::new(http, Arc::clone(&config.clock)));
        Ok(Self { inner: Arc::new(Inner { config, token_url, authorize_url, device_url, endpoint }) })
    }

    pub(super) fn config(&self) -> &OAuthConfig {
        &self.inner.config
    }

    pub(super) fn device_url(&self) -> Option<&Uri> {
        self.inner.device_url.as_ref()
    }

    /// Begins a login: the URL to send the browser to, and what to keep in its session until it comes back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `authorize_url` or `redirect_uri`, if the config
    /// names none.
    pub fn authorize(&self) -> Result<(String, Login), Error> {
        let Inner { config, authorize_url, .. } = &*self.inner;
        let missing = |field| Error::config(field, "expected in the config: a login in a browser needs it");
        let url = authorize_url.as_ref().ok_or_else(|| missing("authorize_url"))?;
        let redirect_uri = config.redirect_uri.as_ref().ok_or_else(|| missing("redirect_uri"))?;
        let (login, challenge) = Login::new(config.has_pkce());
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &config.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("state", login.state());
        if let Some(scope) = &config.scope {
            query.append_pair("scope", scope);
        }
        if let Some(challenge) = &challenge {
            query
                .append_pair("code_challenge", challenge.as_str())
                .append_pair("code_challenge_method", challenge.method().as_str());
        }
        let separator = if url.query().is_some() { '&' } else { '?' };
        Ok((format!("{url}{separator}{}", query.finish()), login))
    }

    /// Finishes a login with the `state` and the `code` of the callback.
    ///
    /// # Errors
    ///
    /// [`OAuthErrorKind::StateMismatch`], if the callback is not of this login: nothing is sent. Otherwise what the
    /// server says, or [that it did not answer](OAuthConfig::with_time_limit).
    ///
    /// # Cancel safety
    ///
    /// The code is spent by its use: a call that is dropped has to be followed by a new login.
    pub async fn finish(&self, login: Login, state: &str, code: &str) -> Result<Grant, OAuthError> {
        login.check_state(state)?;
        let mut fields = self.fields("authorization_code");
        fields.insert("code".into(), code.into());
        if let Some(uri) = &self.config().redirect_uri {
            fields.insert("redirect_uri".into(), uri.as_str().into());
        }
        if let Some(verifier) = &login.verifier {
            fields.insert("code_verifier".into(), verifier.secret().as_str().into());
        }
        self.grant(fields).await
    }

    /// Gets the next access token for a refresh token, which is spent by that, unless the server gives no other.
    ///
    /// A new refresh token comes back whatever else is wrong with the answer. If it does not say when the access token
    /// ends, that token is good until it is refused; if it has none, the grant has ended already.
    ///
    /// # Errors
    ///
    /// [`OAuthErrorKind::InvalidGrant`], if it was used before, or has ended. [`OAuthErrorKind::UnusableAnswer`]: it is
    /// spent, and nothing came back. Otherwise what the server says, or
    /// [that it did not answer](OAuthConfig::with_time_limit).
    ///
    /// # Cancel safety
    ///
    /// None: the token may be spent, and its successor lost. [`UserTokens`](super::UserTokens) does this in a task of its
    /// own.
    pub async fn refresh(&self, token: &RefreshToken) -> Result<Grant, OAuthError> {
        let refreshed = self.in_time(async { self.ready().await?.refresh(token).await }).await?;
        Ok(refreshed.grant)
    }

    pub(super) fn fields(&self, grant_type: &str) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("grant_type".into(), grant_type.into());
        fields.insert("client_id".into(), self.config().client_id.as_str().into());
        fields
    }

    pub(super) async fn grant(&self, fields: Map<String, Value>) -> Result<Grant, OAuthError> {
        self.in_time(async {
            let answer = self.ready().await?.ask(fields).await?;
            Grant::of_answer(answer, self.config().clock.now())
        })
        .await
    }

    /// Waits until a request can be sent to the token endpoint.
    pub(super) async fn ready(&self) -> Result<ReadyClient<'_>, OAuthError> {
        Ok(ReadyClient { client: self, endpoint: self.inner.endpoint.ready().await? })
    }

    /// Sends a question to the device endpoint.
    pub(super) async fn ask_device(
        &self,
        url: &Uri,
        fields: &Map<String, Value>,
    ) -> Result<Reply, OAuthError> {
        let ready = self.inner.endpoint.ready().await?;
        Ok(ready.send(request(self.config().style, url, fields, self.proof())).await?)
    }

    pub(super) async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, OAuthError>>,
    ) -> Result<T, OAuthError> {
        timeout(self.config().time_limit, asked).await.unwrap_or_else(|_| Err(OAuthError::timed_out()))
    }

    /// By how many milliseconds the server's clock is ahead of ours, as far as that is known.
    pub(super) fn server_ahead_by(&self) -> i64 {
        self.inner.endpoint.server_ahead_by()
    }

    fn proof(&self) -> Option<Proof<'_>> {
        let secret = self.config().client_secret.as_ref()?;
        Some(Proof { name: "client_secret", secret: secret.secret() })
    }
}

/// A client that can send one request at once.
pub(super) struct ReadyClient<'c> {
    client: &'c OAuthClient,
    endpoint: Box<dyn ReadyEndpoint<'c> + 'c>,
}

/// What a refresh brought.
pub(super) struct Refreshed {
    pub(super) grant: Grant,
    /// Why its access token cannot be used, though its refresh token is good.
    pub(super) problem: Option<CredentialError>,
}

impl ReadyClient<'_> {
    async fn ask(self, fields: Map<String, Value>) -> Result<Answer, OAuthError> {
        let OAuthClient { inner } = self.client;
        let style = inner.config.style;
        let request = request(style, &inner.token_url, &fields, self.client.proof());
        let reply = self.endpoint.send(request).await?;
        inner.endpoint.read(&reply, inner.config.expires_in).map_err(OAuthError::unusable)
    }

    /// Spends a refresh token, without a time limit.
    pub(super) async fn refresh(self, token: &RefreshToken) -> Result<Refreshed, OAuthError> {
        let client = self.client;
        let mut fields = client.fields("refresh_token");
        fields.insert("refresh_token".into(), token.secret().as_str().into());
        let answer = self.ask(fields).await?;
        let (grant, problem) = Grant::of_refresh(answer, token, client.config().clock.now())?;
        Ok(Refreshed { grant, problem })
    }
}

impl fmt::Debug for OAuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClient")
            .field("client_id", &self.config().client_id)
            .field("token_url", &shown(&self.inner.token_url))
            .finish_non_exhaustive()
    }
}
