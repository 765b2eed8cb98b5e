//! [`DeviceLogin`]: a login on a device that has no browser ([RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)).

use std::fmt;
use std::time::Duration;

use oauth2::DeviceCode;
use serde::Deserialize;
use tokio::time::Instant;

use crate::provider::CredentialError;

/// If the server names no interval ([RFC 8628, 3.2](https://www.rfc-editor.org/rfc/rfc8628#section-3.2)).
const DEFAULT_INTERVAL: u64 = 5;

/// No code is good for longer than this, whatever the server says.
const LONGEST: u64 = 24 * 3600;

/// A login that was begun on a device. The user enters the code at the URI, in a browser anywhere.
pub struct DeviceLogin {
    pub(super) device_code: DeviceCode,
    user_code: String,
    verification_uri: String,
    pub(super) interval: Duration,
    pub(super) ends: Instant,
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
    pub(super) fn read(body: &[u8]) -> Result<Self, CredentialError> {
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
            interval: Duration::from_secs(answer.interval.unwrap_or(DEFAULT_INTERVAL).min(LONGEST)),
            ends: Instant::now() + Duration::from_secs(answer.expires_in.min(LONGEST)),
        })
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
