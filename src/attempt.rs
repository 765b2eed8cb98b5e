//! [`Snapshot`]: a request's head, kept so that it can be sent again with another credential.

use bytes::{Buf, Bytes};
use http::header::{HeaderName, HeaderValue};
use http::{Extensions, HeaderMap, Method, Request, Uri, Version, request};

/// The head as the caller sent it.
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
    pub(crate) fn of(head: &request::Parts) -> Self {
        Self {
            method: head.method.clone(),
            version: head.version,
            headers: FrozenHeaders::freeze(&head.headers),
            extensions: head.extensions.clone(),
        }
    }

    /// The head again, without the header `without`; the caller has kept the URI.
    pub(crate) fn thaw(self, uri: Uri, without: Option<&HeaderName>) -> request::Parts {
        let mut head = Request::new(()).into_parts().0;
        head.method = self.method;
        head.uri = uri;
        head.version = self.version;
        head.headers = self.headers.thaw();
        head.extensions = self.extensions;
        without.map(|name| head.headers.remove(name));
        head
    }
}

/// Headers written one after the other into one buffer.
///
/// Cloning a `HeaderMap` allocates for the map and, most often, for every custom name and value. Most
/// snapshots are dropped unused, so freezing writes to a buffer that was used before, and thawing pays the rest.
struct FrozenHeaders {
    /// For each value: a [`prefix`], the name, the value. What stands behind `end` is of earlier use.
    buffer: Vec<u8>,
    end: usize,
}

/// Set in a prefix if the value is marked sensitive.
const SENSITIVE: u64 = 1 << 47;

const PREFIX: usize = size_of::<u64>();

/// The name's length in the upper 16 bits, which is as long as the `http` crate allows a name to be; the mark; the
/// value's length in the lower 47 bits, which is more than any memory holds.
fn prefix(name: &[u8], value: &HeaderValue) -> u64 {
    let mark = if value.is_sensitive() { SENSITIVE } else { 0 };
    (name.len() as u64) << 48 | mark | value.len() as u64
}

impl FrozenHeaders {
    fn freeze(headers: &HeaderMap) -> Self {
        let (mut buffer, mut end) = (spare::take(), 0);
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            let start = end;
            end += PREFIX + name.len() + value.len();
            if end > buffer.len() {
                buffer.resize(end.next_power_of_two().max(spare::SMALLEST), 0);
            }
            let (lengths, texts) = buffer[start..end].split_at_mut(PREFIX);
            let (names, values) = texts.split_at_mut(name.len());
            lengths.copy_from_slice(&prefix(name, value).to_ne_bytes());
            names.copy_from_slice(name);
            values.copy_from_slice(value.as_bytes());
        }
        Self { buffer, end }
    }

    fn thaw(mut self) -> HeaderMap {
        let mut rest = Bytes::from(std::mem::take(&mut self.buffer));
        rest.truncate(self.end);
        let mut headers = HeaderMap::new();
        while !rest.is_empty() {
            let prefix = rest.get_u64_ne();
            // Lossless: both lengths came from a `usize`.
            let name = rest.split_to((prefix >> 48) as usize);
            let value = rest.split_to((prefix & (SENSITIVE - 1)) as usize);
            let name = HeaderName::from_bytes(&name).expect("it was a header name when frozen");
            let mut value = HeaderValue::from_maybe_shared(value).expect("it was a header value when frozen");
            value.set_sensitive(prefix & SENSITIVE != 0);
            headers.append(name, value);
        }
        headers
    }
}

impl Drop for FrozenHeaders {
    fn drop(&mut self) {
        spare::put(std::mem::take(&mut self.buffer));
    }
}

/// Buffers that were used before, a few for each thread.
mod spare {
    use std::cell::RefCell;

    /// Calls that are under way at once on one thread, and that find a buffer.
    const KEPT: usize = 32;

    /// The size of a new buffer, in bytes: enough for many heads.
    pub(super) const SMALLEST: usize = 1024;

    /// The size of the largest buffer that is kept, in bytes: more than most heads have.
    const LARGEST: usize = 8 * 1024;

    thread_local! {
        static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    /// A buffer with whatever is in it: writing over that costs nothing, clearing it would.
    pub(super) fn take() -> Vec<u8> {
        // While the thread ends, there is none.
        BUFFERS.try_with(|buffers| buffers.borrow_mut().pop()).ok().flatten().unwrap_or_default()
    }

    pub(super) fn put(buffer: Vec<u8>) {
        if buffer.is_empty() || buffer.len() > LARGEST {
            return;
        }
        let _ = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
}

impl std::fmt::Debug for FrozenHeaders {
    /// Values may be secrets of the caller.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenHeaders").field("bytes", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    fn snapshot(request: &Request<()>) -> Snapshot {
        Snapshot::of(&request.clone().into_parts().0)
    }

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
        let thawed = snapshot(&request).thaw(request.uri().clone(), Some(&AUTHORIZATION));

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
        assert!(!format!("{:?}", snapshot(&request)).contains("s3cret"));
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
            let thawed = snapshot(&request).thaw(Uri::default(), None);
            proptest::prop_assert_eq!(&thawed.headers, request.headers());
        }
    }
}
