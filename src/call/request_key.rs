//! [`RequestKey`]: tells whether two calls make the same request, without its content.

use http::{Extensions, HeaderMap, Method};

use crate::attempt::Target;
use crate::preference::Memory;

/// Headers that name an attempt or a trace, not what is asked for. A caller's retry has others.
const OF_THE_ATTEMPT: [&[u8]; 13] = [
    b"b3",
    b"baggage",
    b"date",
    b"grpc-timeout",
    b"sentry-trace",
    b"traceparent",
    b"tracestate",
    b"uber-trace-id",
    b"x-amzn-trace-id",
    b"x-cloud-trace-context",
    b"x-correlation-id",
    b"x-request-id",
    b"x-stainless-retry-count",
];

/// … and how others begin.
const FAMILIES_OF_THE_ATTEMPT: [&[u8]; 2] = [b"x-b3-", b"x-datadog-"];

fn is_of_the_attempt(name: &[u8]) -> bool {
    OF_THE_ATTEMPT.contains(&name) || FAMILIES_OF_THE_ATTEMPT.iter().any(|family| name.starts_with(family))
}

/// Without parameters: each form that is built has a boundary of its own.
fn media_type(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default()
}

/// A hash of method, URI, headers, user and resource.
#[derive(Clone, Copy, Default)]
pub(super) struct RequestKey {
    pub(super) group: u64,
    pub(super) key: u64,
}

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
            .filter(|(name, _)| !is_of_the_attempt(name))
            .map(
                |(name, value)| {
                    if name == b"content-type" { (name, media_type(value)) } else { (name, value) }
                },
            )
            .fold(0_u64, |sum, (name, value)| sum.wrapping_add(memory.hash(&[name, value])));
        let group = group(memory, &target);
        let key = memory.hash(&[
            method.as_str().as_bytes(),
            target.scheme.as_bytes(),
            target.authority,
            target.path,
            &headers.to_ne_bytes(),
            &resource.unwrap_or_default().to_ne_bytes(),
            user.as_bytes(),
        ]);
        Self { group, key }
    }
}

/// A part of the key that costs less to make.
pub(super) fn group(memory: &Memory, target: &Target<'_>) -> u64 {
    memory.hash(&[target.authority, target.path])
}

/// Names and values of a head's headers.
pub(super) fn headers_of(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}
