//! How a token is asked for, in either [`RequestStyle`].

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Uri};
use http_body_util::Full;
use serde_json::{Map, Value};

use super::RequestStyle;

/// What proves who asks: an assertion, or a client's secret.
pub(crate) struct Proof<'p> {
    /// Its field in a form.
    pub(crate) name: &'static str,
    /// Visible ASCII, which whoever makes one has checked.
    pub(crate) secret: &'p str,
}

/// The request for a token. `url` was parsed before.
pub(crate) fn request(
    style: RequestStyle,
    url: &Uri,
    fields: &Map<String, Value>,
    proof: Option<Proof<'_>>,
) -> Request<Full<Bytes>> {
    let mut request = Request::post(url.clone()).header(ACCEPT, "application/json");
    let body = match style {
        RequestStyle::Form => {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            form(fields, proof)
        }
        RequestStyle::BearerJson => {
            request = request.header(CONTENT_TYPE, "application/json");
            if let Some(Proof { secret, .. }) = proof {
                let mut bearer = HeaderValue::try_from(format!("Bearer {secret}"))
                    .expect("visible ASCII is allowed in a header");
                bearer.set_sensitive(true);
                request = request.header(AUTHORIZATION, bearer);
            }
            serde_json::to_string(fields).expect("a map of JSON values is JSON")
        }
    };
    request.body(Full::from(body)).expect("the URL was parsed, and the headers are valid")
}

fn form(fields: &Map<String, Value>, proof: Option<Proof<'_>>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        match value {
            Value::String(text) => form.append_pair(name, text),
            other => form.append_pair(name, &other.to_string()),
        };
    }
    if let Some(Proof { name, secret }) = proof {
        form.append_pair(name, secret);
    }
    form.finish()
}
