//! After a panic of foreign code, the call is counted once, its observers are told the end once, and the next call works.
//! Nothing panics on a runtime without a timer.
#![cfg(feature = "json")]

#[path = "support/script.rs"]
mod script;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use http::{Method, Request, Response, Uri, request, response};
use http_body_util::{BodyExt, Full, StreamBody};
use script::{Script, get, layer};
use tower::{Layer, Service, ServiceExt};
use tower_credential_fallback::observe::{CallEvent, Ending, Observe, ObserveCall};
use tower_credential_fallback::{
    AuthProvider, BodyPrefix, BoxError, Classify, Credential, CredentialFallbackLayer, CredentialFuture,
    Decision, JsonCodeClassifier, LeftBehind, Outcome, Rejection, RejectionKind, ReplayBody, ResourceKey,
    Slot, Verdict, provider_fn,
};

const URI: &str = "https://api.example/v1/things/7";

/// The code that panics in the first call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Culprit {
    InnerCall,
    InnerFuture,
    SecondInnerCall,
    SecondInnerFuture,
    InnerBody,
    Provider,
    ProviderFuture,
    SecondProvider,
    OnRejected,
    ClassifierHead,
    ClassifierBody,
    ClassifierPatience,
    ResourceKey,
    LeftBehind,
    ObserverCall,
    ObserverAttempt,
    ObserverRejected,
    ObserverAccepted,
    ObserverEnd,
    ObserverEnter,
}

const ALL: [Culprit; 20] = [
    Culprit::InnerCall,
    Culprit::InnerFuture,
    Culprit::SecondInnerCall,
    Culprit::SecondInnerFuture,
    Culprit::InnerBody,
    Culprit::Provider,
    Culprit::ProviderFuture,
    Culprit::SecondProvider,
    Culprit::OnRejected,
    Culprit::ClassifierHead,
    Culprit::ClassifierBody,
    Culprit::ClassifierPatience,
    Culprit::ResourceKey,
    Culprit::LeftBehind,
    Culprit::ObserverCall,
    Culprit::ObserverAttempt,
    Culprit::ObserverRejected,
    Culprit::ObserverAccepted,
    Culprit::ObserverEnd,
    Culprit::ObserverEnter,
];

/// Plays every part. It panics once, where the culprit would.
#[derive(Clone)]
struct Everybody {
    culprit: Culprit,
    panics: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Everybody {
    fn new(culprit: Culprit) -> Self {
        Self { culprit, panics: Arc::default(), requests: Arc::default() }
    }

    fn may_panic(&self, part: Culprit) {
        if part == self.culprit && self.panics.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("{part:?} panics");
        }
    }
}

impl Service<Request<ReplayBody<Full<Bytes>>>> for Everybody {
    type Response = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody<Full<Bytes>>>) -> Self::Future {
        let this = self.clone();
        let is_second = self.requests.fetch_add(1, Ordering::SeqCst) == 1;
        this.may_panic(if is_second { Culprit::SecondInnerCall } else { Culprit::InnerCall });
        Box::pin(async move {
            this.may_panic(if is_second { Culprit::SecondInnerFuture } else { Culprit::InnerFuture });
            let status = if request.headers()["authorization"] == "Bearer new" { 200 } else { 401 };
            let body = StreamBody::new(futures::stream::iter([0, 1]).then(move |nth| {
                let this = this.clone();
                async move {
                    if nth == 1 {
                        this.may_panic(Culprit::InnerBody);
                        tokio::task::yield_now().await;
                    }
                    Ok(http_body::Frame::data(Bytes::from("{ ")))
                }
            }));
            Ok(Response::builder().status(status).body(body.boxed_unsync()).unwrap())
        })
    }
}

impl AuthProvider for Everybody {
    fn credential(&self, _: &request::Parts) -> CredentialFuture {
        self.may_panic(Culprit::Provider);
        let this = self.clone();
        CredentialFuture::boxed(async move {
            this.may_panic(Culprit::ProviderFuture);
            Ok(Credential::bearer("old").unwrap())
        })
    }

    fn rejected(&self, _: &Credential, _: &Rejection) {
        self.may_panic(Culprit::OnRejected);
    }
}

impl Classify for Everybody {
    fn head(&self, _: &response::Parts) -> Decision {
        self.may_panic(Culprit::ClassifierHead);
        Decision::Inspect
    }

    fn body(&self, head: &response::Parts, prefix: BodyPrefix<'_>) -> Decision {
        self.may_panic(Culprit::ClassifierBody);
        match head.status.as_u16() {
            _ if !prefix.is_last() => Decision::Inspect,
            200 => Decision::Accept,
            _ => Decision::Reject(Rejection::new(RejectionKind::Unauthenticated, head.status)),
        }
    }

    fn patience(&self) -> Duration {
        self.may_panic(Culprit::ClassifierPatience);
        Duration::from_secs(1)
    }
}

impl ResourceKey for Everybody {
    fn resource<'r>(&self, head: &'r request::Parts, _: &'r [u8]) -> Option<&'r str> {
        self.may_panic(Culprit::ResourceKey);
        Some(head.uri.path())
    }
}

impl LeftBehind for Everybody {
    fn find<'r>(&self, _: &'r request::Parts, _: &'r [u8]) -> Option<&'r str> {
        self.may_panic(Culprit::LeftBehind);
        None
    }

    fn remove(&self, _: &mut request::Parts) {}
}

impl Observe for Everybody {
    fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
        self.may_panic(Culprit::ObserverCall);
        Box::new(self.clone())
    }
}

impl ObserveCall for Everybody {
    fn event(&mut self, event: &CallEvent<'_>) {
        match event {
            CallEvent::Attempt { .. } => self.may_panic(Culprit::ObserverAttempt),
            CallEvent::Answered { verdict: Verdict::Accepted, .. } => {
                self.may_panic(Culprit::ObserverAccepted)
            }
            CallEvent::Answered { .. } => self.may_panic(Culprit::ObserverRejected),
            CallEvent::End { .. } => self.may_panic(Culprit::ObserverEnd),
            _ => {}
        }
    }

    fn enter(&mut self, inner: &mut dyn FnMut()) {
        self.may_panic(Culprit::ObserverEnter);
        inner();
    }
}

/// Notes how calls ended.
#[derive(Clone, Default)]
struct Endings(Arc<Mutex<Vec<Option<Ending>>>>);

impl Observe for Endings {
    fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
        self.0.lock().unwrap().push(None);
        Box::new(self.clone())
    }
}

impl ObserveCall for Endings {
    fn event(&mut self, event: &CallEvent<'_>) {
        if let CallEvent::End { ending, .. } = event {
            let mut endings = self.0.lock().unwrap();
            let last = endings.last_mut().unwrap();
            assert_eq!(last.replace(*ending), None, "the end is told once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_panics_the_call_is_counted_once_and_the_next_one_works() {
    for culprit in ALL {
        let everybody = Everybody::new(culprit);
        let endings = [Endings::default(), Endings::default()];
        let second = everybody.clone();
        let fallback = provider_fn(move |_: &request::Parts| {
            second.may_panic(Culprit::SecondProvider);
            std::future::ready(Ok(Credential::bearer("new").unwrap()))
        });
        let layer = CredentialFallbackLayer::new(everybody.clone(), fallback)
            .unwrap()
            .with_classifier(everybody.clone())
            .with_resource_key(everybody.clone())
            .with_left_behind(everybody.clone())
            .with_observer(endings[0].clone())
            .with_observer(everybody.clone())
            .with_observer(endings[1].clone());
        let (mut service, handle) = (layer.layer(everybody.clone()), layer.handle());

        let call = AssertUnwindSafe(async {
            service.ready().await.unwrap();
            service.call(get(URI)).await.map(drop)
        });
        assert!(call.catch_unwind().await.is_err(), "{culprit:?}");
        let report = handle.report();
        let ended = report.since_start();
        // Its answer was counted before the panic, so that it is not counted again.
        let is_answered = matches!(culprit, Culprit::ObserverAccepted | Culprit::ObserverEnd);
        let counted = (ended.by_fallback, report.failed);
        assert_eq!(counted, (u64::from(is_answered), u64::from(!is_answered)), "{culprit:?}");
        assert_eq!((ended.calls(), report.abandoned, report.refused), (1, 0, 0), "{culprit:?}");
        let sent = everybody.requests.load(Ordering::SeqCst) as u64;
        // An attempt is counted as it is handed to the inner service: an observer may have kept it from that.
        let was_kept = matches!(culprit, Culprit::ObserverAttempt | Culprit::ObserverEnter);
        let attempts = report.primary.attempts() + report.fallback.attempts();
        assert_eq!(attempts, sent + u64::from(was_kept), "{culprit:?}");
        let expected =
            if culprit == Culprit::ObserverEnd { Ending::Accepted(Slot::Fallback) } else { Ending::Failed };
        let told = |nth: usize| endings[nth].0.lock().unwrap().clone();
        assert_eq!(told(0), [Some(expected)], "{culprit:?}");
        // The second had not begun when the one before it panicked.
        assert_eq!(
            told(1),
            vec![Some(expected); usize::from(culprit != Culprit::ObserverCall)],
            "{culprit:?}"
        );

        let response = service.ready().await.unwrap().call(get(URI)).await.unwrap();
        assert_eq!(Outcome::of(&response).served_by(), Some(Slot::Fallback), "{culprit:?}");
        assert_eq!(handle.report().since_start().calls(), 2, "{culprit:?}");
        assert_eq!(told(1).last(), Some(&Some(Ending::Accepted(Slot::Fallback))), "{culprit:?}");
    }
}

/// Rejects the old credential, in a body that begins and does not end.
fn stalling() -> impl Service<
    Request<ReplayBody<Full<Bytes>>>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin + Send>,
    Error = BoxError,
    Future: Send,
> + Clone {
    tower::service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async move {
        let is_new = request.headers()["authorization"] == "Bearer new";
        let (status, text) = if is_new { (200, r#"{"code":0,"#) } else { (401, r#"{"msg":"#) };
        let first = futures::stream::iter([Ok(http_body::Frame::data(Bytes::from(text)))]);
        let body = StreamBody::new(Box::pin(first.chain(futures::stream::pending())));
        let head = Response::builder().status(status).header("content-type", "application/json");
        Ok::<_, BoxError>(head.header("content-length", 500).body(body).unwrap())
    })
}

#[test]
fn without_a_timer_an_answer_is_judged_by_what_is_there() {
    let call = || {
        let layer = layer().with_classifier(JsonCodeClassifier::new("code"));
        async move { layer.layer(stalling()).oneshot(get(URI)).await.unwrap() }
    };
    let served = |response: Response<_>| Outcome::of(&response).served_by();
    // Twice: what is known of the runtime is kept.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..2 {
        assert_eq!(served(runtime.block_on(call())), Some(Slot::Fallback), "tokio without its timer");
    }
    assert_eq!(served(futures::executor::block_on(call())), Some(Slot::Fallback), "another executor");
    let with_timer =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    assert_eq!(served(with_timer.block_on(call())), Some(Slot::Fallback), "tokio");
}

#[tokio::test(start_paused = true)]
async fn patience_bounds_the_wait_for_a_rejection_of_announced_length() {
    let started = tokio::time::Instant::now();
    let layer = layer().with_classifier(JsonCodeClassifier::new("code"));
    let response = layer.layer(stalling()).oneshot(get(URI)).await.unwrap();
    assert_eq!(Outcome::of(&response).served_by(), Some(Slot::Fallback));
    // The classifier's patience, then the drain's.
    assert_eq!(started.elapsed().as_millis(), 1_100);
}

#[tokio::test]
async fn a_panic_of_the_callers_own_abandons_the_call() {
    let layer = layer();
    let (client, handle) = (layer.layer(Script::new(|_| std::future::pending())), layer.handle());
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let mut call = Box::pin(client.oneshot(get(URI)));
        assert!((&mut call).now_or_never().is_none());
        panic!("of the caller's making");
    }));
    assert!(unwound.is_err());
    let report = handle.report();
    assert_eq!((report.abandoned, report.failed, report.primary.attempts()), (1, 0, 1));
}

#[tokio::test]
async fn a_panic_that_is_caught_around_the_future_is_a_failed_call() {
    let everybody = Everybody::new(Culprit::InnerFuture);
    let layer = CredentialFallbackLayer::new(everybody.clone(), Credential::bearer("new").unwrap()).unwrap();
    let (mut service, handle) = (layer.layer(everybody), layer.handle());
    let mut call = Box::pin(service.ready().await.unwrap().call(get(URI)));
    let caught = AssertUnwindSafe(&mut call).catch_unwind().await;
    assert!(caught.is_err());
    drop(call);
    assert_eq!((handle.report().failed, handle.report().abandoned), (1, 0));
}

#[tokio::test]
async fn an_observer_that_panics_at_the_end_of_a_dropped_call_panics_nowhere() {
    let everybody = Everybody::new(Culprit::ObserverEnd);
    let endings = Endings::default();
    let layer = layer().with_observer(everybody.clone()).with_observer(endings.clone());
    let client = layer.layer(Script::new(|_| std::future::pending()));
    assert!(client.oneshot(get(URI)).now_or_never().is_none());
    assert_eq!(everybody.panics.load(Ordering::SeqCst), 1);
    assert_eq!(*endings.0.lock().unwrap(), [Some(Ending::Abandoned)]);
}
