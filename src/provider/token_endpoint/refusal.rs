//! [`Refusal`]: why a token endpoint gives no token
//! ([RFC 6749, 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{StatusCode, response};
use serde_json::{Map, Value};

use super::skew::Skew;
use super::text;
use crate::provider::CredentialError;

/// Why the server gives no token.
pub(crate) struct Refusal {
    /// The OAuth error code, if it sent one.
    #[cfg_attr(not(feature = "oauth"), expect(dead_code, reason = "assertions are refused in one way"))]
    pub(crate) code: Option<String>,
    pub(crate) error: CredentialError,
}

pub(super) fn redirect(status: StatusCode) -> CredentialError {
    CredentialError::new(format!(
        "the token endpoint answered {status}: redirects are not followed, because secrets would go \
         wherever they lead; is the token URL right?"
    ))
}

/// Where an error is named. Coze and others write `error_code` and `error_message` where OAuth has `error` and
/// `error_description`.
const CODE: [&str; 2] = ["error_code", "error"];
const MESSAGE: [&str; 2] = ["error_message", "error_description"];

/// What an answer gives that is no refusal, whatever else it says.
const GIFTS: [&str; 3] = ["access_token", "refresh_token", "device_code"];

/// Some servers refuse with a status of success: an error, and nothing given.
pub(super) fn within_success(head: &response::Parts, body: &[u8]) -> Option<Refusal> {
    let answer = object(body);
    let is_given = |name| matches!(answer.get(name), Some(Value::String(text)) if !text.is_empty());
    let is_error = |name| match answer.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(code)) => !code.is_empty(),
        // Where 0 means that all is well.
        Some(Value::Number(code)) => code.as_f64() != Some(0.0),
        Some(_) => true,
    };
    let is_refusal = CODE.into_iter().any(is_error) && !GIFTS.into_iter().any(is_given);
    is_refusal.then(|| of_answer(head, &answer))
}

/// Why there is no token.
pub(super) fn refusal(head: &response::Parts, body: &[u8], skew: &Skew, now: SystemTime) -> Refusal {
    let refusal = of_answer(head, &object(body));
    match retry_after(head, skew, now) {
        Some(wait) => Refusal { error: refusal.error.with_retry_after(wait), ..refusal },
        None => refusal,
    }
}

fn object(body: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(answer)) => answer,
        _ => Map::new(),
    }
}

fn of_answer(head: &response::Parts, answer: &Map<String, Value>) -> Refusal {
    let field =
        |names: [&str; 2]| names.into_iter().find_map(|name| answer.get(name).filter(|v| !v.is_null()));
    let code = match field(CODE) {
        Some(Value::String(code)) => text::error_code(code).map(str::to_owned),
        Some(Value::Number(code)) => text::error_code(&code.to_string()).map(str::to_owned),
        _ => None,
    };
    let message = match field(MESSAGE) {
        Some(Value::String(message)) => Some(text::sanitize(message)).filter(|message| !message.is_empty()),
        _ => None,
    };

    let mut said = format!("the token endpoint answered {}", head.status);
    for part in [&code, &message].into_iter().flatten() {
        said.push_str(": ");
        said.push_str(part);
    }
    Refusal { code, error: CredentialError::new(said) }
}

/// [RFC 9110, 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3): seconds, or a date of the server's
/// clock.
fn retry_after(head: &response::Parts, skew: &Skew, now: SystemTime) -> Option<Duration> {
    if !matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let value = head.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = skew.to_local(httpdate::parse_http_date(value).ok()?);
    // A date in the past means: now.
    Some(at.duration_since(now).unwrap_or_default())
}
