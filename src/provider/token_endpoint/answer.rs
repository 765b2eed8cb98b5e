//! What a token endpoint says: a token ([RFC 6749, 5.1](https://www.rfc-editor.org/rfc/rfc6749#section-5.1)), or
//! why not ([5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
//!
//! Nothing of an answer is shown but the fields that are made to be shown, and those only after
//! [`sanitize`](text::sanitize): a token may stand anywhere.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{StatusCode, response};
use serde_json::{Map, Value};

use super::dialect::ExpiresIn;
use super::skew::Skew;
use super::text;
use crate::credential::Credential;
use crate::provider::CredentialError;

/// A token that lives longer is a mistake: a Unix time taken for a duration is over 50 years.
const MAX_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// A token, and the answer that it stands in.
pub(crate) struct Token {
    pub(crate) credential: Credential,
    #[cfg_attr(not(feature = "oauth"), expect(dead_code, reason = "assertions get nothing but the token"))]
    pub(crate) answer: Map<String, Value>,
}

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

/// The token in a 2xx answer to a request that was sent at `sent` of our clock. A lifetime counts from there: the
/// time on the way is not ours.
pub(super) fn token(
    head: &response::Parts,
    body: &[u8],
    expires_in: ExpiresIn,
    sent: SystemTime,
    skew: &Skew,
) -> Result<Token, CredentialError> {
    let answer = object(head, body)?;
    match answer.get("token_type") {
        None => {}
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("bearer") => {}
        Some(Value::String(kind)) => {
            let kind = text::sanitize(kind);
            return Err(bad_field("token_type", &format!("expected `Bearer`, got `{kind}`")));
        }
        Some(other) => return Err(wrong_type("token_type", "a string", other)),
    }
    let token = match answer.get("access_token") {
        None => return Err(missing("access_token")),
        Some(Value::String(token)) => token,
        Some(other) => return Err(wrong_type("access_token", "a string", other)),
    };
    let credential = Credential::bearer(token).map_err(|_| {
        bad_field("access_token", "expected a non-empty token of visible ASCII characters, without spaces")
    })?;
    let credential = match expiry(&answer, expires_in, sent, skew)? {
        Some(at) => credential.with_expiry(at),
        None => credential,
    };
    Ok(Token { credential, answer })
}

/// The token's end, by our clock.
fn expiry(
    answer: &Map<String, Value>,
    expires_in: ExpiresIn,
    sent: SystemTime,
    skew: &Skew,
) -> Result<Option<SystemTime>, CredentialError> {
    if expires_in == ExpiresIn::Ignored {
        return Ok(None);
    }
    let value = answer.get("expires_in").ok_or_else(|| missing("expires_in"))?;
    let seconds = Duration::from_secs(seconds(value)?);
    match expires_in {
        ExpiresIn::Relative if seconds > MAX_LIFETIME => Err(bad_field(
            "expires_in",
            "expected seconds from now, got more than 20 years; if the server sends a Unix time, say so with \
             `ExpiresIn::Absolute`",
        )),
        ExpiresIn::Relative => Ok(sent.checked_add(seconds)),
        // As small a number cannot be meant as a time: that was before 1990.
        _ if seconds < MAX_LIFETIME => Err(bad_field(
            "expires_in",
            "expected a Unix time, got one that has expired decades ago; if the server sends seconds from now, \
             say so with `ExpiresIn::Relative`",
        )),
        _ => {
            let end = SystemTime::UNIX_EPOCH.checked_add(seconds).map(|end| skew.to_local(end));
            let ahead = |end: &SystemTime| end.duration_since(sent).unwrap_or_default();
            match end.filter(|end| ahead(end) <= MAX_LIFETIME) {
                Some(end) => Ok(Some(end)),
                None => Err(bad_field(
                    "expires_in",
                    "expected a Unix time in seconds, got one over 20 years ahead",
                )),
            }
        }
    }
}

/// Whole seconds: a number, or a string of digits, which some servers send. Fractions are cut off.
fn seconds(value: &Value) -> Result<u64, CredentialError> {
    let seconds = match value {
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => Some(whole),
            // `as` saturates; the bounds are checked by the caller.
            (None, Some(fraction)) if fraction >= 0.0 => Some(fraction as u64),
            _ => None,
        },
        Value::String(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().unwrap_or(u64::MAX))
        }
        Value::String(_) => return Err(bad_field("expires_in", "expected a number, got another string")),
        other => return Err(wrong_type("expires_in", "a number", other)),
    };
    seconds.ok_or_else(|| bad_field("expires_in", "expected a number that is not negative"))
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

/// Why there is no token. Coze and others write `error_code` and `error_message` where OAuth has `error` and
/// `error_description`.
pub(super) fn refusal(head: &response::Parts, body: &[u8], skew: &Skew, now: SystemTime) -> Refusal {
    let answer = match serde_json::from_slice(body) {
        Ok(Value::Object(answer)) => answer,
        _ => Map::new(),
    };
    let field =
        |names: [&str; 2]| names.into_iter().find_map(|name| answer.get(name).filter(|v| !v.is_null()));
    let code = match field(["error_code", "error"]) {
        Some(Value::String(code)) => text::error_code(code).map(str::to_owned),
        Some(Value::Number(code)) => text::error_code(&code.to_string()).map(str::to_owned),
        _ => None,
    };
    let message = match field(["error_message", "error_description"]) {
        Some(Value::String(message)) => Some(text::sanitize(message)).filter(|message| !message.is_empty()),
        _ => None,
    };

    let mut said = format!("the token endpoint answered {}", head.status);
    for part in [&code, &message].into_iter().flatten() {
        said.push_str(": ");
        said.push_str(part);
    }
    let error = CredentialError::new(said);
    let error = match retry_after(head, skew, now) {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    };
    Refusal { code, error }
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

fn missing(field: &str) -> CredentialError {
    CredentialError::new(format!("the token endpoint's answer has no `{field}`"))
}

fn wrong_type(field: &str, expected: &str, got: &Value) -> CredentialError {
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

fn bad_field(field: &str, problem: &str) -> CredentialError {
    CredentialError::new(format!("the token endpoint's answer has an unusable `{field}`: {problem}"))
}
