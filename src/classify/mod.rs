//! Classifiers: did the server reject the credential, accept it, or say nothing about it?
//!
//! | [`Decision`] | meaning | the layer |
//! | --- | --- | --- |
//! | [`Accept`](Decision::Accept) | this credential served the request | returns the response; after a rejection, the resource begins with this credential from now on |
//! | [`Reject`](Decision::Reject) | the server rejected this credential | replays the request with the other credential |
//! | [`Inconclusive`](Decision::Inconclusive) | neither: a rate limit, a failure, a bad parameter | returns the response and learns nothing |
//! | [`Inspect`](Decision::Inspect) | the body decides | reads more of the body and asks again |
//!
//! [`StatusClassifier`] reads the status. `JsonCodeClassifier` (feature `json`) also reads a code in a JSON body.
//! Implement [`Classify`] for anything else:
//!
//! ```
//! use http::{StatusCode, response};
//! use tower_credential_fallback::classify::{BodyPrefix, Classify, Decision, Rejection, RejectionKind};
//!
//! /// This API answers 404 for what the credential may not see.
//! struct HiddenAs404;
//!
//! impl Classify for HiddenAs404 {
//!     fn head(&self, head: &response::Parts) -> Decision {
//!         match head.status {
//!             StatusCode::NOT_FOUND => Decision::Reject(Rejection::new(RejectionKind::NotFound, head.status)),
//!             status if status.is_success() => Decision::Accept,
//!             _ => Decision::Inconclusive,
//!         }
//!     }
//!
//!     fn body(&self, head: &response::Parts, _: BodyPrefix<'_>) -> Decision {
//!         self.head(head)
//!     }
//! }
//! ```

use std::sync::Arc;
use std::time::Duration;

use http::response;

mod body_prefix;
#[cfg(feature = "json")]
mod json_code;
mod rate_limit;
mod rejection;
mod status;

pub use body_prefix::BodyPrefix;
#[cfg(feature = "json")]
pub use json_code::JsonCodeClassifier;
pub use rejection::{Rejection, RejectionKind};
pub use status::StatusClassifier;

/// A stream that is not marked as one must not keep its head from the caller for long. A response that is only slow has
/// begun by then.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(1);

/// Tells a rejection of the credential from every other response.
///
/// The layer asks [`head`](Self::head) first. If that says [`Decision::Inspect`], it asks [`body`](Self::body).
pub trait Classify: Send + Sync {
    /// Judges by status and headers.
    fn head(&self, head: &response::Parts) -> Decision;

    /// Judges by the body so far.
    ///
    /// It is called only after [`head`](Self::head) said [`Decision::Inspect`]. It is called again when more has arrived,
    /// until it says something else.
    ///
    /// If [`prefix.is_last()`](BodyPrefix::is_last), no more will be shown. `Inspect` then counts as
    /// [`Decision::Inconclusive`].
    fn body(&self, head: &response::Parts, prefix: BodyPrefix<'_>) -> Decision;

    /// How long the response's head waits for a decision about a slow body. Default: 1 s.
    fn patience(&self) -> Duration {
        DEFAULT_PATIENCE
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

/// A classifier's verdict on a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// This credential served the request.
    Accept,
    /// The server rejected the credential.
    Reject(Rejection),
    /// Neither. The caller gets the response, and the layer learns nothing from it.
    Inconclusive,
    /// More of the body must be seen.
    Inspect,
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    struct Patient;

    impl Classify for Patient {
        fn head(&self, _: &response::Parts) -> Decision {
            Decision::Inspect
        }

        fn body(&self, _: &response::Parts, prefix: BodyPrefix<'_>) -> Decision {
            if prefix.is_complete() { Decision::Accept } else { Decision::Inconclusive }
        }

        fn patience(&self) -> Duration {
            Duration::from_millis(50)
        }
    }

    #[test]
    fn an_arc_forwards_every_method() {
        let shared: Arc<dyn Classify> = Arc::new(Patient);
        let head = Response::new(()).into_parts().0;
        assert_eq!(shared.head(&head), Decision::Inspect);
        assert_eq!(shared.body(&head, BodyPrefix::complete(b"")), Decision::Accept);
        assert_eq!(shared.body(&head, BodyPrefix::cut(b"")), Decision::Inconclusive);
        assert_eq!(Arc::new(shared).patience(), Duration::from_millis(50));
    }

    #[test]
    fn the_default_patience_is_one_second() {
        assert_eq!(StatusClassifier::new().patience(), Duration::from_secs(1));
    }
}
