//! Files: uploaded, and looked up by whoever uploaded them.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use axum::Extension;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{Multipart, Query, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::reply;
use super::server::Shared;
use super::world::{File, Holder};
use crate::hex::hex;

#[derive(Deserialize)]
pub(super) struct FileQuery {
    file_id: Option<String>,
}

/// Reads the part `file` to its end, piece by piece; keeps its length and digest, not its content.
pub(super) async fn upload(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    mut parts: Multipart,
) -> Response {
    let file = match read_file(&mut parts).await {
        Ok(Some(file)) => file,
        Ok(None) => return reply::error(200, 4000, "Request parameter error: no part `file`"),
        Err(_) => return reply::error(400, 4000, "Request parameter error: the upload broke off"),
    };
    match shared.authenticate(caller, "/v1/files/upload") {
        Ok(Holder { account, .. }) => {
            let shown = show(&file);
            let id = shared.world().create_file(&account, file);
            reply::success(with_id(shown, &id))
        }
        Err(refusal) => *refusal,
    }
}

async fn read_file(parts: &mut Multipart) -> Result<Option<File>, MultipartError> {
    while let Some(part) = parts.next_field().await? {
        if part.name() == Some("file") {
            return read_part(part).await.map(Some);
        }
    }
    Ok(None)
}

async fn read_part(mut part: Field<'_>) -> Result<File, MultipartError> {
    let name = part.file_name().unwrap_or("file").to_owned();
    let (mut bytes, mut digest) = (0, Context::new(&SHA256));
    while let Some(piece) = part.chunk().await? {
        bytes += piece.len() as u64;
        digest.update(&piece);
    }
    Ok(File { name, bytes, sha256: hex(digest.finish().as_ref()) })
}

pub(super) async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<FileQuery>,
) -> Response {
    let account = match shared.authenticate(caller, "/v1/files/retrieve") {
        Ok(holder) => holder.account,
        Err(refusal) => return *refusal,
    };
    let id = query.file_id.unwrap_or_default();
    let found = shared.world().file(&id, &account).map(show);
    match found {
        Ok(file) => reply::success(with_id(file, &id)),
        Err(denied) => {
            let unknown = reply::error(200, 4200, "Requested resource file_id does not exist.");
            shared.deny(&denied, &shared.settings().wrong_account, unknown)
        }
    }
}

/// `sha256` is the simulator's own, for tests.
fn show(file: &File) -> Value {
    json!({ "bytes": file.bytes, "file_name": file.name, "sha256": file.sha256 })
}

fn with_id(mut file: Value, id: &str) -> Value {
    file["id"] = json!(id);
    file
}
