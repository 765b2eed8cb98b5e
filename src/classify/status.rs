//! [`StatusClassifier`]: a refusal is told by the status alone.

use http::{StatusCode, response};

use super::{Classify, Decision, Rejection, RejectionKind};

/// Takes 401 and 403 for refusals
/// ([RFC 9110, 15.5.2 and 15.5.4](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.2)), or what you say.
///
/// It is the layer's default, and never looks at a body.
#[derive(Clone, Debug)]
pub struct StatusClassifier {
    statuses: Vec<(StatusCode, RejectionKind)>,
    /// The least of them: nearly every answer's is less.
    least: Option<StatusCode>,
}

impl StatusClassifier {
    /// 401 is [`Unauthenticated`](RejectionKind::Unauthenticated) and 403 is
    /// [`Forbidden`](RejectionKind::Forbidden).
    pub fn new() -> Self {
        Self::none()
            .reject(StatusCode::UNAUTHORIZED, RejectionKind::Unauthenticated)
            .reject(StatusCode::FORBIDDEN, RejectionKind::Forbidden)
    }

    /// No status at all: a place to start from with [`reject`](Self::reject).
    pub fn none() -> Self {
        Self { statuses: Vec::new(), least: None }
    }

    /// Takes `status` for a refusal of this kind too.
    #[must_use]
    pub fn reject(mut self, status: StatusCode, kind: RejectionKind) -> Self {
        self.statuses.retain(|(known, _)| *known != status);
        self.statuses.push((status, kind));
        self.least = Some(self.least.map_or(status, |least| least.min(status)));
        self
    }

    /// The refusal that `status` means, if it means one.
    #[inline]
    pub(crate) fn rejection(&self, status: StatusCode) -> Option<Rejection> {
        self.least.filter(|least| *least <= status)?;
        self.listed(status)
    }

    #[inline(never)]
    fn listed(&self, status: StatusCode) -> Option<Rejection> {
        let (_, kind) = self.statuses.iter().find(|(known, _)| *known == status)?;
        Some(Rejection::new(*kind, status))
    }

    pub(crate) fn decide(&self, status: StatusCode) -> Decision {
        self.rejection(status).map_or_else(|| if status.is_success() || status == StatusCode::NOT_MODIFIED || status == StatusCode::SWITCHING_PROTOCOLS { Decision::Accept } else { Decision::Inconclusive }, Decision::Reject)
    }
}

impl Default for StatusClassifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Classify for StatusClassifier {
    fn head(&self, head: &response::Parts) -> Decision {
        self.decide(head.status)
    }

    fn body(&self, head: &response::Parts, _prefix: super::BodyPrefix<'_>) -> Decision {
        self.decide(head.status)
    }
}
