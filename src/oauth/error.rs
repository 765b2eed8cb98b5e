//! [`OAuthError`]: why there is no grant.

use std::error::Error as StdError;
use std::fmt;

use crate::provider::CredentialError;
use crate::provider::token_endpoint::NoToken;

/// Why the identity server gave no grant, or was not asked.
#[derive(Clone, Debug)]
pub struct OAuthError {
    kind: OAuthErrorKind,
    cause: CredentialError,
}

/// What went wrong, for a `match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OAuthErrorKind {
    /// The code or the refresh token is not valid, or was used before.
    InvalidGrant,
    /// The user, or the server, said no.
    Denied,
    /// The device code has run out before the user entered it.
    Expired,
    /// The callback's `state` is not the one of this login: it was not begun in this browser.
    StateMismatch,
    /// The server refused for another reason: the client is not known to it, say.
    Refused,
    /// The server could not be asked, or its answer was none: it was overloaded, broken, or sent something else.
    Unavailable,
    /// The user has not entered the code yet.
    Pending,
    /// As pending, and the device asks too often.
    SlowDown,
}

impl OAuthError {
    pub(super) fn new(kind: OAuthErrorKind, message: &'static str) -> Self {
        Self { kind, cause: CredentialError::new(message) }
    }

    /// What went wrong.
    pub fn kind(&self) -> OAuthErrorKind {
        self.kind
    }

    pub(super) fn into_cause(self) -> CredentialError {
        self.cause
    }
}

impl From<NoToken> for OAuthError {
    fn from(cause: NoToken) -> Self {
        // RFC 6749, 5.2, and RFC 8628, 3.5; `access_deny` is Coze's.
        let kind = match &cause {
            NoToken::Refused(refusal) => match refusal.code.as_deref() {
                Some("invalid_grant") => OAuthErrorKind::InvalidGrant,
                Some("access_denied" | "access_deny") => OAuthErrorKind::Denied,
                Some("expired_token") => OAuthErrorKind::Expired,
                Some("authorization_pending") => OAuthErrorKind::Pending,
                Some("slow_down") => OAuthErrorKind::SlowDown,
                _ => OAuthErrorKind::Refused,
            },
            NoToken::NotSent(_) | NoToken::Unclear(_) => OAuthErrorKind::Unavailable,
        };
        Self { kind, cause: cause.into_error() }
    }
}

impl From<CredentialError> for OAuthError {
    fn from(cause: CredentialError) -> Self {
        Self { kind: OAuthErrorKind::Unavailable, cause }
    }
}

impl fmt::Display for OAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl StdError for OAuthError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}
