//! [`Grant`]: what a user has granted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oauth2::{AccessToken, RefreshToken};
use serde::{Deserialize, Serialize};

use super::OAuthError;
use super::spending::Spending;
use crate::credential::Credential;
use crate::error::Error;
use crate::provider::CredentialError;
use crate::provider::token_endpoint::Answer;

/// The part of its life after which an access token is renewed, while it is still good: three quarters.
const FRESH: f64 = 0.75;

/// A token with less than this to live is of no use: it is over before the request is answered. A little more than what
/// the cache takes.
const LEAST: Duration = Duration::from_millis(1100);

/// An access token and, mostly, the refresh token to get the next one with. `Debug` shows neither.
///
/// Its times are by this machine's clock. What [`UserTokens`](super::UserTokens) puts into a store has them by the identity
/// server's clock, so that machines whose clocks differ understand each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    access_token: AccessToken,
    /// In milliseconds since 1970. `None`: until it is refused.
    expires_at: Option<u64>,
    issued_at: u64,
    refresh_token: Option<RefreshToken>,
    #[serde(flatten)]
    pub(super) spending: Spending,
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
            spending: Spending::default(),
        })
    }

    /// What a login brought. Whatever is wrong with it, the user is there to begin again.
    pub(super) fn of_answer(answer: Answer, now: SystemTime) -> Result<Self, OAuthError> {
        let access_token = answer.access_token.map_err(OAuthError::unusable)?;
        let ends = answer.ends.map_err(OAuthError::unusable)?;
        Ok(Self {
            access_token: AccessToken::new(access_token),
            expires_at: ends.map(milliseconds),
            issued_at: milliseconds(now),
            refresh_token: answer.refresh_token.map(RefreshToken::new),
            spending: Spending::default(),
        })
    }

    /// What came for `spent`, and why its access token cannot be used, if so: then it counts as ended. A server that
    /// sends no refresh token does not rotate them, and the one before stays.
    ///
    /// # Errors
    ///
    /// If there is neither an access token nor a refresh token.
    pub(super) fn of_refresh(
        answer: Answer,
        spent: &RefreshToken,
        now: SystemTime,
    ) -> Result<(Self, Option<CredentialError>), OAuthError> {
        let (access_token, ends, problem) = match answer.access_token {
            // An end that cannot be read is not known: the token is used until it is refused.
            Ok(token) => (token, answer.ends.unwrap_or_default().map(milliseconds), None),
            Err(problem) if answer.refresh_token.is_some() => (String::new(), Some(0), Some(problem)),
            Err(problem) => return Err(OAuthError::unusable(problem)),
        };
        let grant = Self {
            access_token: AccessToken::new(access_token),
            expires_at: ends,
            issued_at: milliseconds(now),
            refresh_token: Some(answer.refresh_token.map_or_else(|| spent.clone(), RefreshToken::new)),
            spending: Spending::default(),
        };
        Ok((grant, problem))
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

    /// When the access token ends; `None`: not before it is refused.
    pub fn expires_at(&self) -> Option<SystemTime> {
        // A store may hold anything.
        let end = |at| UNIX_EPOCH.checked_add(Duration::from_millis(at)).unwrap_or(UNIX_EPOCH);
        self.expires_at.map(end)
    }

    /// What the next access token is got with.
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
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

    /// The same grant by a clock that is ahead by so many milliseconds.
    pub(super) fn by_clock_ahead(mut self, milliseconds: i64) -> Self {
        let ahead = |time: &mut u64| *time = time.saturating_add_signed(milliseconds);
        // 0 is not a time, but over.
        self.expires_at.as_mut().filter(|at| **at > 0).map(ahead);
        ahead(&mut self.issued_at);
        self.spending.times().for_each(ahead);
        self
    }

    /// What is left if the refresh token is spent and nothing came for it.
    pub(super) fn without_refresh_token(self) -> Self {
        Self { refresh_token: None, spending: Spending::default(), ..self }
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

pub(super) fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
