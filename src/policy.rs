//! [`Policy`]: what a service goes by, whatever its call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri, request, response};

use crate::classify::Classify;
use crate::credential::Credential;
use crate::handle::Live;
use crate::headers::first_values;
use crate::observe::Observe;
use crate::origin::{Origin, is_plaintext_to_another_host};
use crate::preference::{LeftBehind, LeftMemory, ResourceKey, Slot};

/// The layer's settings and memory; cheap to clone.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) classifier: Arc<dyn Classify>,
    /// `None`: the origin is the resource.
    pub(crate) resource: Option<Arc<dyn ResourceKey>>,
    /// With a memory of its own: what is left behind is no resource, and may be a multitude.
    pub(crate) left_behind: Option<(Arc<dyn LeftBehind>, Arc<LeftMemory>)>,
    pub(crate) replay_limit: usize,
    pub(crate) inspect_limit: usize,
    pub(crate) cooldown: Duration,
    /// `None`: every origin is in scope.
    pub(crate) origins: Option<Arc<[Origin]>>,
    pub(crate) plaintext: Arc<[Origin]>,
    /// For each slot, the other's credential header, if that is known from the start and another: the caller's own
    /// value under it is dropped.
    pub(crate) others_header: [Option<HeaderName>; 2],
    pub(crate) observers: Vec<Arc<dyn Observe>>,
    /// Shared with the layer's handles, and with its clones.
    pub(crate) live: Arc<Live>,
}

impl Policy {
    /// Whether a credential may be sent to this URI at all.
    pub(crate) fn is_in_scope(&self, uri: &Uri) -> bool {
        self.origins.as_ref().is_none_or(|origins| origins.iter().any(|origin| origin.contains(uri)))
    }

    /// Whether a credential sent to this URI could be read on the way.
    pub(crate) fn is_insecure(&self, uri: &Uri) -> bool {
        is_plaintext_to_another_host(uri) && !self.plaintext.iter().any(|origin| origin.contains(uri))
    }

    /// The key of the request's resource; `None` if it is about no single one.
    pub(crate) fn key(&self, head: &request::Parts, content: &[u8]) -> Option<u64> {
        let Some(resource) = &self.resource else { return Some(self.live.memory().key(&head.uri, None)) };
        let name = resource.resource(head, content)?;
        Some(self.live.memory().key(&head.uri, Some(name)))
    }

    /// Puts the credential into a head, in place of whatever the caller had put there.
    #[inline]
    pub(crate) fn put(&self, slot: Slot, credential: &Credential, headers: &mut HeaderMap) {
        if let Some(name) = &self.others_header[slot as usize] {
            headers.remove(name);
        }
        credential.apply(headers);
    }

    pub(crate) fn may_inspect(&self, head: &response::Parts) -> bool {
        self.inspect_limit > 0 && has_readable_body(head)
    }
}

/// `CONNECT` in authority form is spoken to a proxy, which must not see the credential
/// ([RFC 9110, 9.3.6](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6)). With a scheme, it is the extended
/// form of [RFC 8441](https://www.rfc-editor.org/rfc/rfc8441), spoken to the origin.
pub(crate) fn is_for_a_proxy<B>(request: &Request<B>) -> bool {
    *request.method() == Method::CONNECT && request.uri().scheme().is_none()
}

/// Whether the answer has a body that ends by itself and is in plain text as far as HTTP can tell.
fn has_readable_body(head: &response::Parts) -> bool {
    let is_bodiless = head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let is_encoded = |coding: &HeaderValue| !coding.as_bytes().eq_ignore_ascii_case(b"identity");
    let is_event_stream = |value: &HeaderValue| {
        const EVENTS: &[u8] = b"text/event-stream";
        value.as_bytes().get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
    };
    let [coding, content_type] = first_values(&head.headers, [&CONTENT_ENCODING, &CONTENT_TYPE]);
    !(is_bodiless || coding.is_some_and(is_encoded) || content_type.is_some_and(is_event_stream))
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("live", &self.live)
            .field("replay_limit", &self.replay_limit)
            .field("inspect_limit", &self.inspect_limit)
            .field("cooldown", &self.cooldown)
            .field("origins", &self.origins)
            .field("plaintext", &self.plaintext)
            .finish_non_exhaustive()
    }
}
