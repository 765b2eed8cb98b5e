//! [`DeviceLogin`]: a login on a device that has no browser ([RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)).

use std::fmt;
use std::time::Duration;

use oauth2::DeviceCode;
use serde::Deserialize;
use serde_json::Map;
use tokio::time::{Instant, sleep_until};

use super::{Grant, OAuthClient, OAuthError, OAuthErrorKind};
use crate::provider::CredentialError;

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What a device waits longer each time that it is told to
/// ([RFC 8628, 3.5](https://www.rfc-editor.org/rfc/rfc8628#section-3.5)).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// How long before the code's end the server is asked for the last time: its own count began a little earlier.
const LAST_QUESTION: Duration = Duration::from_secs(1);

/// If the server names no interval ([RFC 8628, 3.2](https://www.rfc-editor.org/rfc/rfc8628#section-3.2)).
const DEFAULT_INTERVAL: u64 = 5;

/// No code is good for longer than this, whatever the server says.
const LONGEST: u64 = 24 * 3600;

impl OAuthClient {
    /// Begins a login on a device: shows the user a code to enter in a browser.
    ///
    /// # Errors
    ///
    /// [`OAuthErrorKind::InvalidConfig`], if the config names no `device_url`. Otherwise what the server says, or
    /// [that it did not answer](super::OAuthConfig::with_time_limit).
    pub async fn start_device(&self) -> Result<DeviceLogin, OAuthError> {
        let Some(url) = self.device_url() else {
            return Err(OAuthError::new(OAuthErrorKind::InvalidConfig, "the config names no `device_url`"));
        };
        let mut fields = Map::new();
        fields.insert("client_id".into(), self.config().client_id.as_str().into());
        if let Some(scope) = &self.config().scope {
            fields.insert("scope".into(), scope.as_str().into());
        }
        let reply = self.in_time(self.ask_device(url, &fields)).await?;
        DeviceLogin::read(&reply.body).map_err(OAuthError::unusable)
    }

    /// Waits until the user has entered the code, or refused, or the code has run out. Asks no more often than the server
    /// wants, but for a last time just before the code's end.
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
            let Some(next) = login.next_question(Instant::now(), interval) else {
                sleep_until(login.ends).await;
                return Err(expired());
            };
            sleep_until(next).await;
            let mut fields = self.fields(DEVICE_GRANT);
            fields.insert("device_code".into(), login.device_code.secret().as_str().into());
            // Not cut off at the code's end: the user may have entered it in time.
            match self.grant(fields).await {
                Ok(grant) => return Ok(grant),
                Err(error) => match error.kind() {
                    OAuthErrorKind::Pending => {}
                    OAuthErrorKind::SlowDown => interval += SLOW_DOWN,
                    // RFC 8628, 3.5: on a connection that times out, less often.
                    OAuthErrorKind::Unavailable => interval *= 2,
                    _ => return Err(error),
                },
            }
        }
    }
}

/// A login that was begun on a device. The user enters the code at the URI, in a browser anywhere.
pub struct DeviceLogin {
    device_code: DeviceCode,
    user_code: String,
    verification_uri: String,
    interval: Duration,
    ends: Instant,
}

#[derive(Deserialize)]
struct Answer {
    device_code: DeviceCode,
    user_code: String,
    // Some servers write `url`.
    #[serde(alias = "verification_url")]
    verification_uri: String,
    expires_in: u64,
    interval: Option<u64>,
}

impl DeviceLogin {
    fn read(body: &[u8]) -> Result<Self, CredentialError> {
        // The parser's error quotes nothing but positions and names.
        let answer: Answer = serde_json::from_slice(body).map_err(|_| {
            CredentialError::new(
                "the device endpoint's answer is not as expected: `device_code`, `user_code`, `verification_uri` and \
                 `expires_in`",
            )
        })?;
        Ok(Self {
            device_code: answer.device_code,
            user_code: answer.user_code,
            verification_uri: answer.verification_uri,
            interval: Duration::from_secs(answer.interval.unwrap_or(DEFAULT_INTERVAL).clamp(1, LONGEST)),
            ends: Instant::now() + Duration::from_secs(answer.expires_in.min(LONGEST)),
        })
    }

    /// When to ask next; `None`: not before the code's end.
    fn next_question(&self, now: Instant, interval: Duration) -> Option<Instant> {
        let next = now + interval;
        if next < self.ends {
            return Some(next);
        }
        // Sooner than the server wants, so only once, and not much sooner.
        let last = self.ends.checked_sub(LAST_QUESTION)?;
        (last >= now + interval / 2).then_some(last)
    }

    /// What the user enters.
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// Where.
    pub fn verification_uri(&self) -> &str {
        &self.verification_uri
    }

    /// For how long the code can still be entered.
    pub fn time_left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }
}

impl fmt::Debug for DeviceLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceLogin")
            .field("verification_uri", &self.verification_uri)
            .field("interval", &self.interval)
            .field("time_left", &self.time_left())
            .finish_non_exhaustive()
    }
}
