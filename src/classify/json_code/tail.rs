//! [`last_value`]: a field of a whole JSON object, read from its end.

/// How many fields are looked at. An answer's data is not walked through: a search from its front is faster there.
const FIELDS: usize = 16;

/// The value of the last field of an object whose name, in its quotes, is `quoted`, if that is a number, a string or
/// the like. `None` if there is none, or not nearby.
///
/// Many answers hold their data first and end in `"code":0,"msg":""}`: there, this spares the search of all of it. Of
/// an object that is well-formed, it is what a parse would find; whether it is well-formed is not asked.
pub(super) fn last_value<'a>(object: &'a [u8], quoted: &[u8]) -> Option<&'a [u8]> {
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

    fn code(object: &str) -> Option<&str> {
        last_value(object.as_bytes(), br#""code""#).map(|value| std::str::from_utf8(value).unwrap())
    }

    #[test]
    fn the_last_field_of_the_outermost_object_is_found() {
        for (object, expected) in [
            (r#"{"code":0}"#, "0"),
            (r#"{"data":{"code":1},"code":0,"msg":""}"#, "0"),
            (r#"{"data":[{"code":1}],"code":4101,"msg":"no","detail":{"code":2,"logid":"3"}}"#, "4101"),
            ("{\n  \"code\" : \"4101\" ,\n  \"msg\" : \"\\u0041\"\n}\n", "\"4101\""),
            (r#"{"code":1,"code":-7,"ok":true}"#, "-7"),
            (r#"{"code":null,"msg":"code"}"#, "null"),
        ] {
            assert_eq!(code(object), Some(expected), "{object}");
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
            "{\"code\"\u{e9}}",
        ] {
            assert_eq!(code(object), None, "{object}");
        }
    }

    #[test]
    fn no_more_than_the_end_is_looked_at() {
        let behind = r#","a":{"b":"c"}"#;
        assert_eq!(code(&format!(r#"{{"code":0{}}}"#, behind.repeat(2))), Some("0"));
        assert_eq!(code(&format!(r#"{{"code":0{}}}"#, behind.repeat(FIELDS))), None);
    }
}
