//! A chat over a WebSocket: the handshake, and the first event.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::auth::Caller;
use super::resources::BotQuery;
use super::server::Shared;
use super::world::{Denied, ResourceKind};
use super::{WebSocketRefusal, reply};

/// If the settings' refusal has none.
const NO_PERMISSION: i64 = 4101;

pub(super) async fn chat(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<BotQuery>,
    request: Request,
) -> Response {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        return reply::error(400, 4000, "Request parameter error: not a WebSocket's handshake");
    };
    match refusal(&shared, &caller, query.bot_id.as_deref().unwrap_or_default()) {
        None => accept(&shared, request, &key, event("chat.created", None)),
        Some(code) => match shared.settings().websocket_refusal {
            WebSocketRefusal::Handshake(status) => match shared.forced_refusal() {
                Some(forced) => reply::refusal(&forced),
                None => reply::error(status, code, reply::refusal_message(code)),
            },
            WebSocketRefusal::Event => accept(&shared, request, &key, event("error", Some(code))),
        },
    }
}

/// The code of the refusal, if there is one.
fn refusal(shared: &Shared, caller: &Caller, bot: &str) -> Option<i64> {
    let forced = shared.forced_refusal().and_then(|forced| forced.code);
    let Some(holder) = &caller.0 else { return forced.or(Some(4100)) };
    match shared.world().use_resource(ResourceKind::Bot, bot, holder) {
        Ok(()) => None,
        Err(Denied::Unknown) => Some(4200),
        Err(Denied::WrongAccount) => forced.or(shared.settings().wrong_account.code).or(Some(NO_PERMISSION)),
    }
}

fn event(kind: &str, refused: Option<i64>) -> Value {
    let mut event = json!({ "id": "event_1", "event_type": kind, "detail": { "logid": reply::log_id() } });
    if let Some(code) = refused {
        event["data"] = json!({ "code": code, "msg": reply::refusal_message(code) });
    }
    event
}

/// Switches protocols and sends the event. What the client sends is read, and not answered, until it closes.
fn accept(shared: &Shared, mut request: Request, key: &HeaderValue, event: Value) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    shared.keep(async move {
        let Ok(connection) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await;
        if socket.send(Message::text(event.to_string())).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    });
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    }
    response
}
