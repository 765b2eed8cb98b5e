//! [`OAuthConfig`]: where the identity server is, and how it wants to be asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use oauth2::ClientSecret;

use crate::error::Error;
use crate::provider::token_endpoint::{ExpiresIn, RequestStyle, check_redirect_uri, check_url, text};
use crate::provider::{Clock, SystemClock};

/// How long one exchange may take. A user waits for most of them; and a code is spent by its use, so that patience costs
/// less than a new login.
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(30);

/// Nobody waits an hour for an answer.
const MAX_TIME_LIMIT: Duration = Duration::from_secs(3600);

/// Which logins are proved with PKCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pkce {
    All,
    #[cfg(feature = "coze")]
    WithoutSecret,
    None,
}

/// What an [`OAuthClient`](super::OAuthClient) is built from. It is checked there.
#[derive(Clone)]
pub struct OAuthConfig {
    pub(super) client_id: String,
    pub(super) client_secret: Option<ClientSecret>,
    token_url: String,
    authorize_url: Option<String>,
    device_url: Option<String>,
    pub(super) redirect_uri: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) realm: Option<String>,
    pkce: Pkce,
    pub(super) time_limit: Duration,
    pub(super) style: RequestStyle,
    pub(super) expires_in: ExpiresIn,
    plaintext_allowed: bool,
    pub(super) clock: Arc<dyn Clock>,
}

impl OAuthConfig {
    /// A client of this ID, which gets its tokens at `token_url`.
    pub fn new(client_id: impl Into<String>, token_url: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            client_secret: None,
            token_url: token_url.into(),
            authorize_url: None,
            device_url: None,
            redirect_uri: None,
            scope: None,
            realm: None,
            pkce: Pkce::All,
            time_limit: DEFAULT_TIME_LIMIT,
            style: RequestStyle::default(),
            expires_in: ExpiresIn::default(),
            plaintext_allowed: false,
            clock: Arc::new(SystemClock),
        }
    }

    /// The client's secret. Default: none, as apps have it that cannot keep one.
    #[must_use]
    pub fn with_client_secret(mut self, secret: impl Into<String>) -> Self {
        self.client_secret = Some(ClientSecret::new(secret.into()));
        self
    }

    /// Where users authorise. Default: none; [`authorize`](super::OAuthClient::authorize) needs it.
    #[must_use]
    pub fn with_authorize_url(mut self, url: impl Into<String>) -> Self {
        self.authorize_url = Some(url.into());
        self
    }

    /// Where devices get their codes. Default: none; [`start_device`](super::OAuthClient::start_device) needs it.
    #[must_use]
    pub fn with_device_url(mut self, url: impl Into<String>) -> Self {
        self.device_url = Some(url.into());
        self
    }

    /// Where the browser comes back to: `https`, `http` to loopback, or a scheme of the app's own with a dot in it, such as
    /// `com.example.app:/callback` ([RFC 8252, 7](https://www.rfc-editor.org/rfc/rfc8252#section-7)). Default: none;
    /// [`authorize`](super::OAuthClient::authorize) needs it.
    #[must_use]
    pub fn with_redirect_uri(mut self, uri: impl Into<String>) -> Self {
        self.redirect_uri = Some(uri.into());
        self
    }

    /// What to ask for, as the server writes it. Default: what it gives by itself.
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// Whether logins are proved with PKCE, method S256 ([RFC 7636](https://www.rfc-editor.org/rfc/rfc7636)). Default:
    /// `true`, with a client secret as well ([RFC 9700, 2.1.1](https://www.rfc-editor.org/rfc/rfc9700#section-2.1.1)).
    /// Servers that do not know it ignore it, as they should; for one that refuses it, say `false`.
    #[must_use]
    pub fn with_pkce(mut self, pkce: bool) -> Self {
        self.pkce = if pkce { Pkce::All } else { Pkce::None };
        self
    }

    /// For servers whose apps with a secret are not to use it.
    #[cfg(feature = "coze")]
    pub(crate) fn with_pkce_without_secret(mut self) -> Self {
        self.pkce = Pkce::WithoutSecret;
        self
    }

    /// Tells apart what one client ID is granted under several names: a workspace, a tenant, a region. Users' grants are
    /// stored under client ID, realm and user ([`UserTokens`](super::UserTokens)). Default: none.
    #[must_use]
    pub fn with_realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// How long [`finish`](super::OAuthClient::finish), [`refresh`](super::OAuthClient::refresh),
    /// [`start_device`](super::OAuthClient::start_device), and each question of
    /// [`poll_device`](super::OAuthClient::poll_device) may take. Default: 30 s; at most one hour.
    ///
    /// [`UserTokens`](super::UserTokens) has limits of its own.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How tokens are asked for. Default: [`RequestStyle::Form`].
    #[must_use]
    pub fn with_request_style(mut self, style: RequestStyle) -> Self {
        self.style = style;
        self
    }

    /// What `expires_in` of a token means. Default: [`ExpiresIn::Relative`]. That of a device code is always relative.
    #[must_use]
    pub fn with_expires_in(mut self, meaning: ExpiresIn) -> Self {
        self.expires_in = meaning;
        self
    }

    /// Whether the URLs may be plain `http` to another host, where anybody on the way can read the tokens, and the code
    /// that comes back. Default: `false`; loopback is always allowed.
    #[must_use]
    pub fn with_plaintext_allowed(mut self, allowed: bool) -> Self {
        self.plaintext_allowed = allowed;
        self
    }

    /// The wall clock. Default: [`SystemClock`].
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(super) fn has_pkce(&self) -> bool {
        match self.pkce {
            Pkce::All => true,
            #[cfg(feature = "coze")]
            Pkce::WithoutSecret => self.client_secret.is_none(),
            Pkce::None => false,
        }
    }

    /// The URLs: for tokens, to authorise, for devices.
    pub(super) fn check(&self) -> Result<(Uri, Option<Uri>, Option<Uri>), Error> {
        text::check_name("client_id", &self.client_id)?;
        if let Some(secret) = &self.client_secret
            && (secret.secret().is_empty() || !secret.secret().bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Error::config("client_secret", "expected visible ASCII characters, without spaces"));
        }
        if let Some(uri) = &self.redirect_uri {
            check_redirect_uri(uri, self.plaintext_allowed)?;
        }
        if self.time_limit.is_zero() || self.time_limit > MAX_TIME_LIMIT {
            return Err(Error::config("time_limit", "expected more than zero and at most one hour"));
        }
        let optional = |field, url: &Option<String>| {
            url.as_deref().map(|url| check_url(field, url, self.plaintext_allowed)).transpose()
        };
        Ok((
            check_url("token_url", &self.token_url, self.plaintext_allowed)?,
            optional("authorize_url", &self.authorize_url)?,
            optional("device_url", &self.device_url)?,
        ))
    }
}

impl fmt::Debug for OAuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthConfig")
            .field("client_id", &self.client_id)
            .field("realm", &self.realm)
            .field("redirect_uri", &self.redirect_uri)
            .field("pkce", &self.has_pkce())
            .field("style", &self.style)
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}
