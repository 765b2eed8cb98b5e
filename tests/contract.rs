//! What the layer promises, case by case, over an inner service that the test scripts.

use std::future::{Ready, ready};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_credential_fallback::{
    AuthProvider, BodyPrefix, BoxError, Classify, Credential, CredentialChoice, CredentialError,
    CredentialFallbackLayer, CredentialFuture, Decision, Error, ErrorKind, FinalUri, NoReplay, Order,
    Outcome, PeekBody, Rejection, ReplayBody, Slot, provider_fn,
};

type Answer = Response<Full<Bytes>>;
type Seen = (http::request::Parts, Bytes);
type Script = dyn Fn(&http::request::Parts) -> Answer + Send + Sync;

/// Answers by a script and keeps what it was sent. Panics, as tower allows, when called unready.
struct Server {
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    clones: Arc<AtomicUsize>,
    is_ready: bool,
}

impl Clone for Server {
    /// A clone has yet to become ready.
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::SeqCst);
        let (script, seen, clones) =
            (Arc::clone(&self.script), Arc::clone(&self.seen), Arc::clone(&self.clones));
        Self { script, seen, clones, is_ready: false }
    }
}

impl Server {
    fn new(script: impl Fn(&http::request::Parts) -> Answer + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), seen: Arc::default(), clones: Arc::default(), is_ready: false }
    }

    /// Refuses this bearer token with 401, and takes any other.
    fn refusing(token: &'static str) -> Self {
        let refused = format!("Bearer {token}");
        Self::new(move |head| {
            let status = if head.headers[AUTHORIZATION] == *refused { 401 } else { 200 };
            answer(status, "hello")
        })
    }

    fn tokens(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(head, _)| bearer(&head.headers)).collect()
    }
}

impl<B> Service<Request<B>> for Server
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Debug,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(std::mem::replace(&mut self.is_ready, false), "called without having been polled ready");
        let (script, seen) = (Arc::clone(&self.script), Arc::clone(&self.seen));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let content = body.collect().await.unwrap().to_bytes();
            let answer = script(&head);
            seen.lock().unwrap().push((head, content));
            Ok(answer)
        })
    }
}

fn answer(status: u16, body: &'static str) -> Answer {
    Response::builder().status(status).body(Full::from(body)).unwrap()
}

fn bearer(headers: &HeaderMap) -> String {
    headers.get(AUTHORIZATION).map_or_else(
        || "none".to_owned(),
        |value| value.to_str().unwrap().trim_start_matches("Bearer ").to_owned(),
    )
}

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(token("old"), token("new")).unwrap()
}

fn token(text: &str) -> Credential {
    Credential::bearer(text).unwrap()
}

fn get(uri: &str) -> Request<Empty<Bytes>> {
    Request::get(uri).body(Empty::new()).unwrap()
}

const URI: &str = "https://api.example/v1/thing?x=1";

fn refused_by(outcome: &Outcome) -> Vec<(Slot, bool)> {
    outcome.attempts().map(|attempt| (attempt.slot, attempt.rejection().is_some())).collect()
}

/// A provider that always fails.
fn failing(message: &'static str) -> impl AuthProvider {
    provider_fn(move |_: &http::request::Parts| ready(Err(CredentialError::new(message))))
}

async fn text<B>(response: Response<PeekBody<B>>) -> Bytes
where
    B: http_body::Body + Unpin,
    B::Error: std::fmt::Debug,
{
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn an_accepted_first_attempt_passes_unchanged_and_says_nothing() {
    let server = Server::new(|_| answer(200, "hello"));
    let response = layer().layer(server.clone()).oneshot(get(URI)).await.unwrap();
    assert!(response.extensions().is_empty());
    assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Primary));
    assert_eq!(text(response).await, "hello");
    assert_eq!(server.tokens(), ["old"]);
}

#[tokio::test]
async fn a_refused_request_is_replayed_whole_with_the_other_credential() {
    let server = Server::refusing("old");
    let content = Bytes::from(vec![7_u8; 70_000]);
    let request = Request::put(URI)
        .header("x-custom", "kept")
        .header(AUTHORIZATION, "Bearer callers-own")
        .extension(42_u8)
        .body(Full::new(content.clone()))
        .unwrap();
    let response = layer().layer(server.clone()).oneshot(request).await.unwrap();

    assert_eq!(response.status(), 200);
    assert_eq!(refused_by(Outcome::of(&response)), [(Slot::Primary, true), (Slot::Fallback, false)]);
    assert_eq!(server.tokens(), ["old", "new"]);
    for (head, body) in server.seen.lock().unwrap().iter() {
        assert_eq!((head.method.clone(), head.uri.to_string()), (Method::PUT, URI.to_owned()));
        assert_eq!(head.headers["x-custom"], "kept");
        assert_eq!(head.headers.get_all(AUTHORIZATION).iter().count(), 1);
        assert!(head.headers[AUTHORIZATION].is_sensitive());
        assert_eq!(head.extensions.get(), Some(&42_u8));
        assert_eq!(body.as_ptr(), content.as_ptr(), "the body was copied");
    }
}

#[tokio::test]
async fn what_inner_layers_add_to_the_first_attempt_is_not_in_the_second() {
    let server = Server::refusing("old");
    let tries = Arc::new(AtomicUsize::new(0));
    let service = ServiceBuilder::new()
        .layer(layer())
        .map_request(move |mut request: Request<ReplayBody<Empty<Bytes>>>| {
            let nth = tries.fetch_add(1, Ordering::SeqCst);
            request.headers_mut().append("x-added", nth.to_string().parse().unwrap());
            request
        })
        .service(server.clone());
    service.oneshot(get(URI)).await.unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[1].0.headers.get_all("x-added").iter().collect::<Vec<_>>(), ["1"]);
}

#[tokio::test]
async fn a_moved_resource_costs_one_request_after_its_first_and_a_move_back_heals() {
    let moved = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&moved);
    let server = Server::new(move |head| {
        let right = if state.load(Ordering::SeqCst) { "new" } else { "old" };
        answer(if bearer(&head.headers) == right { 200 } else { 403 }, "")
    });
    let service = layer().layer(server.clone());
    for _ in 0..3 {
        assert_eq!(service.clone().oneshot(get(URI)).await.unwrap().status(), 200);
    }
    assert_eq!(server.tokens(), ["old", "new", "new", "new"]);
    let response = service.clone().oneshot(get(URI)).await.unwrap();
    assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Fallback));

    moved.store(false, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot(get(URI)).await.unwrap().status(), 200);
    }
    assert_eq!(server.tokens()[5..], ["new", "old", "old"]);
}

#[tokio::test(start_paused = true)]
async fn when_both_are_refused_the_second_answer_is_returned_and_the_resource_cools_down() {
    let server = Server::new(|head| {
        let body = if bearer(&head.headers) == "old" { "no to old" } else { "no to new" };
        answer(403, body)
    });
    let service = layer().layer(server.clone());
    let response = service.clone().oneshot(get(URI)).await.unwrap();
    assert_eq!(refused_by(Outcome::of(&response)), [(Slot::Primary, true), (Slot::Fallback, true)]);
    assert!(Outcome::of(&response).is_refused());
    assert_eq!(text(response).await, "no to new");

    let response = service.clone().oneshot(get(URI)).await.unwrap();
    assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::CoolingDown)));
    assert_eq!(text(response).await, "no to old");

    tokio::time::advance(Duration::from_secs(1)).await;
    service.clone().oneshot(get(URI)).await.unwrap();
    assert_eq!(server.tokens(), ["old", "new", "old", "old", "new"]);
}

#[tokio::test]
async fn every_order_and_every_choice_is_kept_to() {
    use CredentialChoice::{First, Only};
    use Order::{Adaptive, FallbackFirst, FallbackOnly, PrimaryFirst, PrimaryOnly};
    let cases: [(Order, Option<CredentialChoice>, &[&str]); 8] = [
        (Adaptive, None, &["old", "new"]),
        (PrimaryFirst, None, &["old", "new"]),
        (FallbackFirst, None, &["new", "old"]),
        (PrimaryOnly, None, &["old"]),
        (FallbackOnly, None, &["new"]),
        (PrimaryOnly, Some(First(Slot::Fallback)), &["new", "old"]),
        (Adaptive, Some(Only(Slot::Fallback)), &["new"]),
        (FallbackFirst, Some(Only(Slot::Primary)), &["old"]),
    ];
    for (order, choice, expected) in cases {
        let server = Server::new(|_| answer(401, ""));
        let mut request = get(URI);
        request.extensions_mut().extend(
            choice
                .map(|choice| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(choice);
                    extensions
                })
                .unwrap_or_default(),
        );
        let response = layer().with_order(order).layer(server.clone()).oneshot(request).await.unwrap();
        assert_eq!(server.tokens(), expected, "{order:?} {choice:?}");
        let is_only = matches!(Outcome::of(&response).no_replay(), Some(NoReplay::OnlyOne));
        assert_eq!(is_only, expected.len() == 1, "{order:?} {choice:?}");
    }
}

#[tokio::test]
async fn failures_that_are_not_refusals_are_passed_through() {
    for status in [400, 404, 408, 429, 500, 502, 503] {
        let server = Server::new(move |_| answer(status, "as it was"));
        let response = layer().layer(server.clone()).oneshot(get(URI)).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(text(response).await, "as it was");
        assert_eq!(server.tokens(), ["old"]);
    }
}

#[tokio::test]
async fn a_transport_error_of_either_attempt_is_returned_as_it_is() {
    for failing_call in [1, 2] {
        let calls = Arc::new(AtomicUsize::new(0));
        let service = layer().layer(tower::service_fn(move |_: Request<ReplayBody<Empty<Bytes>>>| {
            let nth = calls.fetch_add(1, Ordering::SeqCst) + 1;
            ready(match nth == failing_call {
                true => Err(std::io::Error::other("reset by peer")),
                false => Ok(answer(401, "")),
            })
        }));
        let error = service.oneshot(get(URI)).await.unwrap_err();
        assert_eq!(error.downcast::<std::io::Error>().unwrap().to_string(), "reset by peer");
    }
}

fn stream(pieces: &[&'static str]) -> Request<impl http_body::Body<Data = Bytes, Error = io::Error> + Unpin> {
    let frames = pieces.iter().map(|text| Ok(http_body::Frame::data(Bytes::from(*text)))).collect::<Vec<_>>();
    Request::post(URI).body(StreamBody::new(futures::stream::iter(frames))).unwrap()
}

#[tokio::test]
async fn a_refused_stream_is_replayed_from_its_start() {
    let server = Server::refusing("old");
    let response = layer().layer(server.clone()).oneshot(stream(&["a", "b"])).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(server.tokens(), ["old", "new"]);
    assert!(server.seen.lock().unwrap().iter().all(|(_, body)| body == "ab"));
}

#[tokio::test]
async fn a_stream_past_the_limit_is_sent_once_and_its_refusal_teaches_the_next_call() {
    let server = Server::refusing("old");
    let service = layer().with_replay_limit(1).layer(server.clone());
    let response = service.clone().oneshot(stream(&["a", "b"])).await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::BodyTooLarge)));
    assert_eq!(text(response).await, "hello");
    assert_eq!(service.clone().oneshot(stream(&["a", "b"])).await.unwrap().status(), 200);
    assert_eq!(server.tokens(), ["old", "new"]);
    assert!(server.seen.lock().unwrap().iter().all(|(_, body)| body == "ab"));
}

#[tokio::test]
async fn if_the_first_provider_fails_the_other_credential_is_used_and_that_is_said() {
    let server = Server::refusing("nobody");
    let layer = CredentialFallbackLayer::new(failing("mint is down"), token("new")).unwrap();
    let response = layer.layer(server.clone()).oneshot(get(URI)).await.unwrap();
    let (slot, error) = Outcome::of(&response).unavailable().unwrap();
    assert_eq!((slot, error.to_string()), (Slot::Primary, "mint is down".to_owned()));
    assert_eq!(server.tokens(), ["new"]);
}

#[tokio::test]
async fn if_both_providers_fail_the_error_names_both_causes_and_nothing_is_sent() {
    let server = Server::refusing("nobody");
    let layer = CredentialFallbackLayer::new(failing("mint is down"), failing("vault is sealed")).unwrap();
    let error = layer.layer(server.clone()).oneshot(get(URI)).await.unwrap_err();
    let error = error.downcast::<Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::NoCredential);
    assert!(error.to_string().contains("mint is down") && error.to_string().contains("vault is sealed"));
    assert_eq!(error.credential_error(Slot::Fallback).unwrap().to_string(), "vault is sealed");
    assert_eq!(error.first_slot(), Some(Slot::Primary));
    assert!(server.tokens().is_empty());

    let layer = CredentialFallbackLayer::new(failing("mint is down"), token("new")).unwrap();
    let only = layer.with_order(Order::PrimaryOnly).layer(server.clone());
    assert_eq!(
        only.oneshot(get(URI)).await.unwrap_err().downcast::<Error>().unwrap().kind(),
        ErrorKind::NoCredential
    );
    assert!(server.tokens().is_empty());
}

#[tokio::test]
async fn if_the_other_provider_fails_or_needs_the_user_the_refusal_is_returned_untouched() {
    let server = Server::refusing("old");
    let layer = CredentialFallbackLayer::new(token("old"), failing("vault is sealed")).unwrap();
    let response = layer.layer(server.clone()).oneshot(get(URI)).await.unwrap();
    assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::ProviderUnavailable(_))));
    assert_eq!((response.status(), text(response).await), (StatusCode::UNAUTHORIZED, Bytes::from("hello")));

    let needs_user = provider_fn(|_: &http::request::Parts| {
        ready(Err(CredentialError::interaction_required("https://www.example/authorize")))
    });
    let layer = CredentialFallbackLayer::new(token("old"), needs_user).unwrap();
    let response = layer.layer(server.clone()).oneshot(get(URI)).await.unwrap();
    match Outcome::of(&response).no_replay() {
        Some(NoReplay::InteractionRequired { authorize_url }) => {
            assert_eq!(authorize_url, "https://www.example/authorize");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_same_secret_in_both_slots_is_refused_when_built_and_never_replayed() {
    let error = CredentialFallbackLayer::new(token("s3cret"), token("s3cret")).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some("fallback")));
    assert!(!format!("{error} {error:?}").contains("s3cret"));

    let hidden = || provider_fn(|_: &http::request::Parts| ready(Ok(token("old"))));
    let server = Server::refusing("old");
    let layer = CredentialFallbackLayer::new(hidden(), hidden()).unwrap();
    let response = layer.layer(server.clone()).oneshot(get(URI)).await.unwrap();
    assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::SameCredential)));
    assert_eq!(server.tokens(), ["old"]);
}

#[tokio::test]
async fn an_origin_that_is_not_listed_gets_no_credential() {
    let server = Server::new(|_| answer(401, ""));
    let service = layer().with_origins(["https://api.example".parse().unwrap()]).layer(server.clone());
    for uri in ["https://evil.example/v1", "https://api.example:8443/", "http://api.example/", "/origin-form"]
    {
        let response = service.clone().oneshot(get(uri)).await.unwrap();
        assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::OutOfScope)), "{uri}");
        assert_eq!(Outcome::of(&response).answered_by(), None);
    }
    assert!(server.tokens().iter().all(|token| token == "none"));

    let connect = Request::connect("api.example:443").body(Empty::<Bytes>::new()).unwrap();
    layer().layer(server.clone()).oneshot(connect).await.unwrap();
    assert_eq!(server.tokens().last().unwrap(), "none", "a proxy saw the credential");
}

#[tokio::test]
async fn plaintext_to_another_host_is_refused_unless_allowed() {
    let server = Server::refusing("nobody");
    let error =
        layer().layer(server.clone()).oneshot(get("http://api.example/x?key=s3cret")).await.unwrap_err();
    let error = error.downcast::<Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::InsecureOrigin);
    assert!(error.to_string().contains("http://api.example") && !error.to_string().contains("s3cret"));
    assert!(server.tokens().is_empty());

    let mesh = "http://api.example".parse().unwrap();
    layer()
        .with_plaintext_allowed([mesh])
        .layer(server.clone())
        .oneshot(get("http://api.example/"))
        .await
        .unwrap();
    layer().layer(server.clone()).oneshot(get("http://127.0.0.1:1/")).await.unwrap();
    assert_eq!(server.tokens(), ["old", "old"]);
}

#[tokio::test]
async fn a_refusal_from_another_origin_never_sees_the_other_credential() {
    let rejections = Arc::new(AtomicUsize::new(0));
    let server = Server::new(|_| {
        let mut refusal = answer(401, "");
        refusal.extensions_mut().insert(FinalUri("https://evil.example/".parse().unwrap()));
        refusal
    });
    let old = Watched { credential: token("old"), rejections: Arc::clone(&rejections) };
    let layer = CredentialFallbackLayer::new(old, token("new")).unwrap();
    let response = layer.layer(server.clone()).oneshot(get(URI)).await.unwrap();
    assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::Redirected)));
    assert_eq!(server.tokens(), ["old"]);
    assert_eq!(rejections.load(Ordering::SeqCst), 0, "a stranger's refusal says nothing of the credential");
}

struct Watched {
    credential: Credential,
    rejections: Arc<AtomicUsize>,
}

impl AuthProvider for Watched {
    fn credential(&self, _: &http::request::Parts) -> CredentialFuture {
        CredentialFuture::ready(Ok(self.credential.clone()))
    }

    fn rejected(&self, credential: &Credential, _: &Rejection) {
        assert_eq!(credential.generation(), self.credential.generation());
        self.rejections.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_provider_hears_of_each_refusal_of_its_credential_once() {
    let rejections = Arc::new(AtomicUsize::new(0));
    let old = Watched { credential: token("old"), rejections: Arc::clone(&rejections) };
    let layer = CredentialFallbackLayer::new(old, token("new")).unwrap();
    layer.layer(Server::refusing("old")).oneshot(get(URI)).await.unwrap();
    assert_eq!(rejections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn with_different_headers_neither_the_callers_value_nor_the_refused_one_comes_along() {
    let server =
        Server::new(|head| answer(if head.headers.contains_key("x-api-key") { 200 } else { 401 }, ""));
    let key = Credential::header("x-api-key", "new-key").unwrap();
    let layer = CredentialFallbackLayer::new(token("old"), key).unwrap();
    let mut request = get(URI);
    request.headers_mut().insert(AUTHORIZATION, "Bearer callers-own".parse().unwrap());
    request.headers_mut().insert("x-api-key", "callers-own".parse().unwrap());
    layer.layer(server.clone()).oneshot(request).await.unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!(
        (bearer(&seen[0].0.headers).as_str(), seen[0].0.headers.contains_key("x-api-key")),
        ("old", false)
    );
    assert_eq!(
        (bearer(&seen[1].0.headers).as_str(), &seen[1].0.headers["x-api-key"]),
        ("none", &"new-key".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn limits_and_buffers_inside_of_one_permit_do_not_deadlock_on_replay() {
    let server = Server::refusing("old");
    let inner = tower::buffer::Buffer::new(
        ServiceBuilder::new()
            .concurrency_limit(1)
            .rate_limit(1, Duration::from_millis(10))
            .service(server.clone()),
        1,
    );
    let service = ServiceBuilder::new()
        .layer(layer().with_order(Order::PrimaryFirst))
        .concurrency_limit(1)
        .service(inner);
    let calls = (0..20).map(|_| service.clone().oneshot(get(URI)));
    for response in futures::future::join_all(calls).await {
        assert_eq!(response.unwrap().status(), 200);
    }
    assert_eq!(server.tokens().len(), 40);
}

#[tokio::test]
async fn if_the_inner_service_fails_to_get_ready_again_the_refusal_is_returned_untouched() {
    #[derive(Clone)]
    struct ReadyOnce(Arc<AtomicUsize>);
    impl<B> Service<Request<B>> for ReadyOnce {
        type Response = Answer;
        type Error = BoxError;
        type Future = Ready<Result<Answer, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => Poll::Ready(Ok(())),
                _ => Poll::Ready(Err("closed".into())),
            }
        }
        fn call(&mut self, _: Request<B>) -> Self::Future {
            ready(Ok(answer(401, "no")))
        }
    }
    let response = layer().layer(ReadyOnce(Arc::default())).oneshot(get(URI)).await.unwrap();
    assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::InnerNotReady)));
    assert_eq!(text(response).await, "no");
}

#[tokio::test]
async fn a_call_that_is_accepted_at_once_clones_no_inner_service() {
    async fn clones_of_a_call<P, E>(layer: CredentialFallbackLayer<P, E>) -> usize
    where
        P: AuthProvider + 'static,
        E: AuthProvider + 'static,
    {
        let server = Server::refusing("refused");
        let mut service = layer.layer(server.clone());
        let before = server.clones.load(Ordering::SeqCst);
        ServiceExt::<Request<Empty<Bytes>>>::ready(&mut service).await.unwrap().call(get(URI)).await.unwrap();
        server.clones.load(Ordering::SeqCst) - before
    }
    let late = provider_fn(|_: &http::request::Parts| async {
        tokio::task::yield_now().await;
        Ok(token("late"))
    });
    assert_eq!(clones_of_a_call(layer()).await, 0);
    let refused = CredentialFallbackLayer::new(token("refused"), token("new")).unwrap();
    assert_eq!(clones_of_a_call(refused).await, 1, "for the second attempt");
    let waits = CredentialFallbackLayer::new(late, token("new")).unwrap();
    assert_eq!(clones_of_a_call(waits).await, 1, "the one that is ready waits with the call");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_sends_nothing_keeps_no_permit_of_the_inner_service() {
    let inner = ServiceBuilder::new().concurrency_limit(1).service(Server::refusing("nobody"));
    let mut idle = layer().layer(inner);
    let other = idle.clone();
    let plaintext = get("http://api.example/");
    let error = ServiceExt::<Request<Empty<Bytes>>>::ready(&mut idle).await.unwrap().call(plaintext).await;
    assert!(
        error.unwrap_err().downcast::<Error>().is_ok_and(|error| error.kind() == ErrorKind::InsecureOrigin)
    );
    let answer = tokio::time::timeout(Duration::from_secs(1), other.oneshot(get(URI))).await;
    assert_eq!(answer.expect("the permit is free").unwrap().status(), 200);
    drop(idle);
}

#[tokio::test]
async fn a_classifier_is_told_when_it_sees_all_of_an_answer() {
    /// What it was asked, and about how many bytes.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<(&'static str, usize)>>>);
    impl Classify for Notes {
        fn head(&self, _: &http::response::Parts) -> Decision {
            Decision::Inspect
        }
        fn body(&self, _: &http::response::Parts, prefix: BodyPrefix<'_>) -> Decision {
            let kind = match (prefix.is_complete(), prefix.is_last()) {
                (true, _) => "complete",
                (false, true) => "cut",
                (false, false) => "partial",
            };
            self.0.lock().unwrap().push((kind, prefix.bytes().len()));
            Decision::Inspect
        }
    }
    /// Sends these frames, and the end at once or, if it is late, after a pause.
    async fn questions(frames: Vec<io::Result<&'static str>>, is_late: bool) -> Vec<(&'static str, usize)> {
        let notes = Notes::default();
        let frames = Arc::new(Mutex::new(Some(frames)));
        let inner = tower::service_fn(move |_: Request<ReplayBody<Empty<Bytes>>>| {
            let frames = frames.lock().unwrap().take().unwrap().into_iter();
            let frames = frames.map(|frame| frame.map(|text| http_body::Frame::data(Bytes::from(text))));
            let end = futures::stream::once(async move {
                if is_late {
                    tokio::task::yield_now().await;
                }
            });
            let frames = futures::stream::iter(frames).chain(end.filter_map(|()| ready(None)));
            ready(Ok::<_, BoxError>(Response::new(StreamBody::new(Box::pin(frames)))))
        });
        let layer = layer().with_classifier(notes.clone()).with_inspect_limit(5);
        layer.layer(inner).oneshot(get(URI)).await.unwrap();
        std::mem::take(&mut *notes.0.lock().unwrap())
    }
    let short = || vec![Ok("ab"), Ok("cd")];
    assert_eq!(questions(short(), false).await, [("complete", 4)]);
    assert_eq!(questions(short(), true).await, [("partial", 4), ("complete", 4)], "its end is late");
    let longer = vec![Ok("abc"), Ok("defg")];
    assert_eq!(questions(longer, false).await, [("cut", 5)], "longer than is looked at");
    let cut_off = vec![Ok("abc"), Err(io::Error::other("reset"))];
    assert_eq!(questions(cut_off, false).await, [("partial", 3), ("cut", 3)], "failed");
    assert_eq!(questions(vec![], true).await, [("complete", 0)], "nothing to see");
}

#[tokio::test]
async fn a_panicking_provider_fails_its_call_and_the_next_one_works() {
    let calls = Arc::new(AtomicUsize::new(0));
    let moody = provider_fn(move |_: &http::request::Parts| {
        assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "first call panics");
        ready(Ok(token("old")))
    });
    let service =
        CredentialFallbackLayer::new(moody, token("new")).unwrap().layer(Server::refusing("nobody"));
    assert!(tokio::spawn(service.clone().oneshot(get(URI))).await.unwrap_err().is_panic());
    assert_eq!(service.oneshot(get(URI)).await.unwrap().status(), 200);
}

#[test]
fn public_types_are_send_and_sync_and_debug_shows_no_secret() {
    fn assert_send_sync<T: Send + Sync>(_: &T) {}
    fn assert_send<T: Send>(_: &T) {}
    let layer = CredentialFallbackLayer::new(token("s3cret-old"), token("s3cret-new")).unwrap();
    let service = layer.layer(tower::service_fn(|_: Request<ReplayBody<Full<Bytes>>>| {
        ready(Ok::<_, BoxError>(answer(200, "")))
    }));
    assert_send_sync(&layer);
    assert_send_sync(&service);
    let request = Request::get(URI).body(Full::new(Bytes::from("s3cret-body"))).unwrap();
    let future = service.clone().call(request);
    assert_send(&future);
    let shown = format!("{layer:?} {:?} {future:?} {:#?}", layer.clone(), token("s3cret"));
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn an_overloaded_or_failing_server_teaches_nothing_and_counts_as_no_acceptance() {
    for status in [408, 429, 500, 503] {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let server = Server::new(move |head| {
            let is_new = bearer(&head.headers) == "new";
            answer(
                if is_new {
                    status
                } else if over.load(Ordering::SeqCst) {
                    200
                } else {
                    401
                },
                "",
            )
        });
        let layer = layer();
        let (service, handle) = (layer.layer(server.clone()), layer.handle());
        assert_eq!(service.clone().oneshot(get(URI)).await.unwrap().status(), status);
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(service.clone().oneshot(get(URI)).await.unwrap().status(), 200);
        assert_eq!(server.tokens(), ["old", "new", "old"], "{status}");
        let report = handle.report();
        assert_eq!((report.fallback.accepted, report.fallback.inconclusive, report.moved), (0, 1, 0));
        let ended = report.since_start();
        assert_eq!((ended.by_primary, ended.inconclusive, ended.success_rate()), (1, 1, Some(1.0)));
    }
}

#[tokio::test]
async fn one_closed_path_does_not_switch_the_fallback_off_for_its_origin() {
    let server = Server::new(|head| {
        let is_open = head.uri.path() != "/closed" && bearer(&head.headers) == "new";
        answer(if is_open { 200 } else { 403 }, "")
    });
    let service = layer().with_cooldown(Duration::from_secs(3_600)).layer(server.clone());
    let call = |path: &str| service.clone().oneshot(get(&format!("https://api.example{path}")));
    assert!(Outcome::of(&call("/closed").await.unwrap()).is_refused());
    assert_eq!(call("/open").await.unwrap().status(), 200);
    let again = call("/closed").await.unwrap();
    assert!(matches!(Outcome::of(&again).no_replay(), Some(NoReplay::CoolingDown)));
}

#[tokio::test]
async fn what_either_credential_may_do_does_not_flip_the_preference() {
    let server = Server::new(|_| answer(200, ""));
    let service = layer().layer(server.clone());
    let mut pinned = get(URI);
    pinned.extensions_mut().insert(CredentialChoice::Only(Slot::Fallback));
    service.clone().oneshot(pinned).await.unwrap();
    service.clone().oneshot(get(URI)).await.unwrap();
    assert_eq!(server.tokens(), ["new", "old"]);
}

#[tokio::test]
async fn with_one_fixed_key_the_callers_own_value_of_it_never_goes_with_the_other_credential() {
    let server =
        Server::new(|head| answer(if head.headers.contains_key(AUTHORIZATION) { 200 } else { 401 }, ""));
    let key = Credential::header("x-api-key", "old-key").unwrap();
    let minted = provider_fn(|_: &http::request::Parts| ready(Ok(token("new"))));
    let service = CredentialFallbackLayer::new(key, minted).unwrap().layer(server.clone());
    for _ in 0..2 {
        let mut request = get(URI);
        request.headers_mut().insert("x-api-key", "callers-own".parse().unwrap());
        service.clone().oneshot(request).await.unwrap();
    }
    let seen = server.seen.lock().unwrap();
    let keys: Vec<_> = seen.iter().map(|(head, _)| head.headers.get("x-api-key").cloned()).collect();
    assert_eq!(keys, [Some("old-key".parse().unwrap()), None, None]);
}

#[tokio::test]
async fn nested_layers_tell_the_outer_ones_story() {
    let server = Server::refusing("old");
    let inner = CredentialFallbackLayer::new(token("old"), token("new")).unwrap();
    // The outer one has its own header, and is accepted at once.
    let key = |text| Credential::header("x-outer", text).unwrap();
    let outer = CredentialFallbackLayer::new(key("a"), key("b")).unwrap();
    let service = outer.layer(tower::util::MapResponse::new(inner.layer(server), |response| response));
    let response = service.oneshot(get(URI)).await.unwrap();
    assert_eq!(refused_by(Outcome::of(&response)), [(Slot::Primary, false)]);
}

#[tokio::test]
async fn neither_the_users_url_nor_a_padded_key_slips_through() {
    let needs_user = provider_fn(|_: &http::request::Parts| {
        ready(Err(CredentialError::interaction_required("https://www.example/authorize?state=s3cret")))
    });
    let layer = CredentialFallbackLayer::new(token("old"), needs_user).unwrap();
    let response = layer.layer(Server::refusing("old")).oneshot(get(URI)).await.unwrap();
    let shown = format!("{:?} {:#?}", Outcome::of(&response), Outcome::of(&response).no_replay());
    assert!(shown.contains("interaction_required") && !shown.contains("s3cret"), "{shown}");

    for padded in ["key ", " key", "key\t"] {
        let error = Credential::header("x-api-key", padded).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some("value")), "{padded:?}");
    }
}

#[tokio::test]
async fn a_call_given_up_between_its_attempts_cuts_its_upload_off() {
    let uploads = Arc::<Mutex<Vec<_>>>::default();
    let under_way = Arc::clone(&uploads);
    let inner = tower::service_fn(move |request: Request<ReplayBody<_>>| {
        under_way.lock().unwrap().push(request.into_body());
        ready(Ok::<_, BoxError>(answer(401, "")))
    });
    let pending = provider_fn(|_: &http::request::Parts| std::future::pending());
    let service = CredentialFallbackLayer::new(token("old"), pending).unwrap().layer(inner);
    let mut call = Box::pin(service.oneshot(stream(&["a", "b", "c"])));
    assert!(futures::future::poll_immediate(&mut call).await.is_none());
    let mut upload = uploads.lock().unwrap().pop().unwrap();
    assert!(futures::future::poll_immediate(upload.frame()).await.is_none(), "held");
    drop(call);
    assert!(upload.frame().await.unwrap().is_err(), "taken for whole");
    assert!(upload.frame().await.is_none());
}
