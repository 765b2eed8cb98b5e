//! [`Exchange`]: one assertion out, one token back.

use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::grant::Terms;
use crate::credential::Credential;
use crate::provider::token_cache::TokenSource;
use crate::provider::token_endpoint::{NoToken, Proof, TokenEndpoint, request};
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
        let mut fields = self.terms.parameters.clone();
        fields.insert("grant_type".into(), GRANT_TYPE.into());
        let proof = Proof { name: "assertion", secret: &assertion };
        Ok(request(self.terms.style, &self.terms.token_url, &fields, Some(proof)))
    }
}

impl<S: HttpClient> TokenSource for Exchange<S> {
    async fn mint(&self) -> Result<Credential, CredentialError> {
        let ready = self.endpoint.ready().await.map_err(NoToken::into_error)?;
        let reply = ready.send(|now| self.request(now)).await.map_err(NoToken::into_error)?;
        self.endpoint.token(&reply, self.terms.expires_in)
    }
}
