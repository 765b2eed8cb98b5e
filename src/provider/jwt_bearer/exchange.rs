//! [`Exchange`]: one assertion out, one token back.

use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http_body_util::Full;
use serde_json::Value;

use super::grant::Terms;
use crate::credential::Credential;
use crate::provider::token_cache::TokenSource;
use crate::provider::token_endpoint::{NoToken, RequestStyle, TokenEndpoint};
use crate::provider::{CredentialError, HttpClient};

/// [RFC 7523, 2.1](https://www.rfc-editor.org/rfc/rfc7523#section-2.1).
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

pub(super) struct Exchange<S> {
    endpoint: TokenEndpoint<S>,
    terms: Terms,
}

impl<S: HttpClient> Exchange<S> {
    pub(super) fn new(http: S, terms: Terms) -> Self {
        Self { endpoint: TokenEndpoint::new(http, terms.clock()), terms }
    }
}

impl<S> Exchange<S> {
    /// A request with an assertion that was never sent before, given the server's time.
    fn request(&self, now: SystemTime) -> Result<Request<Full<Bytes>>, CredentialError> {
        let assertion = self.terms.assertion.sign(now)?;
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

impl<S: HttpClient> TokenSource for Exchange<S> {
    async fn mint(&self) -> Result<Credential, CredentialError> {
        let reply = self.endpoint.send(|now| self.request(now)).await.map_err(NoToken::into_error)?;
        Ok(self.endpoint.token(&reply, self.terms.expires_in)?.credential)
    }
}
