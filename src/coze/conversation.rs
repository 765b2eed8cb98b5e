//! [`FreshConversations`]: a chat goes on without a conversation that has stayed behind.

use http::uri::PathAndQuery;
use http::{Method, Uri, request};

use crate::preference::LeftBehind;

/// Lets a chat start a fresh conversation if its own belongs to the other account.
///
/// When a workspace moves, its bots do, and the conversations that were made over the API do not: they belong to
/// the account (the migration guide advises to create new ones). With this rule, a chat
/// (`POST /v3/chat`) whose `conversation_id` is the other account's is sent without it; Coze then makes a new
/// conversation and names it in its answer, as ever. The bot does not remember what was said before.
///
/// Off unless it is turned on:
///
/// ```
/// use tower_credential_fallback::coze::{self, FreshConversations, Region};
///
/// # fn main() -> Result<(), tower_credential_fallback::Error> {
/// let layer = coze::tokens(&Region::Cn, "pat_personal", "pat_enterprise")?
///     .with_left_behind(FreshConversations::new());
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
///
/// See [`LeftBehind`] for when that happens, and
/// [`Outcome::started_afresh`](crate::Outcome::started_afresh) for how to know.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct FreshConversations;

const PARAMETER: &str = "conversation_id";

impl FreshConversations {
    /// The rule. It has no settings.
    pub fn new() -> Self {
        Self
    }
}

impl LeftBehind for FreshConversations {
    fn find<'r>(&self, head: &'r request::Parts, _: &'r [u8]) -> Option<&'r str> {
        if head.method != Method::POST || head.uri.path() != "/v3/chat" {
            return None;
        }
        let pairs = head.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find_map(|(name, value)| (name == PARAMETER && !value.is_empty()).then_some(value))
    }

    fn remove(&self, head: &mut request::Parts) {
        let is_other = |pair: &&str| pair.split('=').next() != Some(PARAMETER);
        let query =
            head.uri.query().unwrap_or_default().split('&').filter(is_other).collect::<Vec<_>>().join("&");
        let path = head.uri.path();
        let shorter = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut parts = head.uri.clone().into_parts();
        // A part of what was a URI before: it parses again. Were it not so, the request would stay as it is.
        if let Ok(shorter) = PathAndQuery::try_from(shorter) {
            parts.path_and_query = Some(shorter);
            if let Ok(uri) = Uri::from_parts(parts) {
                head.uri = uri;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: Method, uri: &str) -> request::Parts {
        Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_chats_conversation_is_found_and_taken_out_and_the_rest_stays() {
        for (uri, id, without) in [
            ("https://a.example/v3/chat?conversation_id=7", "7", "https://a.example/v3/chat"),
            ("https://a.example/v3/chat?x=1&conversation_id=7&y", "7", "https://a.example/v3/chat?x=1&y"),
            ("/v3/chat?conversation_id=7&x=%26", "7", "/v3/chat?x=%26"),
        ] {
            let mut head = head(Method::POST, uri);
            assert_eq!(FreshConversations.find(&head, b""), Some(id));
            FreshConversations.remove(&mut head);
            assert_eq!(head.uri.to_string(), without);
            assert_eq!(FreshConversations.find(&head, b""), None);
        }
    }

    #[test]
    fn only_a_new_chat_can_do_without_its_conversation() {
        for (method, uri) in [
            (Method::POST, "https://a.example/v3/chat"),
            (Method::POST, "https://a.example/v3/chat?conversation_id="),
            (Method::POST, "https://a.example/v3/chat/cancel?conversation_id=7"),
            (Method::GET, "https://a.example/v3/chat?conversation_id=7"),
            (Method::POST, "https://a.example/v1/conversation/message/create?conversation_id=7"),
        ] {
            assert_eq!(FreshConversations.find(&head(method, uri), b""), None, "{uri}");
        }
    }
}
