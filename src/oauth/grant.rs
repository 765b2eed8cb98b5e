//! [`Grant`]: what a user has granted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oauth2::{AccessToken, RefreshToken};
use serde::{Deserialize, Serialize};

use crate::credential::Credential;
use crate::error::Error;
use crate::provider::CredentialError;
use crate::provider::token_endpoint::Token;
use crate::store::Lease;

/// The part of its life after which an access token is renewed, while it is still good: three quarters.
const FRESH: f64 = 0.75;

/// A token with less than this to live is of no use: it is over before the request is answered. A little more than what
/// the cache takes.
const LEAST: Duration = Duration::from_millis(1100);

/// An access token and, mostly, the refresh token to get the next one with. `Debug` shows neither.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    access_token: AccessToken,
    /// In milliseconds since 1970. `None`: until it is refused.
    expires_at: Option<u64>,
    issued_at: u64,
    refresh_token: Option<RefreshToken>,
    /// The lease under which the refresh token is being sent: it may be spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    being_spent_by: Option<String>,
}

impl Grant {
    /// Tokens that were got elsewhere: to bring users along who have authorised before. `None` for `expires_at` means:
    /// good until refused.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `access_token` or `refresh_token`, if it is not
    /// made of visible ASCII characters.
    pub fn new(
        access_token: impl Into<String>,
        expires_at: Option<SystemTime>,
        refresh_token: Option<String>,
    ) -> Result<Self, Error> {
        let access_token = access_token.into();
        for (field, token) in
            [("access_token", Some(&access_token)), ("refresh_token", refresh_token.as_ref())]
        {
            if token.is_some_and(|token| token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic())) {
                return Err(Error::config(field, "expected visible ASCII characters, without spaces"));
            }
        }
        Ok(Self {
            access_token: AccessToken::new(access_token),
            expires_at: expires_at.map(milliseconds),
            issued_at: milliseconds(SystemTime::now()),
            refresh_token: refresh_token.map(RefreshToken::new),
            being_spent_by: None,
        })
    }

    pub(super) fn of_answer(token: &Token, now: SystemTime) -> Self {
        let text = |name| token.answer.get(name).and_then(serde_json::Value::as_str);
        let access_token = text("access_token").unwrap_or_default().to_owned();
        let refresh_token = text("refresh_token").filter(|token| !token.is_empty());
        Self {
            access_token: AccessToken::new(access_token),
            expires_at: token.credential.expires_at().map(milliseconds),
            issued_at: milliseconds(now),
            refresh_token: refresh_token.map(|token| RefreshToken::new(token.to_owned())),
            being_spent_by: None,
        }
    }

    /// The access token, as a credential.
    ///
    /// # Errors
    ///
    /// If it is no token: then the store was written to by somebody else.
    pub fn credential(&self) -> Result<Credential, CredentialError> {
        let credential = Credential::bearer(self.access_token.secret())
            .map_err(|error| CredentialError::new("the stored access token is none").with_source(error))?;
        Ok(match self.expires_at() {
            Some(at) => credential.with_expiry(at),
            None => credential,
        })
    }

    /// When the access token ends, by this machine's clock.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at.map(|at| UNIX_EPOCH + Duration::from_millis(at))
    }

    /// What the next access token is got with.
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    /// Servers that do not rotate refresh tokens send none.
    pub(super) fn or_refresh_token(mut self, known: &RefreshToken) -> Self {
        self.refresh_token.get_or_insert_with(|| known.clone());
        self
    }

    pub(super) fn is_being_spent(&self) -> bool {
        self.being_spent_by.is_some()
    }

    pub(super) fn is_being_spent_by(&self, lease: &Lease) -> bool {
        self.being_spent_by.as_deref() == Some(lease.owner())
    }

    pub(super) fn being_spent_under(&self, lease: &Lease) -> Self {
        Self { being_spent_by: Some(lease.owner().to_owned()), ..self.clone() }
    }

    pub(super) fn not_being_spent(self) -> Self {
        Self { being_spent_by: None, ..self }
    }

    /// Whether the access token is good for another request.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.expires_at().is_none_or(|end| end.duration_since(now).is_ok_and(|left| left > LEAST))
    }

    /// Whether it is not yet time to renew it.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        let Some(end) = self.expires_at else { return true };
        let life = end.saturating_sub(self.issued_at) as f64;
        (milliseconds(now).saturating_sub(self.issued_at) as f64) < life * FRESH
    }

    /// For a store: JSON, with the secrets in it.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are JSON")
    }

    /// What [`to_bytes`](Self::to_bytes) has written; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
