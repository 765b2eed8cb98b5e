//! Bots, conversations, workspaces and workflows.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::Uri;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::reply;
use super::server::Shared;
use super::world::{Holder, ResourceKind};

#[derive(Deserialize)]
pub(super) struct BotQuery {
    pub(super) bot_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ConversationQuery {
    conversation_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct PageQuery {
    page_num: Option<usize>,
    page_size: Option<usize>,
    enterprise_id: Option<String>,
}

pub(super) async fn bot(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    show_bot(&shared, caller, &id)
}

pub(super) async fn online_bot(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<BotQuery>,
) -> Response {
    show_bot(&shared, caller, query.bot_id.as_deref().unwrap_or_default())
}

fn show_bot(shared: &Shared, caller: Caller, id: &str) -> Response {
    let used = use_resource(shared, caller, "/v1/bots", ResourceKind::Bot, id);
    let shown = used.map(|()| {
        reply::success(json!({
            "bot_id": id,
            "name": "bot",
            "description": "",
            "icon_url": "",
            "prompt_info": { "prompt": "" },
            "onboarding_info": { "prologue": "", "suggested_questions": [] },
            "bot_mode": 0,
            "plugin_info_list": [],
            "model_info": { "model_id": "1", "model_name": "echo" },
        }))
    });
    shown.unwrap_or_else(|refusal| *refusal)
}

/// Whether the caller may use this bot or workflow.
fn use_resource(
    shared: &Shared,
    caller: Caller,
    path: &str,
    kind: ResourceKind,
    id: &str,
) -> Result<(), Box<Response>> {
    let holder = shared.authenticate(caller, path)?;
    let used = shared.world().use_resource(kind, id, &holder);
    used.map_err(|denied| {
        let unknown = reply::error(200, 4200, "Requested resource does not exist.");
        Box::new(shared.deny(&denied, &shared.settings().wrong_account, unknown))
    })
}

pub(super) async fn create_conversation(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    match shared.authenticate(caller, "/v1/conversation/create") {
        Ok(Holder { account, .. }) => {
            let id = shared.world().create_conversation(&account);
            reply::success(json!({ "id": id, "creator_id": account.as_str(), "meta_data": {} }))
        }
        Err(refusal) => *refusal,
    }
}

pub(super) async fn conversation(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ConversationQuery>,
) -> Response {
    let account = match shared.authenticate(caller, "/v1/conversation/retrieve") {
        Ok(holder) => holder.account,
        Err(refusal) => return *refusal,
    };
    let id = query.conversation_id.unwrap_or_default();
    let used = shared.world().use_conversation(&id, &account);
    match used {
        Ok(()) => reply::success(json!({ "id": id, "creator_id": account.as_str(), "meta_data": {} })),
        Err(denied) => {
            let unknown = reply::error(200, 4002, "conversation does not exist");
            shared.deny(&denied, &shared.settings().wrong_conversation, unknown)
        }
    }
}

/// What an account sees is its own: a list is never refused to a valid token.
pub(super) async fn workspaces(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<PageQuery>,
) -> Response {
    let holder = match shared.authenticate(caller, "/v1/workspaces") {
        Ok(holder) => holder,
        Err(refusal) => return *refusal,
    };
    let mut owned = shared.world().workspaces_of(&holder);
    if query.enterprise_id.is_some_and(|enterprise| enterprise != holder.account.as_str()) {
        owned.clear();
    }
    let size = query.page_size.unwrap_or(20).clamp(1, 50);
    let skipped = query.page_num.unwrap_or(1).max(1).saturating_sub(1).saturating_mul(size);
    let page: Vec<Value> = owned
        .iter()
        .skip(skipped)
        .take(size)
        .map(|id| json!({ "id": id, "name": "workspace", "icon_url": "", "role_type": "member", "workspace_type": "team" }))
        .collect();
    reply::success(json!({ "workspaces": page, "total_count": owned.len() }))
}

#[derive(Deserialize)]
struct Run {
    workflow_id: String,
    #[serde(default)]
    parameters: Value,
}

pub(super) async fn run_workflow(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let Ok(run) = serde_json::from_slice::<Run>(&body) else {
        return reply::error(200, 4000, "Request parameter error");
    };
    if let Err(refusal) =
        use_resource(&shared, caller, "/v1/workflow", ResourceKind::Workflow, &run.workflow_id)
    {
        return *refusal;
    }
    // The output is JSON written into a string.
    let output = json!({ "output": run.parameters }).to_string();
    if !uri.path().ends_with("stream_run") {
        return reply::success_with(
            &json!({ "data": output, "debug_url": "", "usage": { "token_count": 0 } }),
        );
    }
    let frames = [("Message", json!({ "content": output, "node_is_finish": true })), ("Done", json!({}))];
    let frames = frames.into_iter().enumerate().map(|(id, (event, data))| {
        Ok::<_, Infallible>(format!("id: {id}\nevent: {event}\ndata: {data}\n\n"))
    });
    let frames: Vec<_> = frames.collect();
    reply::raw(200, "text/event-stream", Body::from_stream(stream::iter(frames)))
}
