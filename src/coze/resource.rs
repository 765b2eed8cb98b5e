//! [`CozeResource`]: what a request to Coze is about.

use std::fmt;

use http::request;
use memchr::memmem::Finder;

use super::is_digits;
use crate::preference::ResourceKey;

/// The ids that name what moves with a workspace, the most telling first. A chat names its bot and its
/// conversation: it is the bot that moves.
const IDS: [&str; 8] = [
    "bot_id",
    "workflow_id",
    "app_id",
    "dataset_id",
    "conversation_id",
    "file_id",
    "workspace_id",
    "space_id",
];

/// Path segments that are followed by an id: `/v1/bots/737…`.
const COLLECTIONS: [&str; 7] =
    ["bots", "workflows", "apps", "datasets", "conversations", "files", "workspaces"];

/// Names the bot, workflow, app, dataset, conversation, file or workspace that a request to the Coze API is
/// about, found in its query, in an in-memory JSON body, or in its path. Lists name none.
pub struct CozeResource {
    in_json: [Finder<'static>; IDS.len()],
}

impl CozeResource {
    /// The key for every endpoint of the API.
    pub fn new() -> Self {
        Self { in_json: IDS.map(|id| Finder::new(format!("\"{id}\"").as_bytes()).into_owned()) }
    }
}

impl Default for CozeResource {
    fn default() -> Self {
        Self::new()
    }
}

impl ResourceKey for CozeResource {
    fn resource<'r>(&self, head: &'r request::Parts, body: &'r [u8]) -> Option<&'r str> {
        let json = if body.trim_ascii_start().starts_with(b"{") { body } else { &[] };
        let query = head.uri.query().unwrap_or_default();
        IDS.iter()
            .zip(&self.in_json)
            .find_map(|(id, quoted)| in_query(query, id).or_else(|| in_json(json, quoted)))
            .or_else(|| in_path(head.uri.path()))
    }
}

fn in_query<'r>(query: &'r str, id: &str) -> Option<&'r str> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name == id && !value.is_empty()).then_some(value)
    })
}

/// The string or number behind the quoted name. It is a hint, so a nested one is as good: two requests with
/// the same id are about the same thing.
fn in_json<'r>(json: &'r [u8], quoted: &Finder<'_>) -> Option<&'r str> {
    quoted.find_iter(json).find_map(|at| {
        let value =
            json[at + quoted.needle().len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let end = value.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"_-".contains(byte))?;
        std::str::from_utf8(&value[..end]).ok().filter(|value| !value.is_empty() && *value != "null")
    })
}

fn in_path(path: &str) -> Option<&str> {
    let mut segments = path.split('/');
    segments.find(|segment| COLLECTIONS.contains(segment))?;
    // `/v1/files/upload` and the like are verbs: ids are digits.
    segments.next().filter(|id| is_digits(id))
}

impl fmt::Debug for CozeResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CozeResource").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn resource(uri: &str, body: &str) -> Option<String> {
        let head = Request::post(uri).body(()).unwrap().into_parts().0;
        CozeResource::new().resource(&head, body.as_bytes()).map(str::to_owned)
    }

    #[test]
    fn the_bot_is_found_wherever_it_stands_and_before_the_conversation() {
        for (uri, body) in [
            ("https://api.coze.cn/v1/bots/737", ""),
            ("https://api.coze.cn/v1/bot/get_online_info?bot_id=737", ""),
            ("https://api.coze.cn/v3/chat", r#"{"user_id":"u","bot_id" : "737","stream":false}"#),
            ("https://api.coze.cn/v3/chat", r#"{"bot_id":737}"#),
            ("https://api.coze.cn/v3/chat?conversation_id=1", r#"{"bot_id":"737"}"#),
        ] {
            assert_eq!(resource(uri, body).as_deref(), Some("737"), "{uri} {body}");
        }
    }

    #[test]
    fn other_resources_are_named_and_lists_are_not() {
        for (uri, body, expected) in [
            ("https://a/v1/workflow/run", r#"{"workflow_id":"w1"}"#, Some("w1")),
            ("https://a/v1/workspaces?page_num=1&page_size=20", "", None),
            ("https://a/v1/bots?workspace_id=74", "", Some("74")),
            ("https://a/v1/files/upload", "--boundary", None),
            ("https://a/v1/files/retrieve?file_id=9", "", Some("9")),
            ("https://a/v1/conversation/create", "{}", None),
            ("https://a/v3/chat", r#"{"bot_id":null}"#, None),
            ("https://a/v3/chat", r#"{"bot_id":""#, None),
        ] {
            assert_eq!(resource(uri, body).as_deref(), expected, "{uri} {body}");
        }
    }
}
