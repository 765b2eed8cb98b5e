//! Recognizes JSON by `Content-Type`.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::headers::first_values;

/// Whether the media type has a JSON subtype: `json`, `x-json`, or any with the suffix `+json`
/// ([RFC 6839, 3.1](https://www.rfc-editor.org/rfc/rfc6839#section-3.1)).
///
/// Real servers malform the parameters (`application/json charset=utf-8`), so they are not read.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let [Some(value)] = first_values(headers, [&CONTENT_TYPE]) else { return false };
    let value = value.as_bytes();
    // Nearly every server's spelling.
    if let Some(behind) = value.strip_prefix(b"application/json")
        && behind.first().is_none_or(ends_media_type)
    {
        return true;
    }
    let value = value.trim_ascii_start();
    let media_type = value.split(ends_media_type).next().unwrap_or_default();
    let Some(slash) = media_type.iter().position(|byte| *byte == b'/') else { return false };
    let subtype = &media_type[slash + 1..];
    subtype.eq_ignore_ascii_case(b"json")
        || subtype.eq_ignore_ascii_case(b"x-json")
        || subtype.last_chunk().is_some_and(|suffix: &[u8; 5]| suffix.eq_ignore_ascii_case(b"+json"))
}

fn ends_media_type(byte: &u8) -> bool {
    matches!(byte, b';' | b',' | b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn is_json_type(content_type: &str) -> bool {
        let value = HeaderValue::from_str(content_type).unwrap();
        is_json(&HeaderMap::from_iter([(CONTENT_TYPE, value)]))
    }

    #[test]
    fn every_json_subtype_is_json() {
        for content_type in [
            "application/json",
            "text/json",
            "application/x-json",
            "text/x-json",
            "application/problem+json",
            "application/vnd.api+json",
            "APPLICATION/JSON",
            "Text/X-Json",
            "application/hal+JSON; charset=utf-8",
        ] {
            assert!(is_json_type(content_type), "{content_type}");
        }
    }

    #[test]
    fn parameters_do_not_matter_malformed_or_not() {
        for parameters in [
            "; charset=utf-8",
            ";charset=utf-8",
            " ; charset=utf-8",
            " charset=utf-8",
            ";charset",
            ";",
            ",",
            "\t;x=\"/",
        ] {
            for media_type in ["application/json", "Application/Json", "text/x-json", "application/a+json"] {
                assert!(is_json_type(&format!("{media_type}{parameters}")), "{media_type}{parameters}");
            }
        }
    }

    #[test]
    fn other_types_are_not_json() {
        for content_type in [
            "",
            "json",
            "+json",
            "text/html",
            "text/html; a=application/json",
            "text/event-stream",
            "application/jsonl",
            "application/json5",
            "application/json-seq",
            "application/x-ndjson",
            "application/json+protobuf",
            "application/xjson",
        ] {
            assert!(!is_json_type(content_type), "{content_type}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
