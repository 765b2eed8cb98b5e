//! A field of a JSON object, read where most answers have it: at its front, or at its end.

use super::{number_at, value_after};

/// How many fields are looked at. An answer's data is not walked through: a search from its front is faster there.
const FIELDS: usize = 16;

/// The number in the object's first field, if its name in its quotes is `quoted`, and the number has ended.
#[inline]
pub(super) fn first_value(prefix: &[u8], quoted: &[u8]) -> Option<i64> {
    let rest = match prefix {
        [b'{', b'"', ..] => &prefix[1..],
        _ => prefix.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start(),
    };
    // The first letter by itself: that tells most names apart.
    if rest.get(1) != quoted.get(1) {
        return None;
    }
    let (code, behind) = value_after(rest.strip_prefix(quoted)?)?;
    matches!(behind.trim_ascii_start().first(), Some(b',' | b'}')).then_some(code)
}

/// The number in the last field whose name in its quotes is `quoted`, of an object that is all there. `None` if there is
/// none, or not near the end.
///
/// Of an object that is well-formed, it is what a parse would find; whether it is well-formed is not asked.
pub(super) fn last_value(object: &[u8], quoted: &[u8]) -> Option<i64> {
    number(last_field(object, quoted)?)
}

/// Reads `4101` or `"4101"` and nothing else.
fn number(value: &[u8]) -> Option<i64> {
    if let [digit @ b'0'..=b'9'] = value {
        // "No error", as nearly every answer has it.
        return Some(i64::from(digit - b'0'));
    }
    number_at(value).filter(|(_, behind)| behind.is_empty()).map(|(code, _)| code)
}

fn last_field<'a>(object: &'a [u8], quoted: &[u8]) -> Option<&'a [u8]> {
    let mut rest = before(b'}', object)?;
    let mut depth = 1;
    for _ in 0..FIELDS {
        let (mut ahead, scalar) = match rest.split_last()? {
            (b'"', inner) => {
                let start = match inner.split_last()? {
                    (b'"', empty) => empty.len(),
                    _ => memchr::memrchr(b'"', inner)?,
                };
                rest.split_at(unescaped(inner, start)?)
            }
            // The fields within are fields as well.
            (b'}', inner) => {
                (depth, rest) = (depth + 1, inner);
                continue;
            }
            (b' ' | b'\t' | b'\n' | b'\r', _) => {
                rest = rest.trim_ascii_end();
                continue;
            }
            _ => rest.split_at(rest.iter().rposition(|byte| !is_of_a_scalar(byte))? + 1),
        };
        let mut value = Some(scalar);
        loop {
            let named = before(b':', ahead)?;
            if depth == 1 && is_name(named, quoted) {
                return value;
            }
            let inner = before(b'"', named)?;
            // By the byte: names are short.
            let start = unescaped(inner, inner.iter().rposition(|byte| *byte == b'"')?)?;
            ahead = &inner[..start];
            if let Some(another) = before(b',', ahead) {
                rest = another;
                break;
            }
            // An object within begins here, and is the next field's value.
            ahead = before(b'{', ahead)?;
            (depth, value) = (depth - 1, None);
            if depth == 0 {
                return None;
            }
        }
    }
    None
}

/// What stands before this character, if that is the last one but for space.
#[inline]
fn before(last: u8, text: &[u8]) -> Option<&[u8]> {
    text.strip_suffix(&[last]).or_else(|| text.trim_ascii_end().strip_suffix(&[last]))
}

/// Whether the last string is this one.
#[inline]
fn is_name(text: &[u8], quoted: &[u8]) -> bool {
    let text = match text.last() {
        Some(b'"') => text,
        _ => text.trim_ascii_end(),
    };
    // The quote by itself first: that tells nearly all others apart.
    let start = text.len().checked_sub(quoted.len()).filter(|start| text[*start] == b'"');
    start.is_some_and(|start| text[start..] == *quoted && unescaped(text, start).is_some())
}

/// Where a string begins, if a quote at `start` is not one of its own. If it is, the string is not worth a search.
#[inline]
fn unescaped(inner: &[u8], start: usize) -> Option<usize> {
    (!inner[..start].ends_with(br"\")).then_some(start)
}

fn is_of_a_scalar(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(object: &str) -> Option<i64> {
        first_value(object.as_bytes(), br#""code""#)
    }

    fn last(object: &str) -> Option<i64> {
        last_value(object.as_bytes(), br#""code""#)
    }

    #[test]
    fn a_leading_code_is_read_once_it_has_ended() {
        for (object, expected) in [
            (r#"{"code":0,"msg":"#, Some(0)),
            (" {\n  \"code\" : \"4101\" ,", Some(4101)),
            (r#"{"code":-7}"#, Some(-7)),
            (r#"{"code":41"#, None),
            (r#"{"code":0.5,"#, None),
            (r#"{"code":null,"#, None),
            (r#"{"cod":0,"code":1}"#, None),
            (r#"["code":0,"#, None),
            ("", None),
        ] {
            assert_eq!(first(object), expected, "{object}");
        }
    }

    #[test]
    fn the_last_field_of_the_outermost_object_is_found() {
        for (object, expected) in [
            (r#"{"code":0}"#, 0),
            (r#"{"data":{"code":1},"code":0,"msg":""}"#, 0),
            (r#"{"data":[{"code":1}],"code":4101,"msg":"no","detail":{"code":2,"logid":"3"}}"#, 4101),
            ("{\n  \"code\" : \"4101\" ,\n  \"msg\" : \"\\u0041\"\n}\n", 4101),
            (r#"{"code":1,"code":-7,"ok":true}"#, -7),
        ] {
            assert_eq!(last(object), Some(expected), "{object}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        for object in [
            "",
            "}",
            "{}",
            r#"{"data":{"code":0}}"#,
            r#"{"data":["code",0]}"#,
            r#"{"a":"code"}"#,
            r#"{"x\"code":0}"#,
            r#"{"msg":"a\"b","b":"code"}"#,
            r#"{"msg":"\"code\":0"}"#,
            r#"{"msg":"\"code","b":":0"}"#,
            r#"{"code":{"a":0}}"#,
            r#"{"code":{}}"#,
            r#"{"code":[0]}"#,
            r#"{"code":"#,
            r#"["code",0]"#,
            r#""code":0"#,
            r#"{"code":null,"msg":"code"}"#,
            r#"{"code":}"#,
            "{\"code\"\u{e9}}",
        ] {
            assert_eq!(last(object), None, "{object}");
        }
    }

    #[test]
    fn no_more_than_the_end_is_looked_at() {
        let behind = r#","a":{"b":"c"}"#;
        assert_eq!(last(&format!(r#"{{"code":0{}}}"#, behind.repeat(2))), Some(0));
        assert_eq!(last(&format!(r#"{{"code":0{}}}"#, behind.repeat(FIELDS))), None);
    }
}
