//! [`OAuthClient`]: asks users for their consent, and the identity server for tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Uri};
use http_body_util::Full;
use oauth2::RefreshToken;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{DeviceLogin, Grant, Login, OAuthConfig, OAuthError, OAuthErrorKind};
use crate::error::Error;
use crate::provider::token_endpoint::{ExpiresIn, NoToken, Reply, RequestStyle, Token, TokenEndpoint, shown};
use crate::provider::{CredentialError, HttpClient};

/// What a device waits longer each time that it is told to
/// ([RFC 8628, 3.5](https://www.rfc-editor.org/rfc/rfc8628#section-3.5)).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// How long one exchange of a device may take, before the next is made.
const POLL_PATIENCE: Duration = Duration::from_secs(30);

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

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

type Sent<'e> = Pin<Box<dyn Future<Output = Result<Reply, NoToken>> + Send + 'e>>;

/// [`TokenEndpoint`], whatever its client.
trait Endpoint: Send + Sync {
    fn send(&self, request: Request<Full<Bytes>>) -> Sent<'_>;

    fn token(&self, reply: &Reply, expires_in: ExpiresIn) -> Result<Token, CredentialError>;
}

impl<S: HttpClient> Endpoint for TokenEndpoint<S> {
    fn send(&self, request: Request<Full<Bytes>>) -> Sent<'_> {
        Box::pin(Self::send(self, |_| Ok(request)))
    }

    fn token(&self, reply: &Reply, expires_in: ExpiresIn) -> Result<Token, CredentialError> {
        Self::token(self, reply, expires_in)
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
    /// server says.
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
    /// # Errors
    ///
    /// [`OAuthErrorKind::InvalidGrant`], if it was used before, or has ended. Otherwise what the server says.
    ///
    /// # Cancel safety
    ///
    /// None: the token may be spent, and its successor lost. [`UserTokens`](super::UserTokens) does this in a task of its
    /// own.
    pub async fn refresh(&self, token: &RefreshToken) -> Result<Grant, OAuthError> {
        let mut fields = self.fields("refresh_token");
        fields.insert("refresh_token".into(), token.secret().as_str().into());
        Ok(self.grant(fields).await?.or_refresh_token(token))
    }

    /// Begins a login on a device: shows the user a code to enter in a browser.
    ///
    /// # Errors
    ///
    /// [`OAuthErrorKind::Unavailable`] if the config names no `device_url`. Otherwise what the server says.
    pub async fn start_device(&self) -> Result<DeviceLogin, OAuthError> {
        let Some(url) = &self.inner.device_url else {
            return Err(OAuthError::new(OAuthErrorKind::Unavailable, "the config names no `device_url`"));
        };
        let mut fields = Map::new();
        fields.insert("client_id".into(), self.config().client_id.as_str().into());
        if let Some(scope) = &self.config().scope {
            fields.insert("scope".into(), scope.as_str().into());
        }
        let reply = self.inner.endpoint.send(self.request(url, &fields)).await?;
        Ok(DeviceLogin::read(&reply.body)?)
    }

    /// Waits until the user has entered the code, or refused, or the code has run out. Asks no more often than the server
    /// wants.
    ///
    /// # Errors
    ///
    /// [`OAuthErrorKind::Denied`] or [`OAuthErrorKind::Expired`], or what else the server says. An unreachable server
    /// is asked again, less often, until the code runs out.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the asking; it may be called again. Dropped in the moment of the answer, the grant is lost.
    pub async fn poll_device(&self, login: &DeviceLogin) -> Result<Grant, OAuthError> {
        let mut interval = login.interval;
        let expired =
            || OAuthError::new(OAuthErrorKind::Expired, "the code was not entered in time: begin again");
        loop {
            let next = Instant::now() + interval;
            if next >= login.ends {
                sleep_until(login.ends).await;
                return Err(expired());
            }
            sleep(interval).await;
            let mut fields = self.fields(DEVICE_GRANT);
            fields.insert("device_code".into(), login.device_code.secret().as_str().into());
            let limit = login.ends.min(Instant::now() + POLL_PATIENCE);
            match timeout_at(limit, self.grant(fields)).await {
                Ok(Ok(grant)) => return Ok(grant),
                Ok(Err(error)) => match error.kind() {
                    OAuthErrorKind::Pending => {}
                    OAuthErrorKind::SlowDown => interval += SLOW_DOWN,
                    // RFC 8628, 3.5: on a connection that times out, less often.
                    OAuthErrorKind::Unavailable => interval *= 2,
                    _ => return Err(error),
                },
                Err(_) => interval *= 2,
            }
        }
    }

    fn fields(&self, grant_type: &str) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("grant_type".into(), grant_type.into());
        fields.insert("client_id".into(), self.config().client_id.as_str().into());
        fields
    }

    async fn grant(&self, fields: Map<String, Value>) -> Result<Grant, OAuthError> {
        let Inner { config, endpoint, .. } = &*self.inner;
        let reply = endpoint.send(self.request(&self.inner.token_url, &fields)).await?;
        let token = endpoint.token(&reply, config.expires_in)?;
        Ok(Grant::of_answer(&token, config.clock.now()))
    }

    fn request(&self, url: &Uri, fields: &Map<String, Value>) -> Request<Full<Bytes>> {
        let config = self.config();
        let mut request = Request::post(url.clone()).header(ACCEPT, "application/json");
        let body = match config.style {
            RequestStyle::BearerJson => {
                request = request.header(CONTENT_TYPE, "application/json");
                if let Some(secret) = &config.client_secret {
                    let mut bearer = HeaderValue::try_from(format!("Bearer {}", secret.secret()))
                        .expect("checked to be visible ASCII");
                    bearer.set_sensitive(true);
                    request = request.header(AUTHORIZATION, bearer);
                }
                serde_json::to_string(fields).expect("texts are JSON")
            }
            RequestStyle::Form => {
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, value) in fields {
                    form.append_pair(name, value.as_str().unwrap_or_default());
                }
                if let Some(secret) = &config.client_secret {
                    form.append_pair("client_secret", secret.secret());
                }
                form.finish()
            }
        };
        request.body(Full::from(body)).expect("the URL was parsed when the client was built")
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
