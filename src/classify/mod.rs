//! Is this answer a refusal of the credential? [`Classify`] and what implements it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, response};

mod body_prefix;
#[cfg(feature = "json")]
mod json_code;
mod status;

pub use body_prefix::BodyPrefix;
#[cfg(feature = "json")]
pub use json_code::JsonCodeClassifier;
pub use status::StatusClassifier;

/// Judges an answer: did this credential serve the request, was it rejected, or does the answer say neither?
pub trait Classify: Send + Sync {
    /// Judges by status and headers.
    fn head(&self, head: &response::Parts) -> Decision;

    /// Judges by the body so far.
    fn body(&self, head: &response::Parts, prefix: BodyPrefix<'_>) -> Decision;

    /// How long the head waits for a decision about a slow body. Default: 1 second.
    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl<C: Classify + ?Sized> Classify for Arc<C> {
    fn head(&self, head: &response::Parts) -> Decision {
        (**self).head(head)
    }

    fn body(&self, head: &response::Parts, prefix: BodyPrefix<'_>) -> Decision {
        (**self).body(head, prefix)
    }

    fn patience(&self) -> Duration {
        (**self).patience()
    }
}

/// The verdict on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// This credential served the request.
    Accept,
    /// The server rejected the credential.
    Reject(Rejection),
    /// Neither.
    Inconclusive,
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
