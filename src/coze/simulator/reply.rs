//! Answers in Coze's form.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::Refusal;
use super::faults::status;
use crate::hex::hex;

/// The `code` of an answer, for the record.
#[derive(Clone, Copy)]
pub(super) struct Code(pub(super) i64);

/// `{"code":0,"msg":"","data":…}`.
pub(super) fn success(data: Value) -> Response {
    with_code(200, 0, &json!({ "data": data }), "")
}

/// A success with more beside `data`.
pub(super) fn success_with(fields: &Value) -> Response {
    with_code(200, 0, fields, "")
}

/// An error with this status, code and message.
pub(super) fn error(status: u16, code: i64, message: &str) -> Response {
    with_code(status, code, &Value::Null, message)
}

/// A refusal of the credential.
pub(super) fn refusal(refusal: &Refusal) -> Response {
    match refusal.code {
        Some(code) => error(refusal.status, code, refusal_message(code)),
        None => raw(refusal.status, "text/plain", "not allowed"),
    }
}

pub(super) fn refusal_message(code: i64) -> &'static str {
    match code {
        4100 => "authentication is invalid",
        4101 => {
            "The token has no permission for this resource. Check the resource and the token's permissions."
        }
        700_012_006 => "access token invalid",
        4200 => "Requested resource does not exist.",
        _ => "refused",
    }
}

/// A body of JSON that is not wrapped: what the token endpoints send.
pub(super) fn bare(status: u16, body: &Value) -> Response {
    raw(status, "application/json", body.to_string())
}

pub(super) fn raw(number: u16, content_type: &str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status(number);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// Coze's name of a request.
pub(super) fn log_id() -> String {
    hex(&super::world::random::<16>())
}

fn with_code(status: u16, code: i64, fields: &Value, message: &str) -> Response {
    let logid = log_id();
    let mut body = json!({ "code": code, "msg": message, "detail": { "logid": logid } });
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields.clone());
    }
    let mut response = bare(status, &body);
    if let Ok(value) = HeaderValue::from_str(&logid) {
        response.headers_mut().insert("x-tt-logid", value);
    }
    response.extensions_mut().insert(Code(code));
    response
}
