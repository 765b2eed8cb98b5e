//! [`StatusClassifier`]: the status tells a rejection.

use http::{StatusCode, response};

use super::rate_limit::is_rate_limited;
use super::{BodyPrefix, Classify, Decision, Rejection, RejectionKind};

/// Takes 401 and 403 for rejections
/// ([RFC 9110, 15.5.2 and 15.5.4](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.2)), or the statuses you list.
///
/// The first rule that applies decides:
///
/// 1. A listed status is a rejection. A 403 is inconclusive instead if it is a rate limit.
/// 2. 2xx, 304 and 101 are accepted.
/// 3. Everything else is inconclusive.
///
/// A 403 is a rate limit if it has `Retry-After`, or if its headers say that no quota is left. GitHub
/// [answers like this](https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#exceeding-the-rate-limit).
/// The headers are `X-RateLimit-Remaining`, `X-Rate-Limit-Remaining`, `RateLimit-Remaining`, and `RateLimit` with `r=0`
/// ([IETF draft](https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers)).
///
/// It is the layer's default. It never reads a body.
#[derive(Clone, Debug)]
pub struct StatusClassifier {
    rejected: Vec<(StatusCode, RejectionKind)>,
    /// The least of them: nearly every response's status is less.
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

    /// Rejects no status. Add some with [`reject`](Self::reject).
    pub fn none() -> Self {
        Self { rejected: Vec::new(), least: None }
    }

    /// Lists `status` as a rejection of this kind, even a status that means success. The last call for a status counts.
    #[must_use]
    pub fn reject(mut self, status: StatusCode, kind: RejectionKind) -> Self {
        self.rejected.retain(|(known, _)| *known != status);
        self.rejected.push((status, kind));
        self.least = self.rejected.iter().map(|(status, _)| *status).min();
        self
    }

    #[inline]
    pub(super) fn decide(&self, head: &response::Parts) -> Decision {
        if head.status.is_success() && self.least.is_none_or(|least| head.status < least) {
            return Decision::Accept;
        }
        self.decide_listed(head)
    }

    #[inline(never)]
    fn decide_listed(&self, head: &response::Parts) -> Decision {
        let status = head.status;
        let listed = self.rejected.iter().find(|(known, _)| *known == status);
        match listed {
            Some(_) if status == StatusCode::FORBIDDEN && is_rate_limited(&head.headers) => {
                Decision::Inconclusive
            }
            Some((_, kind)) => Decision::Reject(Rejection::new(*kind, status)),
            None if is_success(status) => Decision::Accept,
            None => Decision::Inconclusive,
        }
    }
}

/// 304 answers a conditional request: the credential may read the resource. 101 is an accepted upgrade.
fn is_success(status: StatusCode) -> bool {
    status.is_success() || matches!(status, StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS)
}

impl Default for StatusClassifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Classify for StatusClassifier {
    fn head(&self, head: &response::Parts) -> Decision {
        self.decide(head)
    }

    fn body(&self, head: &response::Parts, _: BodyPrefix<'_>) -> Decision {
        self.decide(head)
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn decide(classifier: &StatusClassifier, status: u16, fields: &[(&str, &str)]) -> Decision {
        let mut builder = Response::builder().status(status);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let head = builder.body(()).unwrap().into_parts().0;
        let decision = classifier.head(&head);
        assert_eq!(classifier.body(&head, BodyPrefix::complete(b"{}")), decision, "the body changes nothing");
        decision
    }

    fn rejected(kind: RejectionKind, status: u16) -> Decision {
        Decision::Reject(Rejection::new(kind, StatusCode::from_u16(status).unwrap()))
    }

    #[test]
    fn success_is_accepted_401_and_403_rejected_all_else_inconclusive() {
        let classifier = StatusClassifier::new();
        for status in [101, 200, 201, 202, 204, 206, 226, 299, 304] {
            assert_eq!(decide(&classifier, status, &[]), Decision::Accept, "{status}");
        }
        assert_eq!(decide(&classifier, 401, &[]), rejected(RejectionKind::Unauthenticated, 401));
        assert_eq!(decide(&classifier, 403, &[]), rejected(RejectionKind::Forbidden, 403));
        for status in [
            100, 103, 300, 301, 302, 307, 400, 404, 407, 408, 409, 410, 422, 429, 451, 500, 502, 503, 504,
            999,
        ] {
            assert_eq!(decide(&classifier, status, &[]), Decision::Inconclusive, "{status}");
        }
    }

    #[test]
    fn a_403_that_is_a_rate_limit_is_inconclusive() {
        let classifier = StatusClassifier::new();
        for field in [
            ("retry-after", "1"),
            ("x-ratelimit-remaining", "0"),
            ("x-rate-limit-remaining", "0"),
            ("ratelimit-remaining", "0"),
            ("ratelimit", r#""default";r=0;t=30"#),
        ] {
            assert_eq!(decide(&classifier, 403, &[field]), Decision::Inconclusive, "{field:?}");
            let explicit = StatusClassifier::none().reject(StatusCode::FORBIDDEN, RejectionKind::NotFound);
            assert_eq!(decide(&explicit, 403, &[field]), Decision::Inconclusive, "{field:?}");
        }
        let left = [("x-ratelimit-remaining", "4999"), ("ratelimit", r#""default";r=50;t=30"#)];
        assert_eq!(decide(&classifier, 403, &left), rejected(RejectionKind::Forbidden, 403));
    }

    #[test]
    fn a_rate_limit_header_changes_no_other_status() {
        let fields = [("retry-after", "1"), ("x-ratelimit-remaining", "0")];
        let classifier = StatusClassifier::new().reject(StatusCode::NOT_FOUND, RejectionKind::NotFound);
        assert_eq!(decide(&classifier, 200, &fields), Decision::Accept);
        assert_eq!(decide(&classifier, 401, &fields), rejected(RejectionKind::Unauthenticated, 401));
        assert_eq!(decide(&classifier, 404, &fields), rejected(RejectionKind::NotFound, 404));
        assert_eq!(decide(&classifier, 429, &fields), Decision::Inconclusive);
    }

    #[test]
    fn a_listed_status_is_rejected_even_if_it_means_success() {
        let classifier = StatusClassifier::none()
            .reject(StatusCode::OK, RejectionKind::Forbidden)
            .reject(StatusCode::TOO_MANY_REQUESTS, RejectionKind::Forbidden);
        assert_eq!(decide(&classifier, 200, &[]), rejected(RejectionKind::Forbidden, 200));
        assert_eq!(decide(&classifier, 429, &[]), rejected(RejectionKind::Forbidden, 429));
        assert_eq!(decide(&classifier, 201, &[]), Decision::Accept);
        assert_eq!(decide(&classifier, 403, &[]), Decision::Inconclusive);
    }

    #[test]
    fn the_last_kind_set_for_a_status_counts() {
        let classifier = StatusClassifier::new().reject(StatusCode::FORBIDDEN, RejectionKind::NotFound);
        assert_eq!(decide(&classifier, 403, &[]), rejected(RejectionKind::NotFound, 403));
    }

    #[test]
    fn none_rejects_no_status() {
        assert_eq!(decide(&StatusClassifier::none(), 401, &[]), Decision::Inconclusive);
        assert_eq!(decide(&StatusClassifier::none(), 200, &[]), Decision::Accept);
    }
}
