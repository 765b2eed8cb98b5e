//! [`TokenEndpoint`]: one request to an identity server, and what it says.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, StatusCode, response};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};

mod answer;
mod dialect;
mod expiry;
mod http_client;
mod refusal;
mod request;
mod skew;
pub(crate) mod text;
mod url;

pub(crate) use answer::Answer;
pub use dialect::{ExpiresIn, RequestStyle};
pub use http_client::HttpClient;
pub(crate) use refusal::Refusal;
pub(crate) use request::{Proof, request};
use skew::Skew;
#[cfg(feature = "oauth")]
pub(crate) use url::check_redirect_uri;
pub(crate) use url::{check_url, shown};

use crate::credential::Credential;
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
    /// The server has granted what was asked for, and its answer cannot be read: what was sent is spent.
    Unreadable(CredentialError),
}

impl NoToken {
    pub(crate) fn into_error(self) -> CredentialError {
        match self {
            Self::NotSent(error) | Self::Unclear(error) | Self::Unreadable(error) => error,
            Self::Refused(refusal) => refusal.error,
        }
    }
}

/// An answer of 2xx that is no refusal, whatever else is in it.
pub(crate) struct Reply {
    pub(crate) head: response::Parts,
    pub(crate) body: Bytes,
    /// When the request was sent, by our clock.
    pub(crate) sent: SystemTime,
}

/// A client that has said that it is ready for one request.
pub(crate) struct Ready<'e, S> {
    endpoint: &'e TokenEndpoint<S>,
    http: S,
}

impl<S: HttpClient> TokenEndpoint<S> {
    pub(crate) fn new(http: S, clock: Arc<dyn Clock>) -> Self {
        Self { http: Mutex::new(http), clock, skew: Skew::default() }
    }

    /// Waits until the client can send.
    pub(crate) async fn ready(&self) -> Result<Ready<'_, S>, NoToken> {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner).clone();
        poll_fn(|cx| http.poll_ready(cx)).await.map_err(|error| NoToken::NotSent(unreachable(error)))?;
        Ok(Ready { endpoint: self, http })
    }

    /// The token in an answer, which has to say when it ends.
    #[cfg_attr(not(feature = "jwt"), expect(dead_code, reason = "users' tokens are read part by part"))]
    pub(crate) fn token(&self, reply: &Reply, expires_in: ExpiresIn) -> Result<Credential, CredentialError> {
        let answer = self.read(reply, expires_in)?;
        let credential = Credential::bearer(answer.access_token?)
            .map_err(|error| CredentialError::new("the token is none").with_source(error))?;
        match answer.ends? {
            Some(at) => Ok(credential.with_expiry(at)),
            None if expires_in == ExpiresIn::Ignored => Ok(credential),
            None => Err(answer::missing("expires_in")),
        }
    }

    /// What is in an answer, each part for itself.
    pub(crate) fn read(&self, reply: &Reply, expires_in: ExpiresIn) -> Result<Answer, CredentialError> {
        Answer::read(reply, expires_in, &self.skew)
    }

    /// By how many milliseconds the server's clock is ahead of ours, as far as that is known.
    #[cfg_attr(not(feature = "oauth"), expect(dead_code, reason = "only stores are shared between clocks"))]
    pub(crate) fn server_ahead_by(&self) -> i64 {
        self.skew.milliseconds()
    }
}

impl<S: HttpClient> Ready<'_, S> {
    /// Sends the request that `request` makes of the time by the server's clock.
    ///
    /// Readiness came first: the wait for a free connection must not make the request old.
    pub(crate) async fn send(
        self,
        request: impl FnOnce(SystemTime) -> Result<Request<Full<Bytes>>, CredentialError>,
    ) -> Result<Reply, NoToken> {
        let Self { endpoint: TokenEndpoint { clock, skew, .. }, mut http } = self;
        let sent = clock.now();
        let request = request(skew.to_server(sent)).map_err(NoToken::NotSent)?;
        let response = http.call(request).await.map_err(|error| {
            let error: BoxError = error.into();
            let is_sent = !is_refused_connection(&*error);
            let error = unreachable(error);
            if is_sent { NoToken::Unclear(error) } else { NoToken::NotSent(error) }
        })?;
        let (head, body) = response.into_parts();
        let now = clock.now();
        skew.learn(&head.headers, now);
        if head.status.is_redirection() {
            return Err(NoToken::Unclear(refusal::redirect(head.status)));
        }
        let body = read(body).await;
        if head.status.is_success() {
            let body = body.map_err(NoToken::Unreadable)?;
            match refusal::within_success(&head, &body) {
                Some(refusal) => Err(NoToken::Refused(refusal)),
                None => Ok(Reply { head, body, sent }),
            }
        } else {
            // A body that cannot be read must not hide the status.
            let refusal = refusal::refusal(&head, &body.unwrap_or_default(), skew, now);
            Err(if is_about_the_request(head.status) {
                NoToken::Refused(refusal)
            } else {
                NoToken::Unclear(refusal.error)
            })
        }
    }
}

/// Too busy, too slow, or broken: that says nothing of what was asked.
fn is_about_the_request(status: StatusCode) -> bool {
    let is_busy =
        matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    status.is_client_error() && !is_busy
}

/// Whether there was no connection to send anything on: the one failure that says so whatever the client is. Only
/// `connect` fails like this.
fn is_refused_connection(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                return true;
            }
            // Its `source` leaves out the error in it.
            if let Some(inner) = error.get_ref() {
                cause = Some(inner);
                continue;
            }
        }
        cause = error.source();
    }
    false
}

fn unreachable(error: impl Into<BoxError>) -> CredentialError {
    CredentialError::new("the token endpoint could not be reached").with_source(error)
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
