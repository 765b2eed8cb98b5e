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
/// A code that stands after the layer's inspect limit is not seen. Of a field that stands twice in the
/// object, the last counts. A field whose name is written with escapes (`"c\u006fde"`) is only seen with
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
    statuses: StatusClassifier,
}

impl JsonCodeClassifier {
    /// Reads the code from this top-level field. No code is a refusal yet; 401 and 403 are.
    pub fn new(field: impl Into<String>) -> Self {
        let field = field.into();
        let quoted = Finder::new(format!("\"{field}\"").as_bytes()).into_owned();
        Self { field, quoted, codes: Vec::new(), statuses: StatusClassifier::new() }
    }

    /// Takes `code` for a refusal of this kind too.
    #[must_use]
    pub fn reject(mut self, code: i64, kind: RejectionKind) -> Self {
        self.codes.retain(|(known, _)| *known != code);
        self.codes.push((code, kind));
        self
    }

    /// What decides when there is no code to read. Default: [`StatusClassifier::new`].
    #[must_use]
    pub fn with_statuses(mut self, statuses: StatusClassifier) -> Self {
        self.statuses = statuses;
        self
    }

    fn kind_of(&self, code: i64) -> Option<RejectionKind> {
        self.codes.iter().find(|(known, _)| *known == code).map(|(_, kind)| *kind)
    }

    fn judge(&self, code: i64, status: StatusCode) -> Decision {
        match self.kind_of(code) {
            Some(kind) => Decision::Reject(Rejection::new(kind, status).with_code(code)),
            // Such APIs write 0 for "no error": a 401 with it is still a 401.
            None if code == 0 => self.statuses.decide(status),
            None => Decision::Accept,
        }
    }

    /// Whether a listed code follows the field's name anywhere: a cheap search that spares nearly every
    /// answer the parse.
    fn may_hold_a_listed_code(&self, prefix: &[u8]) -> bool {
        self.quoted
            .find_iter(prefix)
            .filter_map(|at| value_after(&prefix[at + self.quoted.needle().len()..]))
            .any(|(code, _)| self.kind_of(code).is_some())
    }

    /// The code, if it is the first thing in the object and is there whole.
    fn leading_code(&self, prefix: &[u8]) -> Option<i64> {
        let object = prefix.trim_ascii_start().strip_prefix(b"{")?;
        let value = object.trim_ascii_start().strip_prefix(self.quoted.needle())?;
        let (code, rest) = value_after(value)?;
        // Without the comma or brace behind it, more digits may still come.
        matches!(rest.trim_ascii_start().first(), Some(b',' | b'}')).then_some(code)
    }
}

impl Classify for JsonCodeClassifier {
    fn head(&self, head: &response::Parts) -> Decision {
        if head.status == StatusCode::TOO_MANY_REQUESTS || head.status.is_server_error() {
            Decision::Accept
        } else if is_json(&head.headers) {
            Decision::Inspect
        } else {
            self.statuses.decide(head.status)
        }
    }

    fn body(&self, head: &response::Parts, prefix: &[u8]) -> Decision {
        if prefix.is_empty() {
            return self.statuses.decide(head.status);
        }
        let refused_by_status = self.statuses.rejection(head.status).is_some();
        if !refused_by_status && !self.may_hold_a_listed_code(prefix) {
            return match self.leading_code(prefix) {
                Some(_) => Decision::Accept,
                None => Decision::Inspect,
            };
        }
        match top_level_code(prefix, &self.field) {
            Found::Code(code) => self.judge(code, head.status),
            Found::None => self.statuses.decide(head.status),
            Found::CutOff => Decision::Inspect,
        }
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
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let ends_with = |suffix: &str| {
        essence
            .len()
            .checked_sub(suffix.len())
            .and_then(|at| essence.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    ends_with("/json") || ends_with("+json")
}

/// Reads `: 4101` or `: "4101"` at the start of `bytes`; with it, what stands behind.
fn value_after(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let value = bytes.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let quoted = value.first() == Some(&b'"');
    let digits = if quoted { &value[1..] } else { value };
    let end = digits
        .iter()
        .enumerate()
        .position(|(at, byte)| !(byte.is_ascii_digit() || (at == 0 && *byte == b'-')))
        .unwrap_or(digits.len());
    let code = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
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

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn classifier() -> JsonCodeClassifier {
        JsonCodeClassifier::new("code")
            .reject(4100, RejectionKind::Unauthenticated)
            .reject(4101, RejectionKind::Forbidden)
            .reject(-7, RejectionKind::Forbidden)
    }

    fn head(status: u16, content_type: &str) -> response::Parts {
        Response::builder().status(status).header(CONTENT_TYPE, content_type).body(()).unwrap().into_parts().0
    }

    /// The layer's way to ask: with all there is, then, if that leaves it open, by status alone.
    fn ask(status: u16, body: &str) -> Decision {
        let head = head(status, "application/json");
        match classifier().head(&head) {
            Decision::Inspect => match classifier().body(&head, body.as_bytes()) {
                Decision::Inspect => classifier().body(&head, b""),
                decision => decision,
            },
            decision => decision,
        }
    }

    fn refused(code: i64, kind: RejectionKind, status: u16) -> Decision {
        Decision::Reject(Rejection::new(kind, StatusCode::from_u16(status).unwrap()).with_code(code))
    }

    #[test]
    fn a_listed_code_is_a_refusal_whatever_the_status() {
        for status in [200, 400, 401, 403, 404] {
            assert_eq!(
                ask(status, r#"{"code":4101,"msg":"no"}"#),
                refused(4101, RejectionKind::Forbidden, status)
            );
        }
    }

    #[test]
    fn a_code_may_be_a_numeric_string_be_negative_and_have_space_around_it() {
        for (body, code) in [
            (r#"{"code":"4101"}"#, 4101),
            ("{ \"msg\" : \"x\" ,\n \"code\" \t:\r\n 4101 }", 4101),
            (r#"{"code":-7}"#, -7),
        ] {
            assert_eq!(ask(200, body), refused(code, RejectionKind::Forbidden, 200), "{body}");
        }
    }

    #[test]
    fn the_code_is_found_after_a_large_data_field() {
        let body = format!(r#"{{"data":{{"code":0,"text":"{}"}},"code":4101}}"#, "x".repeat(5_000));
        assert_eq!(ask(200, &body), refused(4101, RejectionKind::Forbidden, 200));
    }

    #[test]
    fn the_digits_in_a_string_or_a_nested_object_are_not_a_refusal() {
        for body in [
            r#"{"code":0,"msg":"code 4101"}"#,
            r#"{"msg":"\"code\":4101","code":0}"#,
            r#"{"data":{"code":4101},"code":0}"#,
            r#"{"data":[{"code":4101}]}"#,
            r#"{"code":41010}"#,
            r#"{"code":4101.5}"#,
            r#"{"code":"4101x"}"#,
            r#"[{"code":4101}]"#,
            r#""code":4101"#,
        ] {
            assert_eq!(ask(200, body), Decision::Accept, "{body}");
        }
    }

    #[test]
    fn malformed_json_is_not_a_refusal() {
        for body in
            [r#"{"code":4101,}"#, r#"{"code":4101}}"#, r#"{code:4101}"#, "{\"code\":4101,\"a\":\u{1}}"]
        {
            assert_eq!(ask(200, body), Decision::Accept, "{body}");
        }
    }

    #[test]
    fn deep_nesting_overflows_no_stack_and_hides_no_code() {
        let deep = format!(r#"{{"code":4101,"a":{}"#, "[".repeat(100_000));
        assert_eq!(ask(200, &deep), refused(4101, RejectionKind::Forbidden, 200));
    }

    #[test]
    fn without_a_readable_code_the_status_decides() {
        let by_status =
            Decision::Reject(Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED));
        for body in ["", "{}", "nonsense", r#"{"code":null}"#, r#"{"code":0}"#, r#"{"msg":"cut o"#] {
            assert_eq!(ask(401, body), by_status, "{body}");
            assert_eq!(ask(200, body), Decision::Accept, "{body}");
        }
        let html = head(401, "text/html");
        assert_eq!(classifier().head(&html), by_status);
    }

    #[test]
    fn another_readable_code_is_no_refusal_even_with_401() {
        assert_eq!(ask(401, r#"{"code":4000,"msg":"bad parameter"}"#), Decision::Accept);
    }

    #[test]
    fn rate_limits_and_server_errors_are_never_a_refusal() {
        for status in [429, 500, 502, 503] {
            assert_eq!(ask(status, r#"{"code":4101}"#), Decision::Accept);
        }
    }

    #[test]
    fn a_prefix_is_judged_as_soon_as_it_can_be_and_never_on_half_a_number() {
        let whole = r#"{"code":4101,"msg":"You have no permission, see 4101"}"#;
        let head = head(200, "application/json");
        let decided = r#"{"code":4101,"#.len();
        for cut in 1..whole.len() {
            let decision = classifier().body(&head, &whole.as_bytes()[..cut]);
            if cut < decided {
                assert_eq!(decision, Decision::Inspect, "{}", &whole[..cut]);
            } else {
                assert_eq!(decision, refused(4101, RejectionKind::Forbidden, 200), "{}", &whole[..cut]);
            }
        }
        assert_eq!(classifier().body(&head, br#"{"code":0"#), Decision::Inspect);
        assert_eq!(classifier().body(&head, br#"{"code":0,"#), Decision::Accept);
    }

    #[test]
    fn only_json_is_looked_into() {
        for content_type in
            ["application/json", "application/json; charset=utf-8", "application/problem+json"]
        {
            assert_eq!(classifier().head(&head(200, content_type)), Decision::Inspect, "{content_type}");
        }
        for content_type in ["text/event-stream", "text/html", "application/jsonl", "json", ""] {
            assert_eq!(classifier().head(&head(200, content_type)), Decision::Accept, "{content_type}");
        }
    }
}
