//! Who is asking, and how they are refused.

use http::{HeaderMap, header};

use super::server::Shared;
use super::world::{Denied, Holder};
use super::{Refusal, reply};
use axum::response::Response;

/// Whose valid token the request bears; put into its extensions.
#[derive(Clone)]
pub(super) struct Caller(pub(super) Option<Holder>);

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

impl Shared {
    /// The token's holder, or the refusal of a token that is missing or not valid.
    pub(super) fn authenticate(&self, caller: Caller, path: &str) -> Result<Holder, Box<Response>> {
        caller.0.ok_or_else(|| {
            let refusal = self.forced_refusal().unwrap_or_else(|| observed_for_bad_token(path));
            Box::new(reply::refusal(&refusal))
        })
    }

    /// The refusal of a valid token of the wrong account; `unknown` answers for what does not exist.
    pub(super) fn deny(&self, denied: &Denied, usual: &Refusal, unknown: Response) -> Response {
        match denied {
            Denied::Unknown => unknown,
            Denied::WrongAccount => reply::refusal(&self.forced_refusal().unwrap_or_else(|| usual.clone())),
        }
    }
}

/// As reported: Coze's status and code depend on the endpoint.
fn observed_for_bad_token(path: &str) -> Refusal {
    match path {
        "/v3/chat" => Refusal::json(200, 4101),
        _ if path.starts_with("/v1/workflow") => Refusal::json(401, 4100),
        _ => Refusal::json(401, 700_012_006),
    }
}
