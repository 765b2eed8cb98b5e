//! [`Snapshot`]: a request's head, kept so that it can be sent again with another credential.

use std::fmt;
use std::mem;
use std::ops::Range;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Extensions, HeaderMap, Method, Request, Uri, Version, request, uri};
use zeroize::Zeroize;

/// The head as the caller sent it: its URI and headers, written one after the other into one buffer.
///
/// It is taken before the inner service sees the request, so nothing that an inner layer adds gets into the
/// second attempt.
///
/// Cloning a `HeaderMap` allocates for the map and, most often, for every custom name and value; cloning a `Uri`
/// counts in memory that others count in. Most snapshots are dropped unused, so taking one writes to memory that was used
/// before, and thawing pays the rest.
///
/// A value that is marked sensitive is overwritten as soon as it is not needed any more, whatever becomes of the call.
#[derive(Default)]
pub(crate) struct Snapshot {
    method: Method,
    version: Version,
    scheme: Option<Scheme>,
    extensions: Extensions,
    /// Authority, path and query; then, for each value of a header: a [`prefix`], the name, the value. What stands
    /// behind `end` is of earlier use.
    buffer: Vec<u8>,
    /// Where the authority ends. It is empty if there is none, and so is the path.
    authority: usize,
    /// Where the path and query end.
    path: usize,
    end: usize,
    /// How many names the headers have.
    names: usize,
    /// Whether a value is marked sensitive.
    is_secret: bool,
}

/// A URI, taken apart.
pub(crate) struct Target<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) authority: &'a [u8],
    pub(crate) path: &'a [u8],
}

impl<'a> Target<'a> {
    pub(crate) fn of(uri: &'a Uri) -> Self {
        // Of a URI that is empty, `path_and_query` would say "/".
        let path = uri.path_and_query().filter(|_| !uri.path().is_empty());
        Self {
            scheme: uri.scheme_str().unwrap_or_default(),
            authority: uri.authority().map_or("", Authority::as_str).as_bytes(),
            path: path.map_or("", PathAndQuery::as_str).as_bytes(),
        }
    }
}

/// Where a header stands in the buffer.
struct Field {
    name: Range<usize>,
    value: Range<usize>,
    is_sensitive: bool,
}

/// Set in a prefix if the value is marked sensitive.
const SENSITIVE: u64 = 1 << 47;

/// The name's length in the upper 16 bits, which is as long as the `http` crate allows a name to be; the mark; the
/// value's length in the lower 47 bits, which is more than any memory holds.
#[inline]
fn prefix(name: &[u8], value: &HeaderValue) -> u64 {
    let mark = if value.is_sensitive() { SENSITIVE } else { 0 };
    (name.len() as u64) << 48 | mark | value.len() as u64
}

const AS_FROZEN: &str = "it was valid when frozen";

impl Snapshot {
    /// Takes it of this head, in place of what it was before.
    #[inline]
    pub(crate) fn take(&mut self, head: &request::Parts) {
        if self.method != head.method {
            self.method = head.method.clone();
        }
        self.version = head.version;
        self.scheme = head.uri.scheme().cloned();
        self.extensions = head.extensions.clone();
        let Target { authority, path, .. } = Target::of(&head.uri);
        self.authority = authority.len();
        self.path = authority.len() + path.len();
        loop {
            if let Some((texts, rest)) = self.buffer.split_at_mut_checked(self.path)
                && let Some((written, is_secret)) = write(&head.headers, rest)
            {
                let (authorities, paths) = texts.split_at_mut(authority.len());
                authorities.copy_from_slice(authority);
                paths.copy_from_slice(path);
                self.end = self.path + written;
                self.names = head.headers.keys_len();
                self.is_secret = is_secret;
                return;
            }
            grow(&mut self.buffer);
        }
    }

    /// The head again, without the header `without`. Nothing of it is left here, but for what is no secret.
    pub(crate) fn thaw(&mut self, without: Option<&HeaderName>) -> request::Parts {
        // One copy for everything, unless there is a secret in it: who keeps another value must not keep that.
        let whole = (!self.is_secret).then(|| Bytes::copy_from_slice(&self.buffer[..self.end]));
        let text = |range: Range<usize>| match &whole {
            Some(whole) => whole.slice(range),
            None => Bytes::copy_from_slice(&self.buffer[range]),
        };
        let mut head = Request::new(()).into_parts().0;
        head.method = self.method.clone();
        head.uri = self.build_uri(text);
        head.version = self.version;
        head.headers = HeaderMap::try_with_capacity(self.names).unwrap_or_default();
        for Field { name, value, is_sensitive } in self.fields() {
            let name = &self.buffer[name];
            if without.is_some_and(|without| without.as_str().as_bytes() == name) {
                continue;
            }
            let name = HeaderName::from_bytes(name).expect(AS_FROZEN);
            let mut value = HeaderValue::from_maybe_shared(text(value)).expect(AS_FROZEN);
            value.set_sensitive(is_sensitive);
            head.headers.append(name, value);
        }
        head.extensions = mem::take(&mut self.extensions);
        self.forget();
        head
    }

    fn fields(&self) -> impl Iterator<Item = Field> {
        let mut at = self.path;
        std::iter::from_fn(move || {
            let (prefix, _) = self.buffer[at..self.end].split_first_chunk()?;
            let prefix = u64::from_ne_bytes(*prefix);
            // Lossless: both lengths came from a `usize`.
            let name = at + size_of_val(&prefix);
            let value = name + (prefix >> 48) as usize;
            at = value + (prefix & (SENSITIVE - 1)) as usize;
            Some(Field { name: name..value, value: value..at, is_sensitive: prefix & SENSITIVE != 0 })
        })
    }

    /// Names and values of the headers.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields().map(|field| (&self.buffer[field.name], &self.buffer[field.value]))
    }

    /// Whether this URI has the scheme and authority that the head has, as they are written.
    pub(crate) fn is_at_origin_of(&self, uri: &Uri) -> bool {
        let authority = uri.authority().map_or("", Authority::as_str).as_bytes();
        self.scheme.as_ref() == uri.scheme() && self.buffer[..self.authority] == *authority
    }

    /// The URI, taken apart.
    pub(crate) fn target(&self) -> Target<'_> {
        let (authority, path) = self.buffer[..self.path].split_at(self.authority);
        Target { scheme: self.scheme.as_ref().map_or("", Scheme::as_str), authority, path }
    }

    /// The method alone.
    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// The extensions alone.
    pub(crate) fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The URI alone.
    pub(crate) fn uri(&self) -> Uri {
        self.build_uri(|range| Bytes::copy_from_slice(&self.buffer[range]))
    }

    fn build_uri(&self, text: impl Fn(Range<usize>) -> Bytes) -> Uri {
        let (authority, path) = (0..self.authority, self.authority..self.path);
        let mut parts = uri::Parts::default();
        parts.scheme = self.scheme.clone();
        if !authority.is_empty() {
            parts.authority = Some(Authority::from_maybe_shared(text(authority)).expect(AS_FROZEN));
        }
        if !path.is_empty() {
            parts.path_and_query = Some(PathAndQuery::from_maybe_shared(text(path)).expect(AS_FROZEN));
        }
        Uri::from_parts(parts).expect(AS_FROZEN)
    }

    /// Lets go of what it holds, but for its memory; returns whether that is small enough to be kept. Whatever is in it
    /// stays there, if it is no secret: to write over it costs nothing, to clear it would.
    #[inline]
    pub(crate) fn forget(&mut self) -> bool {
        if mem::take(&mut self.is_secret) {
            self.buffer[..self.end].zeroize();
        }
        // They are the caller's, and may hold on to anything.
        self.scheme = None;
        drop(mem::take(&mut self.extensions));
        self.buffer.len() <= LARGEST
    }
}

/// The size of a new buffer, in bytes: enough for many heads.
const SMALLEST: usize = 1024;

/// The size of the largest buffer that is kept, in bytes: more than most heads have.
const LARGEST: usize = 8 * 1024;

#[cold]
fn grow(buffer: &mut Vec<u8>) {
    // Some values have been written, and the memory may be given back.
    buffer.as_mut_slice().zeroize();
    buffer.resize((2 * buffer.len()).max(SMALLEST), 0);
}

/// As `copy_from_slice`. Most names and values are so short that a call costs more than some pieces that overlap.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    let len = from.len();
    if !(16..=64).contains(&len) || to.len() != len {
        return to.copy_from_slice(from);
    }
    let piece = |to: &mut [u8], at: usize| to[at..at + 16].copy_from_slice(&from[at..at + 16]);
    piece(to, 0);
    piece(to, len - 16);
    if len > 32 {
        piece(to, 16);
        piece(to, len - 32);
    }
}

/// Returns how many bytes that took, and whether a value is marked sensitive; `None` if there is no room.
// A loop by itself, so that it has the registers.
#[inline(never)]
fn write(headers: &HeaderMap, mut to: &mut [u8]) -> Option<(usize, bool)> {
    let room = to.len();
    let mut marks = 0;
    for (name, value) in headers {
        let (name, text) = (name.as_str().as_bytes(), value.as_bytes());
        let (lengths, rest) = to.split_first_chunk_mut()?;
        let (names, rest) = rest.split_at_mut_checked(name.len())?;
        let (values, rest) = rest.split_at_mut_checked(text.len())?;
        let prefix = prefix(name, value);
        marks |= prefix;
        *lengths = prefix.to_ne_bytes();
        copy(names, name);
        copy(values, text);
        to = rest;
    }
    Some((room - to.len(), marks & SENSITIVE != 0))
}

impl fmt::Debug for Snapshot {
    /// Values may be secrets of the caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("bytes", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    fn snapshot(request: &Request<()>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.take(&request.clone().into_parts().0);
        snapshot
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
        let thawed = snapshot(&request).thaw(Some(&AUTHORIZATION));

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

    /// Of a request with one header that is marked sensitive.
    fn with_a_secret() -> Snapshot {
        let mut secret = HeaderValue::from_static("s3cret");
        secret.set_sensitive(true);
        let request =
            Request::get("https://a.example/?key=k3y").header("cookie", secret).header("x-one", "1");
        snapshot(&request.body(()).unwrap())
    }

    fn holds(snapshot: &Snapshot, text: &str) -> bool {
        snapshot.buffer.windows(text.len()).any(|bytes| bytes == text.as_bytes())
    }

    #[test]
    fn a_sensitive_header_is_overwritten_after_a_replayed_call_too() {
        // Replayed.
        let mut snapshot = with_a_secret();
        assert!(holds(&snapshot, "s3cret"));
        let thawed = snapshot.thaw(None);
        assert!(!snapshot.buffer.is_empty(), "its memory is used again");
        assert!(!holds(&snapshot, "s3cret") && !holds(&snapshot, "k3y"));
        assert_eq!(
            (&thawed.headers["cookie"], &thawed.headers["x-one"]),
            (&"s3cret".parse().unwrap(), &"1".parse().unwrap())
        );
        assert!(thawed.headers["cookie"].is_sensitive());
        assert_eq!(thawed.uri, "https://a.example/?key=k3y");
        // Over, or given up: with one attempt.
        let mut snapshot = with_a_secret();
        assert!(snapshot.forget());
        assert!(!holds(&snapshot, "s3cret") && !holds(&snapshot, "k3y"));
    }

    #[test]
    fn a_buffer_that_grows_leaves_nothing_in_the_memory_that_it_gives_back() {
        let mut buffer = b"s3cret".to_vec();
        // Room in place, so that what is given back can be seen.
        buffer.reserve(SMALLEST);
        grow(&mut buffer);
        assert_eq!(buffer, [0; SMALLEST]);
    }

    #[test]
    fn without_a_secret_the_thawed_values_share_one_copy_and_the_memory_stays() {
        let request = Request::get("/path").header("x-one", "1").header("x-two", "2").body(()).unwrap();
        let mut snapshot = snapshot(&request);
        let memory = snapshot.buffer.as_ptr();
        let thawed = snapshot.thaw(None);
        assert_eq!(snapshot.buffer.as_ptr(), memory);
        let [one, two] = ["x-one", "x-two"].map(|name| thawed.headers[name].as_bytes().as_ptr() as usize);
        // A prefix and a name stand between them.
        assert_eq!(two - one, 1 + 8 + 5);
    }

    #[test]
    fn a_snapshot_shows_no_header_value_when_debugged() {
        let request = Request::get("/").header("cookie", "s3cret").body(()).unwrap();
        assert!(!format!("{:?}", snapshot(&request)).contains("s3cret"));
    }

    #[test]
    fn every_form_of_uri_survives_being_frozen() {
        let texts = [
            "/",
            "/a/b?c=d",
            "*",
            "example.com:443",
            "https://user@example.com:8443/a?b#c",
            "http://[::1]",
            "http://example.com?q",
            "ws+unix://example.com/%20",
        ];
        let empty = Uri::from_parts(uri::Parts::default()).unwrap();
        for uri in texts.map(Uri::from_static).into_iter().chain([empty]) {
            let request = Request::get(uri.clone()).body(()).unwrap();
            let thawed = [snapshot(&request).uri(), snapshot(&request).thaw(None).uri];
            for thawed in thawed {
                assert_eq!(thawed, uri);
                assert_eq!(thawed.to_string(), uri.to_string());
                assert_eq!(thawed.path_and_query(), uri.path_and_query());
            }
        }
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
            let thawed = snapshot(&request).thaw(None);
            proptest::prop_assert_eq!(&thawed.headers, request.headers());
        }
    }
}
