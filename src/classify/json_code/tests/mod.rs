use http::Response;
use http::header::CONTENT_TYPE;

use super::*;

mod cuts;
mod documents;
mod properties;
mod rules;

fn classifier() -> JsonCodeClassifier {
    JsonCodeClassifier::new("code")
        .reject(4100, RejectionKind::Unauthenticated)
        .reject(4101, RejectionKind::Forbidden)
        .reject(-7, RejectionKind::Forbidden)
}

fn head(status: u16, content_type: &str) -> response::Parts {
    Response::builder().status(status).header(CONTENT_TYPE, content_type).body(()).unwrap().into_parts().0
}

/// The verdict on a whole JSON body, asked for as the layer asks.
fn ask(status: u16, body: impl AsRef<[u8]>) -> Decision {
    ask_of(&classifier(), &head(status, "application/json"), body.as_ref())
}

fn ask_of(classifier: &JsonCodeClassifier, head: &response::Parts, body: &[u8]) -> Decision {
    match classifier.head(head) {
        Decision::Inspect => classifier.body(head, BodyPrefix::complete(body)),
        decided => decided,
    }
}

fn rejected(code: i64, kind: RejectionKind, status: u16) -> Decision {
    Decision::Reject(Rejection::new(kind, StatusCode::from_u16(status).unwrap()).with_code(code))
}

fn rejected_by_status(kind: RejectionKind, status: u16) -> Decision {
    Decision::Reject(Rejection::new(kind, StatusCode::from_u16(status).unwrap()))
}
