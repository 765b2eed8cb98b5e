//! [`CozeClassifier`]: tells a rejection by the Coze OpenAPI.

use http::response;

use crate::classify::{BodyPrefix, Classify, Decision, JsonCodeClassifier, RejectionKind};

/// Codes that mean a rejection of the credential.
///
/// Coze's own chat SDK refreshes its token on the first three ([coze-js](https://github.com/coze-dev/coze-js)). The others
/// are "not found" codes. Their documented causes include a missing permission and another owner
/// ([error codes](https://www.coze.cn/open/docs/developer_guides/coze_error_codes)). An account gets them for a resource
/// of another account.
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

/// Takes for rejections the codes with which the Coze API rejects a credential.
///
/// Coze's statuses vary by endpoint: a rejection comes with 200 as well as with 401. So the `code` in the body decides.
///
/// | code | meaning | verdict |
/// | --- | --- | --- |
/// | 4100, 700012006 | the token is not valid | rejected, [`Unauthenticated`](RejectionKind::Unauthenticated) |
/// | 4101 | the token may not do this | rejected, [`Forbidden`](RejectionKind::Forbidden) |
/// | 4200, 4001, 4002, 4005, 4006 | no such resource, chat, conversation, message, bot *for this account* | rejected, [`NotFound`](RejectionKind::NotFound) |
/// | 0, or no readable code | | the status decides, as in [`StatusClassifier`](crate::StatusClassifier) |
/// | any other | rate limits, quotas, bad parameters, failures | inconclusive |
///
/// 408, 429 and 5xx are inconclusive, whatever the code.
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

    fn body(&self, head: &response::Parts, prefix: BodyPrefix<'_>) -> Decision {
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
        match CozeClassifier::new().head(&head) {
            Decision::Inspect => CozeClassifier::new().body(&head, BodyPrefix::complete(body.as_bytes())),
            decided => decided,
        }
    }

    #[test]
    fn each_code_is_rejected_with_every_status_it_was_seen_with() {
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
    fn codes_that_another_credential_cannot_help_are_inconclusive() {
        for code in [4000, 4003, 4008, 4009, 4011, 4013, 4015, 4016, 4020, 4102, 4201, 4301, 5000, 702042162]
        {
            for status in [200, 400, 401, 403, 429, 500] {
                let decision = ask(status, &format!(r#"{{"code":{code},"msg":"x"}}"#));
                assert_eq!(decision, Decision::Inconclusive, "{code} with {status}");
            }
        }
    }

    #[test]
    fn code_zero_is_accepted_with_200() {
        assert_eq!(ask(200, r#"{"code":0,"msg":""}"#), Decision::Accept);
    }
}
