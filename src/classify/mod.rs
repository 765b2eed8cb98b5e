//! Is this answer a refusal of the credential? [`Classify`] and what implements it.

use std::fmt;
use std::sync::Arc;

use http::{StatusCode, response};

#[cfg(feature = "json")]
mod json_code;
mod status;

#[cfg(feature = "json")]
pub use json_code::JsonCodeClassifier;
pub use status::StatusClassifier;

/// Tells a refusal of the credential from every other answer.
///
/// [`head`](Self::head) is asked first. If it says [`Decision::Inspect`], the layer reads the body up to its
/// inspect limit and asks [`body`](Self::body) with what it has, again when more has come, until it
/// gets another decision; or [`whole`](Self::whole), if that is all there is.
pub trait Classify: Send + Sync {
    /// Judges by status and headers.
    fn head(&self, head: &response::Parts) -> Decision;

    /// Judges by the first bytes of the body as well.
    ///
    /// `prefix` is all that has arrived so far. [`Decision::Inspect`] asks for more.
    ///
    /// If no more will be looked at (the body or the limit is reached), or if the body cannot be looked at
    /// at all (`HEAD`, 204, 304, event streams, encoded bodies, upgrades), the layer asks a last time with
    /// an empty prefix: that is the question "and by status alone?". `Inspect` then counts as `Accept`.
    fn body(&self, head: &response::Parts, prefix: &[u8]) -> Decision;

    /// Judges by status, headers and the whole body, which is not empty: asked instead of [`body`](Self::body) once
    /// the end of the body was seen, be it that the same bytes have been asked about before. By default, it is the same
    /// question.
    ///
    /// [`Decision::Inspect`] leaves it to the status, as there.
    fn whole(&self, head: &response::Parts, content: &[u8]) -> Decision {
        self.body(head, content)
    }
}

impl<C: Classify + ?Sized> Classify for Arc<C> {
    fn head(&self, head: &response::Parts) -> Decision {
        (**self).head(head)
    }

    fn body(&self, head: &response::Parts, prefix: &[u8]) -> Decision {
        (**self).body(head, prefix)
    }

    fn whole(&self, head: &response::Parts, content: &[u8]) -> Decision {
        (**self).whole(head, content)
    }
}

/// What a classifier says of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not a refusal of the credential: the caller gets the answer, be it a success or another failure.
    Accept,
    /// The server refused the credential.
    Reject(Rejection),
    /// (More of) the body has to be seen.
    Inspect,
}

/// Why the server refused a credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    kind: RejectionKind,
    status: StatusCode,
    code: Option<i64>,
}

/// The family a refusal belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The credential itself is not accepted: wrong, expired or revoked. A cached token is dropped.
    Unauthenticated,
    /// The credential is known, but may not do this.
    Forbidden,
    /// The resource does not exist *for this credential*.
    NotFound,
}

impl RejectionKind {
    /// In the order of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Unauthenticated, Self::Forbidden, Self::NotFound];

    /// A short name, the same for ever: fit for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
        }
    }
}

impl Rejection {
    /// A refusal of this kind, told by the status.
    pub fn new(kind: RejectionKind, status: StatusCode) -> Self {
        Self { kind, status, code: None }
    }

    /// The same refusal, told by a code in the body.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }

    /// The family it belongs to.
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The code in the answer's body, if that is what told.
    pub fn code(&self) -> Option<i64> {
        self.code
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (HTTP {}", self.kind.as_str(), self.status.as_u16())?;
        if let Some(code) = self.code {
            write!(f, ", code {code}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejection({self})")
    }
}
