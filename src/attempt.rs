//! [`Snapshot`]: a request's head, kept so that it can be sent again with another credential.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Extensions, HeaderMap, Method, Request, Uri, Version, request};

/// The head as the caller sent it, without the caller's own credential header.
///
/// It is taken before the inner service sees the request, so nothing that an inner layer adds gets into the
/// second attempt.
#[derive(Debug)]
pub(crate) struct Snapshot {
    method: Method,
    version: Version,
    headers: FrozenHeaders,
    extensions: Extensions,
}

impl Snapshot {
    /// Copies the head, leaving out the header `without`.
    pub(crate) fn of<B>(request: &Request<B>, without: &HeaderName) -> Self {
        Self {
            method: request.method().clone(),
            version: request.version(),
            headers: FrozenHeaders::freeze(request.headers(), without),
            extensions: request.extensions().clone(),
        }
    }

    /// The head again; the caller has kept the URI.
    pub(crate) fn thaw(self, uri: Uri) -> request::Parts {
        let mut head = Request::new(()).into_parts().0;
        head.method = self.method;
        head.uri = uri;
        head.version = self.version;
        head.headers = self.headers.thaw();
        head.extensions = self.extensions;
        head
    }
}

/// Headers written one after the other into one buffer.
///
/// Cloning a `HeaderMap` allocates for the map and, most often, for every custom name and value. Most
/// snapshots are dropped unused, so freezing costs one allocation, and thawing pays the rest.
struct FrozenHeaders {
    /// For each value: length of the name, length of the value with the sensitive mark, name, value.
    buffer: Vec<u8>,
    count: usize,
}

/// Set in a value's length if the value is marked sensitive. No value is that long.
const SENSITIVE: u64 = 1 << 63;

/// Two lengths before each name and value.
const PREFIX: usize = 2 * size_of::<u64>();

impl FrozenHeaders {
    fn freeze(headers: &HeaderMap, without: &HeaderName) -> Self {
        let kept = || headers.iter().filter(|(name, _)| *name != without);
        let (count, size) = kept().fold((0, 0), |(count, size), (name, value)| {
            (count + 1, size + PREFIX + name.as_str().len() + value.len())
        });
        let mut buffer = Vec::with_capacity(size);
        for (name, value) in kept() {
            let mark = if value.is_sensitive() { SENSITIVE } else { 0 };
            buffer.extend_from_slice(&(name.as_str().len() as u64).to_ne_bytes());
            buffer.extend_from_slice(&(value.len() as u64 | mark).to_ne_bytes());
            buffer.extend_from_slice(name.as_str().as_bytes());
            buffer.extend_from_slice(value.as_bytes());
        }
        Self { buffer, count }
    }

    fn thaw(self) -> HeaderMap {
        let mut rest = Bytes::from(self.buffer);
        let mut headers = HeaderMap::with_capacity(self.count);
        while !rest.is_empty() {
            let name_len = take_len(&mut rest);
            let marked = take_len(&mut rest);
            // Lossless: both lengths came from a `usize`.
            let name = rest.split_to(name_len as usize);
            let value = rest.split_to((marked & !SENSITIVE) as usize);
            let name = HeaderName::from_bytes(&name).expect("it was a header name when frozen");
            let mut value = HeaderValue::from_maybe_shared(value).expect("it was a header value when frozen");
            value.set_sensitive(marked & SENSITIVE != 0);
            headers.append(name, value);
        }
        headers
    }
}

fn take_len(bytes: &mut Bytes) -> u64 {
    bytes::Buf::get_u64_ne(bytes)
}

impl std::fmt::Debug for FrozenHeaders {
    /// Values may be secrets of the caller.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenHeaders").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    #[test]
    fn a_thawed_head_equals_the_original_but_for_the_credential() {
        let mut secret = HeaderValue::from_static("s3cret");
        secret.set_sensitive(true);
        let mut request = Request::put("https://a.example/x?y=z")
            .version(Version::HTTP_2)
            .header("x-one", "1")
            .header(AUTHORIZATION, "Bearer caller's own")
            .header("x-two", "2a")
            .header("x-two", "2b")
            .header("x-empty", "")
            .header("x-bytes", HeaderValue::from_bytes(b"\xff\x80 opaque").unwrap())
            .header("cookie", secret)
            .extension(7_u8)
            .body(())
            .unwrap();
        let thawed = Snapshot::of(&request, &AUTHORIZATION).thaw(request.uri().clone());

        request.headers_mut().remove(AUTHORIZATION);
        let expected = request.into_parts().0;
        assert_eq!(thawed.method, expected.method);
        assert_eq!(thawed.uri, expected.uri);
        assert_eq!(thawed.version, expected.version);
        assert_eq!(thawed.headers, expected.headers);
        assert!(thawed.headers["cookie"].is_sensitive());
        assert!(!thawed.headers["x-one"].is_sensitive());
        assert_eq!(thawed.extensions.get(), Some(&7_u8));
    }

    #[test]
    fn a_snapshot_shows_no_header_value_when_debugged() {
        let request = Request::get("/").header("cookie", "s3cret").body(()).unwrap();
        assert!(!format!("{:?}", Snapshot::of(&request, &AUTHORIZATION)).contains("s3cret"));
    }

    proptest::proptest! {
        #[test]
        fn any_headers_survive_being_frozen(
            headers in proptest::collection::vec(("[a-z][a-z0-9-]{0,20}", "[ -~]{0,40}"), 0..20)
        ) {
            let mut request = Request::new(());
            for (name, value) in &headers {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
            }
            let thawed = Snapshot::of(&request, &AUTHORIZATION).thaw(Uri::default());
            proptest::prop_assert_eq!(&thawed.headers, request.headers());
        }
    }
}
