//! [`Exchange`]: one assertion out, one token back.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use serde_json::Value;
use tower_service::Service;

use super::answer;
use super::grant::{RequestStyle, Terms};
use super::skew::Skew;
use crate::credential::Credential;
use crate::error::BoxError;
use crate::provider::CredentialError;
use crate::provider::token_cache::TokenSource;

/// [RFC 7523, 2.1](https://www.rfc-editor.org/rfc/rfc7523#section-2.1).
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The longest answer that is read. Tokens are a few kilobytes; an answer beyond this is no token.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) struct Exchange<S> {
    /// Locked only to clone it: clients need not be `Sync`.
    http: Mutex<S>,
    terms: Terms,
    skew: Skew,
}

impl<S> Exchange<S> {
    pub(super) fn new(http: S, terms: Terms) -> Self {
        Self { http: Mutex::new(http), terms, skew: Skew::default() }
    }

    /// A request with an assertion that was never sent before.
    fn request(&self, sent: SystemTime) -> Result<Request<Full<Bytes>>, CredentialError> {
        let assertion = self.terms.assertion.sign(self.skew.to_server(sent))?;
        let mut request = Request::post(self.terms.token_url.clone()).header(ACCEPT, "application/json");
        let body = match self.terms.style {
            RequestStyle::Form => {
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                self.form(&assertion)
            }
            RequestStyle::BearerJson => {
                let mut bearer = HeaderValue::try_from(format!("Bearer {assertion}"))
                    .expect("base64url and dots are allowed in a header");
                bearer.set_sensitive(true);
                request = request.header(CONTENT_TYPE, "application/json").header(AUTHORIZATION, bearer);
                self.json()
            }
        };
        Ok(request.body(Full::from(body)).expect("the URL was parsed when the provider was built"))
    }

    fn form(&self, assertion: &str) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", GRANT_TYPE).append_pair("assertion", assertion);
        for (name, value) in &self.terms.parameters {
            match value {
                Value::String(text) => form.append_pair(name, text),
                other => form.append_pair(name, &other.to_string()),
            };
        }
        form.finish()
    }

    fn json(&self) -> String {
        let mut body = self.terms.parameters.clone();
        body.insert("grant_type".into(), GRANT_TYPE.into());
        Value::Object(body).to_string()
    }
}

impl<S, B> TokenSource for Exchange<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    async fn mint(&self) -> Result<Credential, CredentialError> {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unreachable = |error: S::Error| {
            CredentialError::new("the token endpoint could not be reached").with_source(error)
        };
        // Readiness first: the wait for a free connection must not make the assertion old.
        poll_fn(|cx| http.poll_ready(cx)).await.map_err(unreachable)?;
        let sent = self.terms.clock.now();
        let request = self.request(sent)?;
        let response = http.call(request).await.map_err(unreachable)?;

        let (head, body) = response.into_parts();
        self.skew.learn(&head.headers, self.terms.clock.now());
        if head.status.is_redirection() {
            return Err(answer::redirect(head.status));
        }
        let body = read(body).await;
        if head.status.is_success() {
            answer::token(&head, &body?, self.terms.expires_in, sent, &self.skew)
        } else {
            // A body that cannot be read must not hide the status.
            Err(answer::refusal(&head, &body.unwrap_or_default(), &self.skew, self.terms.clock.now()))
        }
    }
}

async fn read<B>(body: B) -> Result<Bytes, CredentialError>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(CredentialError::new(format!(
            "the token endpoint's answer is longer than {} KiB",
            MAX_ANSWER / 1024
        ))),
        Err(error) => Err(CredentialError::new("the token endpoint's answer broke off").with_source(error)),
    }
}
