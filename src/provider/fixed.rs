//! A [`Credential`] that always gives itself: a personal access token, an API key.

use http::request;

use super::{AuthProvider, CredentialFuture};
use crate::credential::Credential;

impl AuthProvider for Credential {
    fn credential(&self, _request: &request::Parts) -> CredentialFuture {
        CredentialFuture::ready(Ok(self.clone()))
    }

    fn fixed(&self) -> Option<&Credential> {
        Some(self)
    }
}
