//! [`OAuthError`]: why there is no grant.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::provider::CredentialError;
use crate::provider::token_endpoint::NoToken;

/// Why the identity server gave no grant, or was not asked.
#[derive(Clone, Debug)]
pub struct OAuthError {
    kind: OAuthErrorKind,
    /// Whether anything reached the server, for all that is known.
    is_sent: bool,
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
    /// The server does not take this client, or not for this: its ID, its secret or its kind is not as it should be. No
    /// user can help.
    InvalidClient,
    /// The server refused for another reason.
    Refused,
    /// The server could not be asked, or did not answer in time, or is overloaded or broken.
    Unavailable,
    /// The server granted what it was asked for, and what it sent cannot be used: what was sent to it is spent.
    UnusableAnswer,
    /// The config names no URL for this. Nothing was sent.
    InvalidConfig,
    /// The user has not entered the code yet.
    Pending,
    /// As pending, and the device asks too often.
    SlowDown,
}

impl OAuthError {
    pub(super) fn new(kind: OAuthErrorKind, message: &'static str) -> Self {
        Self { kind, is_sent: false, cause: CredentialError::new(message) }
    }

    /// No answer has come in time, and none is waited for any more.
    pub(super) fn timed_out() -> Self {
        let cause = CredentialError::new("the identity server did not answer within its time limit");
        Self { kind: OAuthErrorKind::Unavailable, is_sent: true, cause }
    }

    pub(super) fn unusable(cause: CredentialError) -> Self {
        Self { kind: OAuthErrorKind::UnusableAnswer, is_sent: true, cause }
    }

    /// What went wrong.
    pub fn kind(&self) -> OAuthErrorKind {
        self.kind
    }

    /// `false` only if it is certain.
    pub(super) fn is_sent(&self) -> bool {
        self.is_sent
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.cause.retry_after()
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
                Some("invalid_client" | "unauthorized_client" | "unsupported_grant_type") => {
                    OAuthErrorKind::InvalidClient
                }
                // Some send them with a status that blames the request.
                Some("internal_error" | "server_error" | "temporarily_unavailable") => {
                    OAuthErrorKind::Unavailable
                }
                _ => OAuthErrorKind::Refused,
            },
            NoToken::NotSent(_) | NoToken::Unclear(_) => OAuthErrorKind::Unavailable,
            NoToken::Unreadable(_) => OAuthErrorKind::UnusableAnswer,
        };
        let is_sent = !matches!(cause, NoToken::NotSent(_));
        Self { kind, is_sent, cause: cause.into_error() }
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
