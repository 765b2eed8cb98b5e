//! [`JsonCodeClassifier`]: a refusal is told by a code at the top level of a JSON answer.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode, response};
use memchr::memmem::Finder;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Classify, Decision, Rejection, RejectionKind, StatusClassifier};
use crate::headers::first_values;

mod ends;
#[cfg(test)]
mod tests;

/// Finds the refusal in answers such as `{"code": 4101, "msg": "…"}`, whatever their status.
///
/// The code is an integer, or a string that holds one, in a field at the top level of the object. The same
/// digits in a string, in a nested object, or in JSON that is not well-formed, are no refusal.
///
/// What counts, in this order:
///
/// 1. 429 and 5xx are never a refusal.
/// 2. A code that is listed is a refusal; another code but 0 is not, even with 401 or 403.
/// 3. With no code to read (not JSON, no such field, cut off), the status decides: 401 and 403 by default.
///
/// A code that stands after the layer's inspect limit is not seen. Which one counts of a field that stands twice in the
/// object, is not said: it is unpredictable by [RFC 8259, 4](https://www.rfc-editor.org/rfc/rfc8259#section-4) as
/// well. A field whose name is written with escapes (`"c\u006fde"`) is only seen with
/// 401 and 403.
///
/// ```
/// use tower_credential_fallback::{JsonCodeClassifier, RejectionKind};
///
/// let classifier = JsonCodeClassifier::new("errno")
///     .reject(110, RejectionKind::Unauthenticated)
///     .reject(403, RejectionKind::Forbidden);
/// # let _ = classifier;
/// ```
#[derive(Clone)]
pub struct JsonCodeClassifier {
    field: String,
    /// Finds the field's name in its quotes. What it finds may stand anywhere: a parse has to confirm it.
    quoted: Finder<'static>,
    codes: Vec<(i64, RejectionKind)>,
    /// The least and the greatest of them. Most answers hold 0, which is outside.
    span: Option<(i64, i64)>,
    /// The fewest bytes that a listed code takes, with its field's name; where fewer are left, none is looked for.
    least: usize,
    statuses: StatusClassifier,
}

impl JsonCodeClassifier {
    /// Reads the code from this top-level field. No code is a refusal yet; 401 and 403 are.
    pub fn new(field: impl Into<String>) -> Self {
        let field = field.into();
        let quoted = Finder::new(format!("\"{field}\"").as_bytes()).into_owned();
        Self {
            field,
            quoted,
            codes: Vec::new(),
            span: None,
            least: usize::MAX,
            statuses: StatusClassifier::new(),
        }
    }

    /// Takes `code` for a refusal of this kind too.
    #[must_use]
    pub fn reject(mut self, code: i64, kind: RejectionKind) -> Self {
        self.codes.retain(|(known, _)| *known != code);
        self.codes.push((code, kind));
        self.span = Some(self.span.map_or((code, code), |(least, most)| (least.min(code), most.max(code))));
        // The name in its quotes, a colon, the digits.
        let length = self.quoted.needle().len() + 1 + code.to_string().len();
        self.least = self.least.min(length);
        self
    }

    /// What decides when there is no code to read. Default: [`StatusClassifier::new`].
    #[must_use]
    pub fn with_statuses(mut self, statuses: StatusClassifier) -> Self {
        self.statuses = statuses;
        self
    }

    fn kind_of(&self, code: i64) -> Option<RejectionKind> {
        self.span.filter(|(least, most)| (*least..=*most).contains(&code))?;
        self.codes.iter().find(|(known, _)| *known == code).map(|(_, kind)| *kind)
    }

    fn judge(&self, code: i64, status: StatusCode) -> Decision {
        match self.kind_of(code) {
            Some(kind) => Decision::Reject(Rejection::new(kind, status).with_code(code)),
            // Such APIs write 0 for "no error": a 401 with it is still a 401.
            None if code == 0 => self.statuses.decide(status),
            None => Decision::Inconclusive,
        }
    }

    /// Judges without a parse, if that is possible. `is_whole`: the prefix is all there is.
    ///
    /// Most answers have their code at one of their ends. Of the others, those are no refusal in which no listed code
    /// follows the field's name anywhere, however they are built.
    fn glance(&self, prefix: &[u8], is_whole: bool) -> Option<Decision> {
        let quoted = self.quoted.needle();
        let at_an_end = match ends::first_value(prefix, quoted) {
            None if is_whole => ends::last_value(prefix, quoted),
            first => first,
        };
        if let Some(code) = at_an_end {
            return self.kind_of(code).is_none().then_some(if code == 0 { Decision::Accept } else { Decision::Inconclusive });
        }
        let mut rest = prefix;
        while rest.len() >= self.least
            && let Some(at) = self.quoted.find(rest)
        {
            rest = &rest[at + quoted.len()..];
            let Some((code, behind)) = value_after(rest) else { continue };
            if self.kind_of(code).is_some() {
                return None;
            }
            rest = behind;
        }
        Some(Decision::Inspect)
    }

    #[inline]
    fn look(&self, head: &response::Parts, prefix: &[u8], is_whole: bool) -> Decision {
        if self.statuses.rejection(head.status).is_none()
            && let Some(decision) = self.glance(prefix, is_whole)
        {
            return decision;
        }
        self.parse(head, prefix)
    }

    #[cold]
    fn parse(&self, head: &response::Parts, prefix: &[u8]) -> Decision {
        match top_level_code(prefix, &self.field) {
            Found::Code(code) => self.judge(code, head.status),
            Found::None => self.statuses.decide(head.status),
            Found::CutOff => Decision::Inspect,
        }
    }
}

impl Classify for JsonCodeClassifier {
    fn head(&self, head: &response::Parts) -> Decision {
        if head.status == StatusCode::TOO_MANY_REQUESTS || head.status.is_server_error() {
            Decision::Inconclusive
        } else if is_json(&head.headers) {
            Decision::Inspect
        } else {
            self.statuses.decide(head.status)
        }
    }

    fn body(&self, head: &response::Parts, prefix: super::BodyPrefix<'_>) -> Decision {
        let decision = if prefix.bytes().is_empty() { Decision::Inspect } else { self.look(head, prefix.bytes(), prefix.is_complete()) };
        if decision == Decision::Inspect && prefix.is_last() { self.statuses.decide(head.status) } else { decision }
    }
}

impl fmt::Debug for JsonCodeClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonCodeClassifier")
            .field("field", &self.field)
            .field("codes", &self.codes)
            .field("statuses", &self.statuses)
            .finish()
    }
}

/// `application/json`, `text/json` and every `+json`
/// ([RFC 6839, 3.1](https://www.rfc-editor.org/rfc/rfc6839#section-3.1)).
fn is_json(headers: &HeaderMap) -> bool {
    let [Some(value)] = first_values(headers, [&CONTENT_TYPE]) else { return false };
    let value = value.as_bytes();
    if value == b"application/json" {
        return true;
    }
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    let essence = value[..end].trim_ascii_end();
    let suffix = essence.len().checked_sub(5).map_or(&[][..], |at| &essence[at..]);
    suffix.eq_ignore_ascii_case(b"/json") || suffix.eq_ignore_ascii_case(b"+json")
}

/// Reads `: 4101` or `: "4101"` at the start of `bytes`; with it, what stands behind.
#[inline]
fn value_after(bytes: &[u8]) -> Option<(i64, &[u8])> {
    match bytes {
        // "No error", as nearly every answer has it.
        [b':', digit @ b'0'..=b'9', rest @ ..] if matches!(rest, [b',' | b'}', ..]) => {
            Some((i64::from(digit - b'0'), rest))
        }
        _ => any_value_after(bytes),
    }
}

#[inline(never)]
fn any_value_after(bytes: &[u8]) -> Option<(i64, &[u8])> {
    number_at(bytes.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// Reads `4101` or `"4101"` at the start of `value`; with it, what stands behind.
fn number_at(value: &[u8]) -> Option<(i64, &[u8])> {
    let quoted = value.first() == Some(&b'"');
    let digits = if quoted { &value[1..] } else { value };
    let unsigned = digits.strip_prefix(b"-").unwrap_or(digits);
    // Counted below zero, where there is room for one more than above.
    let (mut negative, mut end) = (0_i64, digits.len() - unsigned.len());
    for digit in unsigned.iter().take_while(|byte| byte.is_ascii_digit()) {
        negative = negative.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
        end += 1;
    }
    let is_number = digits[..end].last().is_some_and(u8::is_ascii_digit);
    let code = if unsigned.len() < digits.len() { negative } else { negative.checked_neg()? };
    if !is_number {
        return None;
    }
    let rest = &digits[end..];
    if quoted { Some((code, rest.strip_prefix(b"\"")?)) } else { Some((code, rest)) }
}

#[derive(Debug, PartialEq)]
enum Found {
    Code(i64),
    /// Well-formed without such a code, or not well-formed.
    None,
    /// The prefix ends before a code was seen.
    CutOff,
}

fn top_level_code(prefix: &[u8], field: &str) -> Found {
    let (mut code, mut end) = parse(prefix, field);
    if end == End::CutOff {
        // A number at the very end may be half of one: `{"code":41` of `{"code":4101}`. Look again
        // without it.
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let whole = prefix.iter().rposition(|byte| !is_number(byte)).map_or(0, |at| at + 1);
        (code, end) = parse(&prefix[..whole], field);
    }
    match (code, end) {
        (Some(code), End::WellFormed | End::CutOff) => Found::Code(code),
        (None, End::CutOff) => Found::CutOff,
        (_, End::Malformed) | (None, End::WellFormed) => Found::None,
    }
}

#[derive(PartialEq)]
enum End {
    WellFormed,
    CutOff,
    Malformed,
}

fn parse(prefix: &[u8], field: &str) -> (Option<i64>, End) {
    let code = Cell::new(None);
    let mut json = serde_json::Deserializer::from_slice(prefix);
    let parsed = json.deserialize_map(TopLevel { field, code: &code }).and_then(|()| json.end());
    let end = match parsed {
        Ok(()) => End::WellFormed,
        Err(error) if error.is_eof() => End::CutOff,
        Err(_) => End::Malformed,
    };
    (code.get(), end)
}

/// Walks the top-level object and keeps the code outside of itself, so that it survives an early end.
struct TopLevel<'a> {
    field: &'a str,
    code: &'a Cell<Option<i64>>,
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Key(key)) = map.next_key()? {
            if key == self.field {
                let Code(code) = map.next_value()?;
                self.code.set(code);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Borrows the key where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// An integer, or a string that holds one; `None` for any other value.
struct Code(Option<i64>);

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Integer(i64),
            Text(String),
            Other(IgnoredAny),
        }
        Ok(Self(match Value::deserialize(deserializer)? {
            Value::Integer(code) => Some(code),
            Value::Text(text) => text.parse().ok(),
            Value::Other(IgnoredAny) => None,
        }))
    }
}
