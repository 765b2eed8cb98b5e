//! [`Assertion`]: the claims that are signed, new for each exchange.

use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};

use super::key::JwtKey;
use crate::hex::hex;
use crate::provider::CredentialError;

/// The claims that are set here and nowhere else.
pub(super) const RESERVED_CLAIMS: [&str; 5] = ["iss", "aud", "iat", "exp", "jti"];

/// The longest time an assertion may be good for. Servers refuse more.
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How far `iat` lies in the past: a server whose clock is a little behind would take it for an assertion
/// from the future and refuse it.
const IAT_BACKDATE: Duration = Duration::from_secs(10);

/// Bytes of chance in a `jti`.
const JTI_BYTES: usize = 32;

/// What stays the same from one assertion to the next.
pub(super) struct Assertion {
    pub(super) key: JwtKey,
    pub(super) issuer: String,
    pub(super) audience: String,
    /// None of [`RESERVED_CLAIMS`].
    pub(super) claims: Map<String, Value>,
    /// Over zero, up to [`MAX_LIFETIME`].
    pub(super) lifetime: Duration,
}

impl Assertion {
    /// A signed JWT with a `jti` of its own. `now` is the server's time, as far as it is known.
    pub(super) fn sign(&self, now: SystemTime) -> Result<String, CredentialError> {
        let mut jti = [0_u8; JTI_BYTES];
        getrandom::fill(&mut jti).map_err(|error| {
            CredentialError::new("the system has no random numbers for an assertion's `jti`")
                .with_source(error)
        })?;

        // Before 1970 it is zero: the server refuses that, and its `Date` teaches us the time.
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let issued = now.saturating_sub(IAT_BACKDATE.as_secs());
        // Counted from now, so that backdating does not shorten it; but never longer than the longest in all.
        let expires = (now + self.lifetime.as_secs()).min(issued + MAX_LIFETIME.as_secs());
        let mut claims = self.claims.clone();
        claims.insert("iss".into(), self.issuer.as_str().into());
        claims.insert("aud".into(), self.audience.as_str().into());
        claims.insert("iat".into(), issued.into());
        claims.insert("exp".into(), expires.into());
        claims.insert("jti".into(), hex(&jti).into());

        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.key.id() });
        let message = format!("{}.{}", encode(&header), encode(&Value::Object(claims)));
        let signature = self
            .key
            .sign(&message)
            .map_err(|error| CredentialError::new("the assertion could not be signed").with_source(error))?;
        Ok(format!("{message}.{signature}"))
    }
}

fn encode(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}
