//! An inner service whose answers the test writes, and a log of preferences in memory.
#![allow(dead_code)] // No test uses all of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use tower_credential_fallback::{
    BoxError, Credential, CredentialFallbackLayer, Learnt, LogFuture, PreferenceLog,
};

/// One request, as the service got it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Counted from 0.
    pub(crate) nth: usize,
    /// The bearer token.
    pub(crate) token: String,
    pub(crate) uri: Uri,
}

impl Asked {
    pub(crate) fn is_new(&self) -> bool {
        self.token == "new"
    }
}

pub(crate) type Answered = Result<Response<Full<Bytes>>, BoxError>;

/// Answers by the script, and notes who asked.
#[derive(Clone)]
pub(crate) struct Script {
    answer: Arc<dyn Fn(Asked) -> BoxFuture<'static, Answered> + Send + Sync>,
    asked: Arc<Mutex<Vec<Asked>>>,
    told: Arc<AtomicUsize>,
}

impl Script {
    pub(crate) fn new<F: Future<Output = Answered> + Send + 'static>(
        answer: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            answer: Arc::new(move |asked| Box::pin(answer(asked))),
            asked: Arc::default(),
            told: Arc::default(),
        }
    }

    /// Answers with these statuses.
    pub(crate) fn statuses(status: impl Fn(&Asked) -> u16 + Send + Sync + 'static) -> Self {
        Self::new(move |asked| {
            let status = status(&asked);
            async move { Ok(answer(status, "")) }
        })
    }

    /// The tokens of the requests since this was last asked.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .skip(self.told.swap(asked.len(), Ordering::SeqCst))
            .map(|asked| asked.token.clone())
            .collect()
    }
}

impl<B> tower::Service<Request<B>> for Script
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Answered>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let token =
                head.headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
            let asked = {
                let mut all = this.asked.lock().unwrap();
                let nth = all.len();
                all.push(Asked { nth, token, uri: head.uri });
                all.last().unwrap().clone()
            };
            body.collect().await.map_err(Into::into)?;
            (this.answer)(asked).await
        })
    }
}

pub(crate) fn answer(status: u16, body: &'static str) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::from(body)).unwrap()
}

pub(crate) fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

pub(crate) fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), Credential::bearer("new").unwrap())
        .unwrap()
}

/// A log in memory.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Arc<Mutex<Vec<Learnt>>>);

impl PreferenceLog for Log {
    fn seed(&self, _: u64) -> LogFuture<'_, u64> {
        Box::pin(async { Ok(7) })
    }

    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
        self.0.lock().unwrap().extend_from_slice(learnt);
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, after: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
        let all = self.0.lock().unwrap().clone();
        let from = after.map_or(0, |after| after.parse().unwrap());
        let next = (from < all.len()).then(|| all.len().to_string());
        Box::pin(async move { Ok((all[from..].to_vec(), next)) })
    }
}
