//! [`FallbackMiddleware`]: the layer in a stack of reqwest-middleware.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use ::reqwest::{Body, Request, Response};
use async_trait::async_trait;
use http::Extensions;
use reqwest_middleware::{Error, Middleware, Next, Result};
use tower_service::Service;

use super::ReqwestService;
use crate::error::BoxError;
use crate::layer::{CredentialFallbackLayer, Shared};
use crate::provider::AuthProvider;
use crate::service::CredentialFallback;

/// A [`CredentialFallbackLayer`] as a middleware.
///
/// Behind it, the chain is run once for each attempt, with the extensions as they were before the first;
/// after the call, the caller's extensions are those of the last attempt. Extensions of the request builder
/// (`with_extension`) reach the providers, and among them is [`CredentialChoice`](crate::CredentialChoice).
///
/// A retry middleware before it repeats the whole call, and behind it each attempt by itself.
///
/// # Errors
///
/// Those of the chain, unchanged; [`crate::Error`], as `reqwest_middleware::Error::Middleware`, where no request
/// could be sent.
///
/// # Cancel safety
///
/// As [`ResponseFuture`](crate::ResponseFuture).
pub struct FallbackMiddleware<P, E> {
    shared: Arc<Shared<P, E>>,
}

impl<P, E> FallbackMiddleware<P, E> {
    /// A middleware with the layer's settings and memory.
    pub fn new(layer: CredentialFallbackLayer<P, E>) -> Self {
        Self { shared: layer.shared() }
    }
}

#[async_trait]
impl<P, E> Middleware for FallbackMiddleware<P, E>
where
    P: AuthProvider + 'static,
    E: AuthProvider + 'static,
{
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let mut request = http::Request::<Body>::try_from(request)?;
        request.extensions_mut().extend(extensions.clone());

        let chain = Chain { next, before: extensions.clone(), after: Arc::default() };
        let after = Arc::clone(&chain.after);
        let service = CredentialFallback::new(ReqwestService::new(chain), Arc::clone(&self.shared));
        let answer = send(service, request).await;
        if let Some(after) = after.lock().unwrap_or_else(PoisonError::into_inner).take() {
            *extensions = after;
        }
        answer.map(Response::from).map_err(into_chain_error)
    }
}

async fn send<S: Service<R>, R>(mut service: S, request: R) -> std::result::Result<S::Response, S::Error> {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await
}

/// An error of the chain comes back as it was.
fn into_chain_error(error: BoxError) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    let error = match error.downcast::<::reqwest::Error>() {
        Ok(error) => return Error::Reqwest(*error),
        Err(error) => error,
    };
    match error.downcast::<crate::Error>() {
        Ok(error) => Error::middleware(*error),
        Err(error) => Error::middleware(io::Error::other(error)),
    }
}

/// The rest of the stack. Each clone of it runs the same.
#[derive(Clone)]
struct Chain<'a> {
    next: Next<'a>,
    before: Extensions,
    /// Left by the attempt that ended last.
    after: Arc<Mutex<Option<Extensions>>>,
}

impl<'a> Service<Request> for Chain<'a> {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response>> + Send + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { next, before: mut extensions, after } = self.clone();
        Box::pin(async move {
            let answer = next.run(request, &mut extensions).await;
            *after.lock().unwrap_or_else(PoisonError::into_inner) = Some(extensions);
            answer
        })
    }
}

impl<P, E> Clone for FallbackMiddleware<P, E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<P: fmt::Debug, E: fmt::Debug> fmt::Debug for FallbackMiddleware<P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackMiddleware").field("shared", &self.shared).finish()
    }
}
