//! What the callers ask, and how they tell whether they got it.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

/// One call: something is asked of a bot, or of the account.
pub(crate) enum Ask {
    Chat,
    Stream,
    Upload,
    Bot,
    List,
}

/// Bytes in each upload.
const UPLOAD: usize = 64 * 1024;

impl Ask {
    /// Half of the calls are chats, a fifth streams, the rest uploads, look-ups and lists.
    pub(crate) fn nth(nth: usize) -> Self {
        match nth % 10 {
            0..=4 => Self::Chat,
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
            Self::Chat | Self::Stream => {
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

    /// Whether the answer is the right one, whole.
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
                Self::Chat | Self::Bot => json["data"]["bot_id"] == bot,
                Self::Upload => json["data"]["bytes"] == UPLOAD,
                Self::List | Self::Stream => json["data"]["workspaces"].is_array(),
            };
        if is_right { Ok(()) } else { Err(format!("{json:.160}")) }
    }
}
