//! [`TokenEndpoint`]: one request to an identity server, and what it says.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, StatusCode, response};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};

mod answer;
mod dialect;
mod http_client;
mod skew;
pub(crate) mod text;
mod url;

pub(crate) use answer::{Refusal, Token};
pub use dialect::{ExpiresIn, RequestStyle};
pub use http_client::HttpClient;
use skew::Skew;
pub(crate) use url::{check_url, shown};

use crate::error::BoxError;
use crate::provider::{Clock, CredentialError};

/// The longest answer that is read. Tokens are a few kilobytes; an answer beyond this is no token.
const MAX_ANSWER: usize = 64 * 1024;

/// A token endpoint, reached through a client, and its clock.
pub(crate) struct TokenEndpoint<S> {
    /// Locked only to clone it: clients need not be `Sync`.
    http: Mutex<S>,
    clock: Arc<dyn Clock>,
    skew: Skew,
}

/// Why there is no token.
pub(crate) enum NoToken {
    /// The request was not sent.
    NotSent(CredentialError),
    /// The server refused.
    Refused(Refusal),
    /// It was sent; what the server made of it is not known.
    Unclear(CredentialError),
}

impl NoToken {
    pub(crate) fn into_error(self) -> CredentialError {
        match self {
            Self::NotSent(error) | Self::Unclear(error) => error,
            Self::Refused(refusal) => refusal.error,
        }
    }
}

/// An answer of 2xx, whatever is in it.
pub(crate) struct Reply {
    pub(crate) head: response::Parts,
    pub(crate) body: Bytes,
    /// When the request was sent, by our clock.
    pub(crate) sent: SystemTime,
}

impl<S: HttpClient> TokenEndpoint<S> {
    pub(crate) fn new(http: S, clock: Arc<dyn Clock>) -> Self {
        Self { http: Mutex::new(http), clock, skew: Skew::default() }
    }

    /// Sends the request that `request` makes of the time by the server's clock.
    pub(crate) async fn send(
        &self,
        request: impl FnOnce(SystemTime) -> Result<Request<Full<Bytes>>, CredentialError>,
    ) -> Result<Reply, NoToken> {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unreachable = |error: S::Error| {
            CredentialError::new("the token endpoint could not be reached").with_source(error)
        };
        // Readiness first: the wait for a free connection must not make the request old.
        poll_fn(|cx| http.poll_ready(cx)).await.map_err(|error| NoToken::NotSent(unreachable(error)))?;
        let sent = self.clock.now();
        let request = request(self.skew.to_server(sent)).map_err(NoToken::NotSent)?;
        let response = http.call(request).await.map_err(|error| NoToken::Unclear(unreachable(error)))?;
        let (head, body) = response.into_parts();
        let now = self.clock.now();
        self.skew.learn(&head.headers, now);
        if head.status.is_redirection() {
            return Err(NoToken::Unclear(answer::redirect(head.status)));
        }
        let body = read(body).await;
        if head.status.is_success() {
            Ok(Reply { head, body: body.map_err(NoToken::Unclear)?, sent })
        } else {
            // A body that cannot be read must not hide the status.
            let refusal = answer::refusal(&head, &body.unwrap_or_default(), &self.skew, now);
            // Too busy, or broken: that says nothing of what was asked.
            let is_about_it = head.status.is_client_error() && head.status != StatusCode::TOO_MANY_REQUESTS;
            Err(if is_about_it { NoToken::Refused(refusal) } else { NoToken::Unclear(refusal.error) })
        }
    }

    /// The token in an answer.
    pub(crate) fn token(&self, reply: &Reply, expires_in: ExpiresIn) -> Result<Token, CredentialError> {
        answer::token(&reply.head, &reply.body, expires_in, reply.sent, &self.skew)
    }
}

async fn read(body: impl Body<Error: Into<BoxError>>) -> Result<Bytes, CredentialError> {
    match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(CredentialError::new(format!(
            "the token endpoint's answer is longer than {} KiB",
            MAX_ANSWER / 1024
        ))),
        Err(error) => Err(CredentialError::new("the token endpoint's answer broke off").with_source(error)),
    }
}
