//! [`JsonCodeClassifier`]: a code in a JSON body tells a rejection.

use std::fmt;

use http::{StatusCode, response};

use super::{BodyPrefix, Classify, Decision, Rejection, RejectionKind, StatusClassifier};

mod content_type;
mod integer;
mod reader;
mod string;
mod success;
#[cfg(test)]
mod tests;

use content_type::is_json;
use reader::{Found, find_code};
use success::SuccessScan;

/// Reads the code in bodies such as `{"code": 4101, "msg": "…"}`, whatever their status.
///
/// The first rule that applies decides:
///
/// 1. 408, 429 and 5xx are inconclusive.
/// 2. If no code can be read, the status decides ([`StatusClassifier`]).
/// 3. A code listed with [`reject`](Self::reject) is a rejection.
/// 4. With a success code (0, and those listed with [`accept`](Self::accept)), the status decides: 200 is accepted, 401 is
///    rejected, 404 is inconclusive.
/// 5. Every other code is inconclusive, even with 401 or 403.
///
/// # Which code is read
///
/// - The code is the value of a field at the top level of the object. If the field occurs more than once, the first
///   readable code counts.
/// - It is an integer in any of JSON's spellings (`4101`, `4101.0`, `4.101e3`), or a string that holds one (`"4101"`). It
///   must fit an `i64`. `4101.5`, `null`, objects, arrays and booleans are not codes.
/// - It counts as soon as its value has ended: a string ends with its quote, a number before a comma, a closing brace or
///   whitespace. The bytes behind it are not read, so the verdict does not depend on where the body is split.
/// - A number at the very end of a cut body may be half of one. It is not read.
/// - The keys, colons and commas of the top-level object are checked. A violation before the code means that there is no
///   code. Other values are skipped, not validated.
/// - A code beyond the layer's inspect limit is not read.
///
/// A body is read if its content type has a JSON subtype: `json`, `x-json` or `…+json`. Malformed parameters and a byte order
/// mark do not matter.
///
/// ```
/// use tower_credential_fallback::{JsonCodeClassifier, RejectionKind};
///
/// let classifier = JsonCodeClassifier::new("errno")
///     .accept(200)
///     .reject(110, RejectionKind::Unauthenticated)
///     .reject(403, RejectionKind::Forbidden);
/// # let _ = classifier;
/// ```
#[derive(Clone)]
pub struct JsonCodeClassifier {
    field: String,
    /// No code is in both lists.
    rejected: Vec<(i64, RejectionKind)>,
    accepted: Vec<i64>,
    statuses: StatusClassifier,
    scan: Option<SuccessScan>,
}

impl JsonCodeClassifier {
    /// Reads the code from this top-level field. 0 means success. No code is a rejection yet; 401 and 403 are.
    pub fn new(field: impl Into<String>) -> Self {
        let field = field.into();
        Self {
            scan: SuccessScan::new(&field),
            field,
            rejected: Vec::new(),
            accepted: vec![0],
            statuses: StatusClassifier::new(),
        }
    }

    /// Lists `code` as a rejection of this kind. The last call for a code counts, here and in [`accept`](Self::accept).
    #[must_use]
    pub fn reject(mut self, code: i64, kind: RejectionKind) -> Self {
        self.forget(code);
        self.rejected.push((code, kind));
        self
    }

    /// Lists `code` as a success code, beside 0. With a success code, the status decides.
    #[must_use]
    pub fn accept(mut self, code: i64) -> Self {
        self.forget(code);
        self.accepted.push(code);
        self
    }

    /// Decides if no code can be read, or if it is a success code. Default: [`StatusClassifier::new`].
    #[must_use]
    pub fn with_statuses(mut self, statuses: StatusClassifier) -> Self {
        self.statuses = statuses;
        self
    }

    fn forget(&mut self, code: i64) {
        self.rejected.retain(|(known, _)| *known != code);
        self.accepted.retain(|known| *known != code);
    }

    fn judge(&self, code: i64, head: &response::Parts) -> Decision {
        // First, since nearly every response has a success code.
        if self.accepted.contains(&code) {
            return self.statuses.decide(head);
        }
        match self.rejected.iter().find(|(known, _)| *known == code) {
            Some((_, kind)) => Decision::Reject(Rejection::new(*kind, head.status).with_code(code)),
            None => Decision::Inconclusive,
        }
    }
}

impl fmt::Debug for JsonCodeClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonCodeClassifier")
            .field("field", &self.field)
            .field("rejected", &self.rejected)
            .field("accepted", &self.accepted)
            .field("statuses", &self.statuses)
            .finish_non_exhaustive()
    }
}

impl Classify for JsonCodeClassifier {
    fn head(&self, head: &response::Parts) -> Decision {
        if says_nothing_of_the_credential(head.status) {
            Decision::Inconclusive
        } else if is_json(&head.headers) {
            Decision::Inspect
        } else {
            self.statuses.decide(head)
        }
    }

    fn body(&self, head: &response::Parts, prefix: BodyPrefix<'_>) -> Decision {
        if prefix.is_last()
            && let Some(scan) = &self.scan
            && scan.is_faster(prefix.bytes())
            && scan.has_none_but(&self.accepted, prefix.bytes())
        {
            return self.statuses.decide(head);
        }
        match find_code(prefix.bytes(), &self.field) {
            Found::Code(code) => self.judge(code, head),
            Found::Unfinished if !prefix.is_last() => Decision::Inspect,
            Found::Unfinished | Found::NoCode => self.statuses.decide(head),
        }
    }
}

/// The server did not get to the credential, or failed behind it.
fn says_nothing_of_the_credential(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) || status.is_server_error()
}
