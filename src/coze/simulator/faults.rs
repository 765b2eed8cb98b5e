//! [`Fault`]: something that goes wrong.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

/// Something that goes wrong, for every request or for some.
///
/// ```
/// use std::time::Duration;
/// use tower_credential_fallback::coze::simulator::Fault;
///
/// let slow_chats = Fault::latency(Duration::from_millis(300)).on("/v3/chat");
/// let two_errors = Fault::status(503).times(2);
/// # let _ = (slow_chats, two_errors);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) kind: Kind,
    path: String,
    left: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Latency(Duration),
    Status(u16),
    RateLimit(Duration),
    RefuseUpload,
    Trickle { bytes: usize, pause: Duration },
    Raw { status: u16, content_type: String, body: Bytes },
    Hang,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, path: String::new(), left: None }
    }

    /// Waits this long before the request is looked at.
    pub fn latency(wait: Duration) -> Self {
        Self::new(Kind::Latency(wait))
    }

    /// Answers with this status, such as 503, and code 5000.
    pub fn status(status: u16) -> Self {
        Self::new(Kind::Status(status))
    }

    /// Answers with 429 and `Retry-After`, in whole seconds.
    pub fn rate_limit(retry_after: Duration) -> Self {
        Self::new(Kind::RateLimit(retry_after))
    }

    /// A credential that would be refused is refused before the request's body is read. (Without this, the
    /// body is read first.)
    pub fn refuse_before_upload() -> Self {
        Self::new(Kind::RefuseUpload)
    }

    /// Sends answers this many bytes at a time (at least one), with a pause before each piece.
    pub fn trickle(bytes: usize, pause: Duration) -> Self {
        Self::new(Kind::Trickle { bytes: bytes.max(1), pause })
    }

    /// Answers with just this: a gateway's error page, an empty body, nonsense.
    pub fn raw(status: u16, content_type: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(Kind::Raw { status, content_type: content_type.into(), body: body.into() })
    }

    /// Never answers.
    pub fn hang() -> Self {
        Self::new(Kind::Hang)
    }

    /// Only for paths that start like this. Default: every path.
    #[must_use]
    pub fn on(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Only so many times. Default: until it is cleared.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.left = Some(times);
        self
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
}

impl Faults {
    pub(super) fn push(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// What befalls a request for this path; each that has a number of times is one less after it.
    pub(super) fn strike(&mut self, path: &str) -> Vec<Kind> {
        self.faults.retain(|fault| fault.left != Some(0));
        let hits = self.faults.iter_mut().filter(|fault| path.starts_with(&fault.path));
        hits.map(|fault| {
            fault.left = fault.left.map(|left| left - 1);
            fault.kind.clone()
        })
        .collect()
    }
}

/// A status that was given as a number; 500 for a number that is none.
pub(super) fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
