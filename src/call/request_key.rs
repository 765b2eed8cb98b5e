//! [`RequestKey`]: tells whether two calls make the same request, without its content.

use http::{Extensions, HeaderMap, Method};

use crate::attempt::Target;
use crate::preference::Memory;

/// Headers that name an attempt or a trace, not what is asked for. A caller's retry has others.
const OF_THE_ATTEMPT: [&[u8]; 12] = [
    b"b3",
    b"baggage",
    b"date",
    b"sentry-trace",
    b"traceparent",
    b"tracestate",
    b"uber-trace-id",
    b"x-amzn-trace-id",
    b"x-b3-spanid",
    b"x-b3-traceid",
    b"x-cloud-trace-context",
    b"x-request-id",
];

/// A hash of method, URI, headers, user and resource.
#[derive(Clone, Copy, Default)]
pub(super) struct RequestKey(pub(super) u64);

impl RequestKey {
    /// `headers` are names and values; their order does not matter.
    pub(super) fn new<'h>(
        memory: &Memory,
        method: &Method,
        target: Target<'_>,
        headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
        extensions: &Extensions,
        resource: Option<u64>,
    ) -> Self {
        #[cfg(feature = "oauth")]
        let user = extensions.get::<crate::oauth::UserId>().map_or("", crate::oauth::UserId::as_str);
        #[cfg(not(feature = "oauth"))]
        let (user, _) = ("", extensions);
        let headers = headers
            .filter(|(name, _)| !OF_THE_ATTEMPT.contains(name))
            .fold(0_u64, |sum, (name, value)| sum.wrapping_add(memory.hash(&[name, value])));
        Self(memory.hash(&[
            method.as_str().as_bytes(),
            target.scheme.as_bytes(),
            target.authority,
            target.path,
            &headers.to_ne_bytes(),
            &resource.unwrap_or_default().to_ne_bytes(),
            user.as_bytes(),
        ]))
    }
}

/// Names and values of a head's headers.
pub(super) fn headers_of(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}
