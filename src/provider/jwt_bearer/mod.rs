//! [`JwtBearer`]: a signed assertion exchanged for a token ([RFC 7523](https://www.rfc-editor.org/rfc/rfc7523)).
//!
//! ```text
//! JwtGrant ──(checked)──→ Exchange ── assertion.rs: claims, signature ── request ──→ HTTP client
//!                             ▲                                                        │
//! JwtBearer = TokenCache ─────┘ ←──────── token_endpoint: token, expiry or refusal ←─────┘
//! ```

use std::fmt;
use std::sync::Arc;

use http::request;

use super::token_cache::TokenCache;
use super::{AuthProvider, CredentialFuture, HttpClient};
use crate::classify::Rejection;
use crate::credential::Credential;
use crate::error::Error;
use crate::observe::Observe;
use crate::preference::Slot;

mod assertion;
mod builder;
mod exchange;
mod grant;
mod key;

pub use builder::JwtBearerBuilder;
pub use grant::JwtGrant;
pub use key::JwtKey;

/// Gives tokens that it gets for a signed assertion, and keeps them in a [`TokenCache`].
///
/// Every exchange signs a new assertion with a new `jti`: servers accept one only once. The `Date` header of
/// each answer teaches it the server's clock, so that a local clock that is minutes off costs one failed
/// exchange at most.
///
/// # The HTTP client
///
/// Any tower service will do ([`HttpClient`]). Put time limits and proxies there, but
/// - no following of redirects: the assertion would be shown to wherever the redirect leads. A 3xx answer is
///   an error here.
/// - no retries: the cache has its own, with a back-off; and a repeated request repeats the assertion.
///
/// Its errors become the source of a [`CredentialError`](crate::CredentialError), and so reach logs.
///
/// # Example
///
/// ```no_run
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower_credential_fallback::{JwtBearer, JwtGrant, JwtKey};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let https = hyper_util::client::legacy::connect::HttpConnector::new();
/// let key = JwtKey::from_rsa_pem("key-1", std::fs::read("private_key.pem")?)?;
/// let grant = JwtGrant::new("https://identity.example.com/oauth2/token", key)
///     .with_issuer("client-42")
///     .with_audience("https://identity.example.com/")
///     .with_claim("sub", "service-account@example.com")
///     .with_parameter("scope", "files.read");
/// let http = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(https);
/// let provider = JwtBearer::new(http, grant)?;
/// # let _ = provider;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JwtBearer {
    issuer: String,
    key_id: String,
    /// Without its query.
    token_url: String,
    cache: TokenCache,
}

impl JwtBearer {
    /// A provider that exchanges assertions as `grant` says, through `http`, with every setting at its default. Sends
    /// nothing yet.
    ///
    /// `http` is cloned for each exchange, and polled ready before it is called.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig), naming the part of the grant that is not
    /// usable: `token_url`, `issuer`, `audience`, `assertion_lifetime`, `claim` or `parameter`.
    pub fn new(http: impl HttpClient, grant: JwtGrant) -> Result<Self, Error> {
        Self::builder(http, grant).build()
    }

    /// Settings of a provider, to be changed and then [built](JwtBearerBuilder::build).
    pub fn builder<H: HttpClient>(http: H, grant: JwtGrant) -> JwtBearerBuilder<H> {
        JwtBearerBuilder::new(http, grant)
    }

    /// The cache that holds the token: to get one outside of a layer, or to see the last error.
    pub fn cache(&self) -> &TokenCache {
        &self.cache
    }
}

impl AuthProvider for JwtBearer {
    fn credential(&self, request: &request::Parts) -> CredentialFuture {
        self.cache.credential(request)
    }

    fn rejected(&self, credential: &Credential, reason: &Rejection) {
        self.cache.rejected(credential, reason);
    }

    fn observed_by(&self, slot: Slot, observer: &Arc<dyn Observe>) {
        self.cache.observed_by(slot, observer);
    }
}

impl fmt::Debug for JwtBearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtBearer")
            .field("issuer", &self.issuer)
            .field("key_id", &self.key_id)
            .field("token_url", &self.token_url)
            .field("cache", &self.cache)
            .finish()
    }
}
