//! [`CozeClassifier`]: what a refusal is at Coze.

use http::response;

use crate::classify::{Classify, Decision, JsonCodeClassifier, RejectionKind};

/// Codes that say: not with this credential.
///
/// The first three are the set on which Coze's own chat SDK refreshes its token
/// ([coze-js](https://github.com/coze-dev/coze-js)). The others are "not found" codes, whose documented causes
/// include a missing permission and another owner
/// ([error codes](https://www.coze.cn/open/docs/developer_guides/coze_error_codes)): that is how a
/// resource looks from the account that it does not belong to.
const CODES: [(i64, RejectionKind); 8] = [
    (4100, RejectionKind::Unauthenticated),
    (700012006, RejectionKind::Unauthenticated),
    (4101, RejectionKind::Forbidden),
    (4200, RejectionKind::NotFound), // any resource
    (4001, RejectionKind::NotFound), // chat
    (4002, RejectionKind::NotFound), // conversation
    (4005, RejectionKind::NotFound), // message
    (4006, RejectionKind::NotFound), // bot
];

/// Takes for a refusal what the Coze API says when a credential is not (or no longer) the right one.
///
/// Coze's statuses vary by endpoint (a refusal comes with 200 as well as with 401), so the `code` in the body
/// decides. 401 and 403 without a readable code are refusals too. Rate limits, quotas and bad parameters are
/// not.
///
/// | code | meaning | [`RejectionKind`] |
/// | --- | --- | --- |
/// | 4100, 700012006 | the token is not valid | `Unauthenticated` |
/// | 4101 | the token may not do this | `Forbidden` |
/// | 4200, 4001, 4002, 4005, 4006 | no such resource, chat, conversation, message, bot, *for this account* | `NotFound` |
#[derive(Clone, Debug)]
pub struct CozeClassifier {
    by_code: JsonCodeClassifier,
}

impl CozeClassifier {
    /// The classifier for every endpoint of the API.
    pub fn new() -> Self {
        let by_code = CODES
            .into_iter()
            .fold(JsonCodeClassifier::new("code"), |by_code, (code, kind)| by_code.reject(code, kind));
        Self { by_code }
    }
}

impl Default for CozeClassifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Classify for CozeClassifier {
    fn head(&self, head: &response::Parts) -> Decision {
        self.by_code.head(head)
    }

    fn body(&self, head: &response::Parts, prefix: crate::classify::BodyPrefix<'_>) -> Decision {
        self.by_code.body(head, prefix)
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn ask(status: u16, body: &str) -> Decision {
        let response = Response::builder().status(status).header("content-type", "application/json").body(());
        let head = response.unwrap().into_parts().0;
        match CozeClassifier::new().body(&head, body.as_bytes()) {
            Decision::Inspect => CozeClassifier::new().body(&head, b""),
            decided => decided,
        }
    }

    #[test]
    fn each_refusal_code_is_told_apart_with_every_status_it_was_seen_with() {
        for (code, kind) in CODES {
            for status in [200, 401, 403] {
                match ask(status, &format!(r#"{{"code":{code},"msg":"x","detail":{{"logid":"2025"}}}}"#)) {
                    Decision::Reject(rejection) => {
                        assert_eq!((rejection.code(), rejection.kind()), (Some(code), kind));
                    }
                    other => panic!("{code} with {status}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn codes_that_another_credential_cannot_help_are_no_refusal() {
        for code in
            [0, 4000, 4003, 4008, 4009, 4011, 4013, 4015, 4016, 4020, 4102, 4201, 4301, 5000, 702042162]
        {
            assert_eq!(ask(200, &format!(r#"{{"code":{code},"msg":"x"}}"#)), Decision::Accept, "{code}");
        }
    }
}
