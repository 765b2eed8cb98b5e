//! [`Answer`]: what a token endpoint gives ([RFC 6749, 5.1](https://www.rfc-editor.org/rfc/rfc6749#section-5.1)).
//!
//! Nothing of an answer is shown but the fields that are made to be shown, and those only after
//! [`sanitize`](text::sanitize): a token may stand anywhere.

use std::time::SystemTime;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::response;
use serde_json::{Map, Value};

use super::dialect::ExpiresIn;
use super::skew::Skew;
use super::{Reply, expiry, text};
use crate::credential::Credential;
use crate::provider::CredentialError;

/// What a 2xx answer gives, each part for itself: what is wrong with one part must not cost another, since a refresh
/// token comes only once.
pub(crate) struct Answer {
    /// Fit for a header.
    pub(crate) access_token: Result<String, CredentialError>,
    /// Its end by our clock; `None`: the answer does not say, or is not to be asked.
    pub(crate) ends: Result<Option<SystemTime>, CredentialError>,
    #[cfg_attr(not(feature = "oauth"), expect(dead_code, reason = "assertions get none"))]
    pub(crate) refresh_token: Option<String>,
}

impl Answer {
    /// # Errors
    ///
    /// If it is no JSON object.
    pub(super) fn read(reply: &Reply, expires_in: ExpiresIn, skew: &Skew) -> Result<Self, CredentialError> {
        let answer = object(&reply.head, &reply.body)?;
        let refresh_token = answer.get("refresh_token").and_then(Value::as_str);
        Ok(Self {
            access_token: access_token(&answer),
            ends: match answer.get("expires_in").filter(|_| expires_in != ExpiresIn::Ignored) {
                Some(value) => expiry::end(value, expires_in, reply.sent, skew),
                None => Ok(None),
            },
            refresh_token: refresh_token.filter(|token| !token.is_empty()).map(str::to_owned),
        })
    }
}

fn access_token(answer: &Map<String, Value>) -> Result<String, CredentialError> {
    match answer.get("token_type") {
        None => {}
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("bearer") => {}
        Some(Value::String(kind)) => {
            let kind = text::sanitize(kind);
            return Err(bad_field("token_type", &format!("expected `Bearer`, got `{kind}`")));
        }
        Some(other) => return Err(wrong_type("token_type", "a string", other)),
    }
    match answer.get("access_token") {
        None => Err(missing("access_token")),
        Some(Value::String(token)) if Credential::bearer(token).is_ok() => Ok(token.clone()),
        Some(Value::String(_)) => Err(bad_field(
            "access_token",
            "expected a non-empty token of visible ASCII characters, without spaces",
        )),
        Some(other) => Err(wrong_type("access_token", "a string", other)),
    }
}

fn object(head: &response::Parts, body: &[u8]) -> Result<Map<String, Value>, CredentialError> {
    if body.is_empty() {
        return Err(CredentialError::new(format!(
            "the token endpoint answered {} without a body",
            head.status
        )));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(answer)) => Ok(answer),
        // The parser's own error adds a position, which helps nobody.
        _ => {
            let header =
                |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(text::sanitize);
            let kind = header(CONTENT_TYPE).unwrap_or_else(|| "none".to_owned());
            let encoding = header(CONTENT_ENCODING)
                .map(|encoding| {
                    format!(", content encoding {encoding}: decompression belongs into the client")
                })
                .unwrap_or_default();
            Err(CredentialError::new(format!(
                "the token endpoint answered {}, but not with a JSON object (content type {kind}{encoding})",
                head.status
            )))
        }
    }
}

pub(super) fn missing(field: &str) -> CredentialError {
    CredentialError::new(format!("the token endpoint's answer has no `{field}`"))
}

pub(super) fn wrong_type(field: &str, expected: &str, got: &Value) -> CredentialError {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    bad_field(field, &format!("expected {expected}, got {got}"))
}

pub(super) fn bad_field(field: &str, problem: &str) -> CredentialError {
    CredentialError::new(format!("the token endpoint's answer has an unusable `{field}`: {problem}"))
}
