//! Chats: asked, streamed, looked up again, listed, cancelled.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::reply;
use super::server::Shared;
use super::world::{Chat, Denied, ResourceKind};

#[derive(Deserialize)]
pub(super) struct ChatQuery {
    conversation_id: Option<String>,
    chat_id: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    bot_id: String,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    additional_messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: String,
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ChatQuery>,
    body: Bytes,
) -> Response {
    let holder = match shared.authenticate(caller, "/v3/chat") {
        Ok(holder) => holder,
        Err(refusal) => return *refusal,
    };
    let Ok(asked) = serde_json::from_slice::<Asked>(&body) else {
        return reply::error(200, 4000, "Request parameter error");
    };
    let mut world = shared.world();
    if let Err(denied) = world.use_resource(ResourceKind::Bot, &asked.bot_id, &holder) {
        let message = format!("Requested resource bot_id={} does not exist.", asked.bot_id);
        return shared.deny(&denied, &shared.settings().wrong_account, reply::error(200, 4200, &message));
    }
    let account = holder.account;
    let conversation = match query.conversation_id.filter(|id| !id.is_empty()) {
        Some(id) => match world.use_conversation(&id, &account) {
            Ok(()) => id,
            Err(denied) => {
                let unknown = reply::error(200, 4002, "conversation does not exist");
                return shared.deny(&denied, &shared.settings().wrong_conversation, unknown);
            }
        },
        None => world.create_conversation(&account),
    };
    let question =
        asked.additional_messages.into_iter().next_back().map_or(String::new(), |last| last.content);
    let chat = Chat { conversation, bot: asked.bot_id, question, is_cancelled: false, polls: 0 };
    let id = world.create_chat(&account, chat.clone());
    if asked.stream { events(&id, &chat) } else { reply::success(show(&id, &chat)) }
}

pub(super) async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ChatQuery>,
) -> Response {
    with_chat(&shared, caller, &query, |chat| chat.polls += 1, |id, chat| reply::success(show(id, chat)))
}

pub(super) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let Ok(query) = serde_json::from_slice::<ChatQuery>(&body) else {
        return reply::error(200, 4000, "Request parameter error");
    };
    with_chat(
        &shared,
        caller,
        &query,
        |chat| chat.is_cancelled = true,
        |id, chat| reply::success(show(id, chat)),
    )
}

pub(super) async fn messages(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ChatQuery>,
) -> Response {
    with_chat(&shared, caller, &query, |_| {}, |id, chat| reply::success(json!([answer(id, chat)])))
}

fn with_chat(
    shared: &Shared,
    caller: Caller,
    query: &ChatQuery,
    change: impl FnOnce(&mut Chat),
    answer: impl FnOnce(&str, &Chat) -> Response,
) -> Response {
    let account = match shared.authenticate(caller, "/v3/chat/retrieve") {
        Ok(holder) => holder.account,
        Err(refusal) => return *refusal,
    };
    let id = query.chat_id.as_deref().unwrap_or_default();
    let found = shared.world().chat(id, &account, change).and_then(|chat| {
        let is_in =
            query.conversation_id.as_ref().is_none_or(|conversation| *conversation == chat.conversation);
        if is_in { Ok(chat) } else { Err(Denied::Unknown) }
    });
    match found {
        Ok(chat) => answer(id, &chat),
        Err(denied) => {
            let unknown = reply::error(200, 4001, "chat does not exist");
            shared.deny(&denied, &shared.settings().wrong_conversation, unknown)
        }
    }
}

fn show(id: &str, chat: &Chat) -> Value {
    let status = match chat {
        Chat { is_cancelled: true, .. } => "canceled",
        Chat { polls: 0..=1, .. } => "in_progress",
        Chat { .. } => "completed",
    };
    with_status(id, chat, status)
}

fn with_status(id: &str, chat: &Chat, status: &str) -> Value {
    json!({
        "id": id,
        "conversation_id": chat.conversation,
        "bot_id": chat.bot,
        "last_error": { "code": 0, "msg": "" },
        "status": status,
        "usage": { "token_count": 0, "output_count": 0, "input_count": 0 },
    })
}

/// The bot says what it was told, so that callers can tell their own answer.
fn answer(id: &str, chat: &Chat) -> Value {
    json!({
        "id": id,
        "conversation_id": chat.conversation,
        "bot_id": chat.bot,
        "role": "assistant",
        "type": "answer",
        "content": format!("You said: {}", chat.question),
        "content_type": "text",
        "chat_id": id,
    })
}

/// The stream of a chat, one event a frame. No space after the colons, as in Coze's own.
fn events(id: &str, chat: &Chat) -> Response {
    let events = [
        ("conversation.chat.created", with_status(id, chat, "created")),
        ("conversation.chat.in_progress", with_status(id, chat, "in_progress")),
        ("conversation.message.delta", answer(id, chat)),
        ("conversation.message.completed", answer(id, chat)),
        ("conversation.chat.completed", with_status(id, chat, "completed")),
        ("done", json!("[DONE]")),
    ];
    let frames = events.map(|(event, data)| Ok::<_, Infallible>(format!("event:{event}\ndata:{data}\n\n")));
    reply::raw(200, "text/event-stream", Body::from_stream(stream::iter(frames)))
}
