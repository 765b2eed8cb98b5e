//! [`first_value`]: a header looked up where there are few.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Up to here, comparing with each name is faster than hashing one.
const FEW: usize = 24;

/// As [`HeaderMap::get`], for standard names.
pub(crate) fn first_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    headers.iter().find_map(|(known, value)| (known == name).then_some(value))
}
