//! Recognizes a rate limit by a response's headers.

use http::HeaderMap;
use http::header::{HeaderName, RETRY_AFTER};

/// Fields with the quota that is left, as a number.
const REMAINING: [HeaderName; 3] = [
    // GitHub: <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>
    HeaderName::from_static("x-ratelimit-remaining"),
    // X: <https://docs.x.com/fundamentals/rate-limits>
    HeaderName::from_static("x-rate-limit-remaining"),
    // IETF drafts up to 06: <https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-06>
    HeaderName::from_static("ratelimit-remaining"),
];

/// IETF drafts from 07 on: <https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers>
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Whether the server says that it limits the rate: it names a time to retry after, or no quota is left.
///
/// Of several quotas, in one field or in repeated ones, a single exhausted one is enough.
pub(super) fn is_rate_limited(headers: &HeaderMap) -> bool {
    headers.contains_key(RETRY_AFTER)
        || REMAINING.iter().any(|name| members(headers, name).any(|member| is_zero(item(member))))
        || members(headers, &RATE_LIMIT).any(is_exhausted)
}

/// The members of a list, in all fields of this name.
fn members<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers.get_all(name).iter().flat_map(|value| split_unquoted(value.as_bytes(), b','))
}

/// `"default";r=0;t=30`, or `remaining=0` as draft 07 has it.
fn is_exhausted(member: &[u8]) -> bool {
    split_unquoted(member, b';').any(|parameter| {
        let parameter = parameter.trim_ascii();
        [&b"r="[..], b"remaining="].iter().any(|name| parameter.strip_prefix(*name).is_some_and(is_zero))
    })
}

/// An item without its parameters: `0` of `0;w=60`.
fn item(member: &[u8]) -> &[u8] {
    split_unquoted(member, b';').next().unwrap_or_default().trim_ascii()
}

fn is_zero(number: &[u8]) -> bool {
    !number.is_empty() && number.iter().all(|digit| *digit == b'0')
}

/// Splits at a separator, but not within a string
/// ([RFC 9651, 3.3.3](https://www.rfc-editor.org/rfc/rfc9651#section-3.3.3)).
fn split_unquoted(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |byte| {
        if is_escaped {
            is_escaped = false;
            return false;
        }
        is_escaped = is_quoted && *byte == b'\\';
        is_quoted ^= *byte == b'"';
        !is_quoted && *byte == separator
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn is_limited(fields: &[(&str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        is_rate_limited(&headers)
    }

    #[test]
    fn a_time_to_retry_after_is_a_rate_limit() {
        for value in ["1", "0", "Fri, 31 Dec 1999 23:59:59 GMT", "soon"] {
            assert!(is_limited(&[("Retry-After", value)]), "{value}");
        }
    }

    #[test]
    fn an_exhausted_quota_is_a_rate_limit_in_each_header_form() {
        for (name, value) in [
            ("X-RateLimit-Remaining", "0"),
            ("x-rate-limit-remaining", "0"),
            ("RateLimit-Remaining", "0"),
            ("ratelimit-remaining", "00"),
            ("x-ratelimit-remaining", " 0 "),
            ("x-ratelimit-remaining", "0;w=60"),
            ("x-ratelimit-remaining", "12, 0"),
            ("RateLimit", r#""default";r=0;t=30"#),
            ("RateLimit", r#""default"; r=0"#),
            ("RateLimit", r#""minute";r=50;t=30, "day";r=0;t=300"#),
            ("RateLimit", r#""a;\"b,c";r=0"#),
            ("RateLimit", "limit=100, remaining=0, reset=50"),
        ] {
            assert!(is_limited(&[(name, value)]), "{name}: {value}");
        }
    }

    #[test]
    fn a_quota_that_is_left_or_not_readable_is_no_rate_limit() {
        for (name, value) in [
            ("x-ratelimit-remaining", "1"),
            ("x-ratelimit-remaining", "10"),
            ("x-ratelimit-remaining", ""),
            ("x-ratelimit-remaining", "-1"),
            ("x-ratelimit-remaining", "none"),
            ("x-ratelimit-limit", "0"),
            ("x-ratelimit-reset", "0"),
            ("x-ratelimit-used", "0"),
            ("RateLimit", r#""default";r=50;t=0"#),
            ("RateLimit", r#""r=0";r=5"#),
            ("RateLimit", r#""a;r=0;";r=5"#),
            ("RateLimit", r#""a\";r=0";r=5"#),
            ("RateLimit", r#""default";r=;t=30"#),
            ("RateLimit", r#""default";xr=0;r=5"#),
            ("RateLimit-Policy", r#""default";q=0;w=10"#),
            ("RateLimit", ""),
        ] {
            assert!(!is_limited(&[(name, value)]), "{name}: {value}");
        }
        assert!(!is_limited(&[]));
    }

    #[test]
    fn one_exhausted_quota_of_repeated_fields_is_enough() {
        assert!(is_limited(&[("x-ratelimit-remaining", "7"), ("X-RateLimit-Remaining", "0")]));
        assert!(is_limited(&[("RateLimit", r#""a";r=7"#), ("ratelimit", r#""b";r=0"#)]));
        assert!(!is_limited(&[("x-ratelimit-remaining", "7"), ("x-ratelimit-remaining", "8")]));
    }
}
