//! [`first_values`]: headers looked up where there are few.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Up to here, comparing with each name is faster than hashing those that are looked for.
const FEW: usize = 24;

/// As [`HeaderMap::get`] for each of these standard names.
#[inline]
pub(crate) fn first_values<'h, const N: usize>(
    headers: &'h HeaderMap,
    names: [&HeaderName; N],
) -> [Option<&'h HeaderValue>; N] {
    if headers.len() > FEW {
        return names.map(|name| headers.get(name));
    }
    let mut found = [None; N];
    for (known, value) in headers {
        for (found, name) in found.iter_mut().zip(names) {
            if found.is_none() && known == name {
                *found = Some(value);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, CONTENT_TYPE};

    use super::*;

    #[test]
    fn the_first_value_of_each_is_found_in_few_headers_and_in_many() {
        for others in [0, 3, 2 * FEW] {
            let mut headers = HeaderMap::new();
            for nth in 0..others {
                headers.insert(HeaderName::try_from(format!("x-{nth}")).unwrap(), HeaderValue::from(nth));
            }
            headers.append(CONTENT_TYPE, HeaderValue::from_static("one"));
            headers.append(CONTENT_TYPE, HeaderValue::from_static("two"));
            let [content_type, accept] = first_values(&headers, [&CONTENT_TYPE, &ACCEPT]);
            assert_eq!((content_type.unwrap().as_bytes(), accept), (&b"one"[..], None), "{others} others");
        }
    }
}
