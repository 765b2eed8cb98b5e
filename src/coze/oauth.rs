//! [`OAuthApp`]: an app of Coze's JWT flow, and the layer over its two accounts.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Region, is_digits, layer};
use crate::error::Error;
use crate::layer::CredentialFallbackLayer;
use crate::provider::{ExpiresIn, HttpClient, JwtBearer, JwtGrant, JwtKey, RequestStyle};

/// The longest that Coze lets a token live.
const DURATION_MAX: Duration = Duration::from_secs(86_399);

/// An OAuth app of the JWT type: it gets tokens in its own name, with a key of its own
/// ([Coze's description](https://www.coze.cn/open/docs/developer_guides/oauth_jwt)).
///
/// One app serves both accounts of a migration: the personal account that made it, and the enterprise whose
/// administrator authorised it.
#[derive(Clone)]
pub struct OAuthApp {
    region: Region,
    client_id: String,
    key: JwtKey,
    /// `None`: the region's host.
    audience: Option<String>,
    claims: Vec<(&'static str, Value)>,
    parameters: Vec<(&'static str, Value)>,
}

impl OAuthApp {
    /// The app with this ID, which signs with this RSA key (PEM, PKCS#8 or PKCS#1). `key_id` is the public
    /// key's fingerprint, as Coze shows it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `client_id` or `key_id`, if it is
    /// empty; for `private_key`, if it is none. The error shows nothing of the key.
    pub fn new(
        region: Region,
        client_id: impl Into<String>,
        key_id: impl Into<String>,
        private_key: impl AsRef<[u8]>,
    ) -> Result<Self, Error> {
        let client_id = client_id.into();
        if client_id.trim().is_empty() {
            return Err(Error::config("client_id", "expected the app's ID, as Coze shows it"));
        }
        let key = JwtKey::from_rsa_pem(key_id, private_key)?;
        Ok(Self { region, client_id, key, audience: None, claims: Vec::new(), parameters: Vec::new() })
    }

    /// How long a token is to live: 1 second to 86,399. Default: what Coze takes, 900 seconds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `duration`, beyond that range.
    pub fn with_duration(mut self, duration: Duration) -> Result<Self, Error> {
        if duration < Duration::from_secs(1) || duration > DURATION_MAX {
            return Err(Error::config("duration", "expected 1 to 86399 seconds"));
        }
        self.parameters.push(("duration_seconds", json!(duration.as_secs())));
        Ok(self)
    }

    /// Whom an assertion is for (`aud`). Default: the host of the region's API, such as `api.coze.cn`. Through a gateway
    /// it has to be said: the cloud behind it expects its own name, not the gateway's.
    #[must_use]
    pub fn with_audience(mut self, host: impl Into<String>) -> Self {
        self.audience = Some(host.into());
        self
    }

    /// Keeps the conversations of this user of yours apart from those of others. Default: none.
    #[must_use]
    pub fn with_session_name(mut self, name: impl Into<String>) -> Self {
        self.claims.push(("session_name", Value::String(name.into())));
        self
    }

    /// What Coze is told about the session, such as `{"device_info": {"device_id": "…"}}`. Default: nothing.
    #[must_use]
    pub fn with_session_context(mut self, context: Value) -> Self {
        self.claims.push(("session_context", context));
        self
    }

    /// Narrows what a token may do. Default: all that the app may.
    #[must_use]
    pub fn with_scope(mut self, scope: Value) -> Self {
        self.parameters.push(("scope", scope));
        self
    }

    /// An exchange for tokens in the name of the app alone, to make a [`JwtBearer`] from.
    pub fn grant(&self) -> JwtGrant {
        self.grant_at("/api/permission/oauth2/token")
    }

    /// An exchange for a personal account's tokens; the account is named by its UID.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `account_id`, if it is not made of
    /// digits.
    pub fn account_grant(&self, account_id: &str) -> Result<JwtGrant, Error> {
        if !is_digits(account_id) {
            return Err(Error::config("account_id", "expected the account's UID, which is made of digits"));
        }
        Ok(self.grant_at(&format!("/api/permission/oauth2/account/{account_id}/token")))
    }

    /// An exchange for an enterprise's tokens; the enterprise is named by its ID, a text such as
    /// `volcano_2105850123`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `enterprise_id`, if it is empty or has
    /// characters that no ID has.
    pub fn enterprise_grant(&self, enterprise_id: &str) -> Result<JwtGrant, Error> {
        let is_id = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if enterprise_id.is_empty() || !enterprise_id.bytes().all(is_id) {
            let expected = "expected the enterprise's ID, such as `volcano_2105850123`";
            return Err(Error::config("enterprise_id", expected));
        }
        Ok(self.grant_at(&format!("/api/permission/oauth2/enterprise_id/{enterprise_id}/token")))
    }

    /// Coze's endpoint is not RFC 7523's: the assertion is the bearer token, the rest is JSON, and
    /// `expires_in` is a point in time.
    fn grant_at(&self, path: &str) -> JwtGrant {
        let url = format!("{}{path}", self.region.base_url());
        let grant = JwtGrant::new(url, self.key.clone())
            .with_issuer(self.client_id.as_str())
            .with_audience(self.audience.as_deref().unwrap_or(self.region.host()))
            .with_request_style(RequestStyle::BearerJson)
            .with_expires_in(ExpiresIn::Absolute);
        let grant =
            self.claims.iter().fold(grant, |grant, (name, value)| grant.with_claim(*name, value.clone()));
        let parameters = self.parameters.iter();
        parameters.fold(grant, |grant, (name, value)| grant.with_parameter(*name, value.clone()))
    }
}

/// A layer over one app's tokens: for the personal account, then for the enterprise.
///
/// It sends them to the region's API alone. `http` makes the exchanges; it should follow no redirects.
///
/// ```no_run
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_credential_fallback::coze::{self, OAuthApp, Region};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let https = hyper_util::client::legacy::connect::HttpConnector::new();
/// let key = std::fs::read("private_key.pem")?;
/// let app = OAuthApp::new(Region::Cn, "1137000000000", "key-fingerprint", key)?;
/// let exchange = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(https);
/// let layer = coze::oauth_app(&app, exchange, "2478774393250000", "volcano_2105850123")?;
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `account_id` or `enterprise_id`, if it is
/// none; for `token_url`, if a region of your own is on another host and not reached over TLS.
pub fn oauth_app(
    app: &OAuthApp,
    http: impl HttpClient,
    account_id: &str,
    enterprise_id: &str,
) -> Result<CredentialFallbackLayer<JwtBearer, JwtBearer>, Error> {
    let personal = JwtBearer::new(http.clone(), app.account_grant(account_id)?)?;
    let enterprise = JwtBearer::new(http, app.enterprise_grant(enterprise_id)?)?;
    layer(&app.region, personal, enterprise)
}

impl fmt::Debug for OAuthApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthApp")
            .field("region", &self.region)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_argument_is_refused_by_name() {
        let field = |region| OAuthApp::new(region, " ", "kid", "").unwrap_err().field();
        assert_eq!(field(Region::Cn), Some("client_id"));
        let secret = "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----";
        let error = OAuthApp::new(Region::Cn, "app", "kid", secret).unwrap_err();
        assert_eq!(error.field(), Some("private_key"));
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
}
