//! [`JwtGrant`]: what is asserted, where, and how the answer is to be read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use serde_json::{Map, Value};

use super::JwtKey;
use super::assertion::{Assertion, MAX_LIFETIME, RESERVED_CLAIMS};
use crate::error::Error;
use crate::provider::token_endpoint::{ExpiresIn, RequestStyle, check_url, text};
use crate::provider::{Clock, SystemClock};

/// Long enough for a slow line and a clock that is a little off, short enough that a stolen assertion is soon
/// worth nothing.
const DEFAULT_ASSERTION_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// The body fields that are set by the exchange itself.
const RESERVED_PARAMETERS: [&str; 2] = ["grant_type", "assertion"];

/// The terms of an exchange, to build a [`JwtBearer`](super::JwtBearer) from. They are checked there.
#[derive(Clone)]
pub struct JwtGrant {
    token_url: String,
    plaintext_allowed: bool,
    key: JwtKey,
    issuer: String,
    audience: String,
    claims: Map<String, Value>,
    assertion_lifetime: Duration,
    style: RequestStyle,
    parameters: Map<String, Value>,
    expires_in: ExpiresIn,
    clock: Arc<dyn Clock>,
}

impl JwtGrant {
    /// An exchange at `token_url`, with assertions signed by `key`. Issuer and audience must follow.
    pub fn new(token_url: impl Into<String>, key: JwtKey) -> Self {
        Self {
            token_url: token_url.into(),
            plaintext_allowed: false,
            key,
            issuer: String::new(),
            audience: String::new(),
            claims: Map::new(),
            assertion_lifetime: DEFAULT_ASSERTION_LIFETIME,
            style: RequestStyle::default(),
            parameters: Map::new(),
            expires_in: ExpiresIn::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Who asserts: the claim `iss`, often the client's id. No default.
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// To whom: the claim `aud`, in the form that the server wants (its token URL, its issuer, its host). No
    /// default.
    #[must_use]
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// One more claim, such as `sub`, which RFC 7523 asks for and not every server does. Default: none.
    ///
    /// `iss`, `aud`, `iat`, `exp` and `jti` are refused when the provider is built.
    #[must_use]
    pub fn with_claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// One more field of the request's body, such as `scope`. Default: none.
    ///
    /// `grant_type` and `assertion` are refused when the provider is built, and so is, in a form, a value
    /// that is not a string, a number or a boolean.
    #[must_use]
    pub fn with_parameter(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.into(), value.into());
        self
    }

    /// How long an assertion is good for, in whole seconds up to an hour. Default: 5 minutes.
    #[must_use]
    pub fn with_assertion_lifetime(mut self, lifetime: Duration) -> Self {
        self.assertion_lifetime = lifetime;
        self
    }

    /// How the assertion is sent. Default: [`RequestStyle::Form`].
    #[must_use]
    pub fn with_request_style(mut self, style: RequestStyle) -> Self {
        self.style = style;
        self
    }

    /// What the answer's `expires_in` means. Default: [`ExpiresIn::Relative`].
    #[must_use]
    pub fn with_expires_in(mut self, meaning: ExpiresIn) -> Self {
        self.expires_in = meaning;
        self
    }

    /// Whether the token URL may be plain `http` to another host, where anybody on the way can read the
    /// assertion and the token. Default: `false`; loopback is always allowed.
    #[must_use]
    pub fn with_plaintext_allowed(mut self, allowed: bool) -> Self {
        self.plaintext_allowed = allowed;
        self
    }

    /// The wall clock for assertions and expiries. Default: [`SystemClock`].
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(super) fn check(self) -> Result<Terms, Error> {
        let token_url = check_url("token_url", &self.token_url, self.plaintext_allowed)?;
        text::check_name("issuer", &self.issuer)?;
        text::check_name("audience", &self.audience)?;
        if self.assertion_lifetime < Duration::from_secs(1) || self.assertion_lifetime > MAX_LIFETIME {
            return Err(Error::config("assertion_lifetime", "expected one second to one hour"));
        }
        if self.claims.keys().any(|name| name.is_empty() || RESERVED_CLAIMS.contains(&name.as_str())) {
            return Err(Error::config(
                "claim",
                "expected a name other than `iss`, `aud`, `iat`, `exp` and `jti`, which are set for each assertion",
            ));
        }
        check_parameters(&self.parameters, self.style)?;
        Ok(Terms {
            token_url,
            assertion: Assertion {
                key: self.key,
                issuer: self.issuer,
                audience: self.audience,
                claims: self.claims,
                lifetime: self.assertion_lifetime,
            },
            style: self.style,
            parameters: self.parameters,
            expires_in: self.expires_in,
            clock: self.clock,
        })
    }
}

impl fmt::Debug for JwtGrant {
    /// Of claims and parameters only the names: a value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtGrant")
            .field("key", &self.key)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("claims", &self.claims.keys())
            .field("assertion_lifetime", &self.assertion_lifetime)
            .field("style", &self.style)
            .field("parameters", &self.parameters.keys())
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// A grant that has been found usable.
pub(super) struct Terms {
    pub(super) token_url: Uri,
    pub(super) assertion: Assertion,
    pub(super) style: RequestStyle,
    pub(super) parameters: Map<String, Value>,
    pub(super) expires_in: ExpiresIn,
    pub(super) clock: Arc<dyn Clock>,
}

impl Terms {
    pub(super) fn issuer(&self) -> &str {
        &self.assertion.issuer
    }

    pub(super) fn key_id(&self) -> &str {
        self.assertion.key.id()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }
}

fn check_parameters(parameters: &Map<String, Value>, style: RequestStyle) -> Result<(), Error> {
    if parameters.keys().any(|name| name.is_empty() || RESERVED_PARAMETERS.contains(&name.as_str())) {
        return Err(Error::config(
            "parameter",
            "expected a name other than `grant_type` and `assertion`, which are set for each exchange",
        ));
    }
    let is_flat = |value: &Value| !matches!(value, Value::Null | Value::Array(_) | Value::Object(_));
    if style == RequestStyle::Form && !parameters.values().all(is_flat) {
        return Err(Error::config(
            "parameter",
            "expected a string, a number or a boolean, as a form can carry it",
        ));
    }
    Ok(())
}
