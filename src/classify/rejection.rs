//! [`Rejection`]: why the server rejected a credential.

use std::fmt;

use http::StatusCode;

/// Why the server rejected a credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    kind: RejectionKind,
    status: StatusCode,
    code: Option<i64>,
}

/// The family a rejection belongs to.
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
    /// In the order of their discriminants.
    pub(crate) const ALL: [Self; 3] = [Self::Unauthenticated, Self::Forbidden, Self::NotFound];

    /// A short, stable name. It is fit for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
        }
    }
}

impl Rejection {
    /// A rejection of this kind, told by the status.
    pub fn new(kind: RejectionKind, status: StatusCode) -> Self {
        Self { kind, status, code: None }
    }

    /// The same rejection, told by a code in the body.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }

    /// The family it belongs to.
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The code in the response's body, if that decided.
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
