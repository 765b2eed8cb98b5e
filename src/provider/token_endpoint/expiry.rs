//! When a token ends, as `expires_in` says.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::answer::{bad_field, wrong_type};
use super::dialect::ExpiresIn;
use super::skew::Skew;
use crate::provider::CredentialError;

/// A token that lives longer is a mistake: a Unix time taken for a duration is over 50 years.
const MAX_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// The token's end, by our clock. It was asked for at `sent` of our clock, and a lifetime counts from there: the time on
/// the way is not ours.
pub(super) fn end(
    value: &Value,
    expires_in: ExpiresIn,
    sent: SystemTime,
    skew: &Skew,
) -> Result<Option<SystemTime>, CredentialError> {
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
