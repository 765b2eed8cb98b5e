//! What the callers ask, and how they tell whether they got it.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

/// Something that is asked of a bot, or of the account: one call, or a first one and those that follow from its answer.
pub(crate) enum Ask {
    Chat,
    /// A chat that is polled until it is complete; then its messages are read.
    PolledChat,
    /// A conversation that is created, and polled.
    Conversation,
    Stream,
    Upload,
    Bot,
    List,
}

/// How often a conversation or a chat is polled. The simulator completes a chat with the second time.
const POLLS: usize = 2;

/// Bytes in each upload.
const UPLOAD: usize = 64 * 1024;

impl Ask {
    /// Of ten, four are chats, one of them polled; one is a conversation, two are streams, the rest uploads, look-ups and
    /// lists.
    pub(crate) fn nth(nth: usize) -> Self {
        match nth % 10 {
            0..=2 => Self::Chat,
            3 => Self::PolledChat,
            4 => Self::Conversation,
            5 | 6 => Self::Stream,
            7 => Self::Upload,
            8 => Self::Bot,
            _ => Self::List,
        }
    }

    pub(crate) fn request(
        &self,
        base_url: &str,
        bot: &str,
        text: &str,
    ) -> http::Result<Request<Full<Bytes>>> {
        let url = |path: &str| format!("{base_url}{path}");
        match self {
            Self::Chat | Self::PolledChat | Self::Stream => {
                let body = json!({
                    "bot_id": bot,
                    "user_id": "rehearsal",
                    "stream": matches!(self, Self::Stream),
                    "auto_save_history": true,
                    "additional_messages": [{ "role": "user", "content": text, "content_type": "text" }],
                });
                let request = Request::post(url("/v3/chat")).header("content-type", "application/json");
                request.body(Full::from(body.to_string()))
            }
            Self::Conversation => {
                // It names its bot, so that it is made where the bot is.
                let request = Request::post(url("/v1/conversation/create"));
                let body = json!({ "bot_id": bot }).to_string();
                request.header("content-type", "application/json").body(Full::from(body))
            }
            Self::Upload => {
                let mut body =
                    b"--cut\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
                        .to_vec();
                body.resize(body.len() + UPLOAD, b'x');
                body.extend_from_slice(b"\r\n--cut--\r\n");
                let request = Request::post(url("/v1/files/upload"));
                request.header("content-type", "multipart/form-data; boundary=cut").body(Full::from(body))
            }
            Self::Bot => Request::get(url(&format!("/v1/bots/{bot}"))).body(Full::default()),
            Self::List => Request::get(url("/v1/workspaces?page_num=1&page_size=20")).body(Full::default()),
        }
    }

    /// What is asked next, once the first answer and that many polls are there.
    pub(crate) fn follow_up(
        &self,
        base_url: &str,
        first: &[u8],
        polls: usize,
    ) -> Option<http::Result<Request<Full<Bytes>>>> {
        let json: Value = serde_json::from_slice(first).ok()?;
        let id = json["data"]["id"].as_str()?;
        let path = match self {
            Self::Conversation if polls < POLLS => format!("/v1/conversation/retrieve?conversation_id={id}"),
            Self::PolledChat if polls <= POLLS => {
                let what = if polls < POLLS { "retrieve" } else { "message/list" };
                let conversation = json["data"]["conversation_id"].as_str()?;
                format!("/v3/chat/{what}?conversation_id={conversation}&chat_id={id}")
            }
            _ => return None,
        };
        Some(Request::get(format!("{base_url}{path}")).body(Full::default()))
    }

    /// Whether the answer to a [`follow_up`](Self::follow_up) is the right one.
    pub(crate) fn check_follow_up(&self, body: &[u8], polls: usize, text: &str) -> Result<(), String> {
        let json: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        let is_right = json["code"] == 0
            && match (self, polls) {
                (Self::PolledChat, POLLS) => json["data"][0]["content"] == format!("You said: {text}"),
                (Self::PolledChat, _) => json["data"]["status"].is_string(),
                _ => json["data"]["id"].is_string(),
            };
        if is_right { Ok(()) } else { Err(format!("{json:.160}")) }
    }

    /// Whether the first answer is the right one, whole.
    pub(crate) fn check(&self, body: &[u8], bot: &str, text: &str) -> Result<(), String> {
        if let Self::Stream = self {
            let events = String::from_utf8_lossy(body);
            let is_whole = events.contains(&format!("You said: {text}"))
                && events.ends_with("event:done\ndata:\"[DONE]\"\n\n");
            return if is_whole { Ok(()) } else { Err(format!("a stream broke off: {events:.120}")) };
        }
        let json: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        let is_right = json["code"] == 0
            && match self {
                Self::Chat | Self::PolledChat | Self::Bot => json["data"]["bot_id"] == bot,
                Self::Conversation => json["data"]["id"].is_string(),
                Self::Upload => json["data"]["bytes"] == UPLOAD,
                Self::List | Self::Stream => json["data"]["workspaces"].is_array(),
            };
        if is_right { Ok(()) } else { Err(format!("{json:.160}")) }
    }
}
