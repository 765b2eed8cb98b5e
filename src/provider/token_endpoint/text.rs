//! Text from outside: what of it may be used, and what of it may be shown.

use crate::error::Error;
use crate::escape::is_invisible;

/// The longest message shown, in characters.
const MAX_SHOWN: usize = 200;

/// A word this long is not shown: it may be a token or an assertion that the server echoes. The longest
/// words of honest messages are shorter, the shortest tokens longer.
const SECRET_LENGTH: usize = 24;

/// The longest error code shown, in characters.
const MAX_CODE: usize = 40;

/// A name that the server looks up as it stands: a line end from a file would make it another name.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.trim() != name || name.chars().any(char::is_control) {
        return Err(Error::config(field, "expected a non-empty text without spaces or line ends around it"));
    }
    Ok(())
}

/// `text` in a form that is fit for logs: one line, short, and without any word that may be a secret.
pub(crate) fn sanitize(text: &str) -> String {
    let mut shown = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let word: String = word.chars().filter(|c| !is_invisible(*c)).collect();
        let count = word.chars().count();
        if count == 0 {
            continue;
        }
        let (word, count) = if count >= SECRET_LENGTH { ("[…]", 3) } else { (word.as_str(), count) };
        if length + count > MAX_SHOWN {
            shown.push('…');
            break;
        }
        if !shown.is_empty() {
            shown.push(' ');
            length += 1;
        }
        shown.push_str(word);
        length += count;
    }
    shown
}

/// `code`, if it looks like an OAuth error code ([RFC 6749, 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2))
/// and not like a secret.
pub(crate) fn error_code(code: &str) -> Option<&str> {
    let is_short = code.len() < SECRET_LENGTH
        && code.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    // Some registered codes are longer; none of them has capitals or digits, nearly every token has.
    let is_words = code.len() <= MAX_CODE && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    (!code.is_empty() && (is_short || is_words)).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echoed_token_is_never_shown() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.c2lnbmF0dXJl";
        for text in [
            format!("bad assertion {jwt}"),
            format!("bad assertion={jwt}, sorry"),
            format!("bad \u{200b}{jwt}\0"),
            format!("bad {}\u{200b}{}", &jwt[..20], &jwt[20..]),
            format!("bad {}\u{7}{}", &jwt[..20], &jwt[20..]),
        ] {
            let shown = sanitize(&text);
            assert!(shown.starts_with("bad") && shown.contains("[…]"), "{shown}");
            assert!(!shown.contains("eyJ") && !shown.contains("c2ln"), "{shown}");
        }
    }

    #[test]
    fn a_message_is_one_short_line() {
        assert_eq!(sanitize("kid\r\n\tnot \u{1b}[31mregistered"), "kid not [31mregistered");
        assert_eq!(sanitize("kid\u{85}not\u{2028}regis\u{61c}tered\u{202e}"), "kid not registered");
        assert_eq!(sanitize(""), "");
        let shown = sanitize(&"word ".repeat(10_000));
        assert!(shown.chars().count() <= MAX_SHOWN + 1 && shown.ends_with('…'), "{shown}");
    }

    #[test]
    fn error_codes_are_told_from_secrets() {
        for code in ["invalid_client", "access_deny", "4100", "E.12-a", "unsupported_response_type"] {
            assert_eq!(error_code(code), Some(code));
        }
        for code in ["", "has space", "line\nend", "czs_abcdefghijklmnopqrstuvwxyz0", &"a".repeat(41)] {
            assert_eq!(error_code(code), None);
        }
    }
}
