//! [`ReqwestService`]: reqwest's requests and responses as those of the `http` crate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::reqwest::{Body, ResponseBuilderExt};
use http::Uri;
use pin_project::pin_project;
use tower_service::Service;

use crate::body::ReplayBody;
use crate::error::BoxError;
use crate::origin::FinalUri;

/// A `reqwest::Client`, a `reqwest_middleware::ClientWithMiddleware`, or anything else that sends reqwest's
/// requests, as a service that [`CredentialFallbackLayer`](crate::CredentialFallbackLayer) wraps.
///
/// The answer keeps its URL: `reqwest::Response::from` brings it back. If it is another one than was asked, it is
/// also a [`FinalUri`].
///
/// # Errors
///
/// Those of the client, and of reqwest if the request is none that it can send.
#[derive(Clone)]
pub struct ReqwestService<C> {
    client: C,
}

impl<C> ReqwestService<C> {
    /// Wraps a client.
    pub fn new(client: C) -> Self {
        Self { client }
    }
}

impl<C> Service<http::Request<ReplayBody<Body>>> for ReqwestService<C>
where
    C: Service<::reqwest::Request, Response = ::reqwest::Response>,
    C::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.client.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<ReplayBody<Body>>) -> Self::Future {
        let asked = request.uri().clone();
        let is_empty = request.body().content().is_some_and(<[u8]>::is_empty);
        match ::reqwest::Request::try_from(request) {
            Ok(mut request) => {
                if is_empty {
                    *request.body_mut() = None;
                }
                ResponseFuture { asked, state: State::Sent(self.client.call(request)) }
            }
            Err(error) => ResponseFuture { asked, state: State::Unsendable(Some(error)) },
        }
    }
}

/// The future of [`ReqwestService`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F> {
    asked: Uri,
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Sent(#[pin] F),
    Unsendable(Option<::reqwest::Error>),
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<::reqwest::Response, E>>,
    E: Into<BoxError>,
{
    type Output = Result<http::Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProj::Sent(response) => {
                let response = ready!(response.poll(cx)).map_err(Into::into)?;
                Poll::Ready(Ok(into_http(response, this.asked)))
            }
            StateProj::Unsendable(error) => {
                Poll::Ready(Err(error.take().expect("`ResponseFuture` polled after it was ready").into()))
            }
        }
    }
}

/// The host in the URL that reqwest gives to a response which was made without one.
const NO_URL: &str = "no.url.provided.local";

fn into_http(response: ::reqwest::Response, asked: &Uri) -> http::Response<Body> {
    let mut url = response.url().clone();
    if url.host_str() == Some(NO_URL) {
        // A middleware has made it: it comes from where the request went, as far as anybody knows.
        if let Ok(asked) = ::reqwest::Url::parse(&asked.to_string()) {
            url = asked;
        }
    }
    // What reqwest was sent to, and so is a URI; only a client of one's own making could tell otherwise.
    let answered: Option<Uri> = url.as_str().parse().ok();
    let mut response = http::Response::<Body>::from(response);
    // reqwest's mark of the URL has no other way in.
    let marked = http::Response::builder().url(url).body(());
    if let Ok(marked) = marked {
        response.extensions_mut().extend(marked.into_parts().0.extensions);
    }
    if let Some(answered) = answered.filter(|answered| answered != asked) {
        response.extensions_mut().insert(FinalUri(answered));
    }
    response
}

impl<C: fmt::Debug> fmt::Debug for ReqwestService<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestService").field("client", &self.client).finish()
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
