//! The layer with reqwest: as a middleware anywhere in a stack, and around a client.
#![cfg(feature = "reqwest")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Extensions, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use support::{Server, full, json, token_of};
use tokio::sync::{Notify, mpsc};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::reqwest::{FallbackMiddleware, ReqwestService};
use tower_credential_fallback::{
    Credential, CredentialChoice, CredentialFallbackLayer, Error, ErrorKind, FinalUri, NoReplay, Order,
    Outcome, Slot,
};

type Fallback = FallbackMiddleware<Credential, Credential>;

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), Credential::bearer("new").unwrap())
        .unwrap()
        .with_order(Order::PrimaryFirst)
}

fn fallback() -> Fallback {
    FallbackMiddleware::new(layer())
}

fn client(middlewares: impl IntoIterator<Item = Arc<dyn Middleware>>) -> ClientWithMiddleware {
    let builder = ClientBuilder::new(reqwest::Client::new());
    middlewares.into_iter().fold(builder, ClientBuilder::with_arc).build()
}

fn outcome(response: &reqwest::Response) -> &Outcome {
    Outcome::of_extensions(response.extensions())
}

/// Keeps what it was sent: the path, the token, the body. Refuses the old token.
async fn refusing_server() -> (Server, Arc<Mutex<Vec<(String, String, Bytes)>>>) {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let log = Arc::clone(&seen);
    let server = Server::start(move |request| {
        let log = Arc::clone(&log);
        async move {
            let (token, path) = (token_of(&request), request.uri().path().to_owned());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            log.lock().unwrap().push((path, token.clone(), body));
            json(if token == "old" { 401 } else { 200 }, "{}")
        }
    })
    .await;
    (server, seen)
}

/// Notes of each request whether reqwest can clone it, and marks the extensions.
#[derive(Default)]
struct Watch {
    clonable: Mutex<Vec<bool>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Passes(usize);

#[async_trait]
impl Middleware for Watch {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let nth = {
            let mut clonable = self.clonable.lock().unwrap();
            clonable.push(request.try_clone().is_some());
            clonable.len()
        };
        assert!(extensions.get::<Passes>().is_none(), "an attempt sees what the other has left");
        extensions.insert(Passes(nth));
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn a_refused_request_is_replayed_whatever_its_kind_of_body() {
    let (server, seen) = refusing_server().await;
    let watch = Arc::new(Watch::default());
    let client = client([Arc::new(fallback()) as Arc<dyn Middleware>, Arc::clone(&watch) as _]);
    let stream = || {
        let pieces = ["some ", "stream"].map(|text| Ok::<_, std::io::Error>(Bytes::from(text)));
        reqwest::Body::wrap_stream(futures::stream::iter(pieces))
    };
    let cases = [
        (client.post(server.url("/text")).body("a text"), true),
        (client.get(server.url("/none")), true),
        (client.post(server.url("/stream")).body(stream()), false),
    ];
    for (request, is_clonable) in cases {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(outcome(&response).attempts().count(), 2);
        let clonable = std::mem::take(&mut *watch.clonable.lock().unwrap());
        assert_eq!(clonable, [is_clonable, is_clonable], "{}", response.url());
    }
    let seen = seen.lock().unwrap();
    for (nth, (path, body)) in
        [("/text", "a text"), ("/none", ""), ("/stream", "some stream")].iter().enumerate()
    {
        for (attempt, token) in ["old", "new"].iter().enumerate() {
            let expected = ((*path).to_owned(), (*token).to_owned(), Bytes::from(*body));
            assert_eq!(seen[2 * nth + attempt], expected);
        }
    }
}

#[tokio::test]
async fn a_multipart_form_with_a_streaming_part_is_replayed_whole() {
    let (server, seen) = refusing_server().await;
    let pieces = ["of a ", "file"].map(|text| Ok::<_, std::io::Error>(Bytes::from(text)));
    let part = reqwest::multipart::Part::stream(reqwest::Body::wrap_stream(futures::stream::iter(pieces)));
    let form = reqwest::multipart::Form::new().text("name", "value").part("file", part.file_name("a.txt"));
    let boundary = form.boundary().to_owned();
    let request = client([Arc::new(fallback()) as _]).post(server.url("/")).multipart(form);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    let seen = seen.lock().unwrap();
    let bodies: Vec<_> = seen.iter().map(|(_, _, body)| String::from_utf8_lossy(body)).collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], bodies[1]);
    assert!(bodies[0].contains("of a file") && bodies[0].ends_with(&format!("--{boundary}--\r\n")));
}

#[tokio::test]
async fn it_stands_anywhere_in_a_stack_with_retries_before_and_behind_it() {
    for is_before in [true, false] {
        let tries = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&tries);
        // Each credential meets an overloaded server first.
        let server = Server::start(move |request| {
            let mut tries = log.lock().unwrap();
            tries.push(token_of(&request));
            let nth = tries.iter().filter(|token| **token == token_of(&request)).count();
            let status = match (token_of(&request).as_str(), nth) {
                (_, 1) => 503,
                ("old", _) => 401,
                _ => 200,
            };
            async move { json(status, "{}") }
        })
        .await;
        let policy = ExponentialBackoff::builder()
            .retry_bounds(Duration::from_millis(1), Duration::from_millis(2))
            .build_with_max_retries(3);
        let retry = Arc::new(RetryTransientMiddleware::new_with_policy(policy)) as Arc<dyn Middleware>;
        let fallback = Arc::new(fallback()) as Arc<dyn Middleware>;
        let stack = if is_before { [retry, fallback] } else { [fallback, retry] };
        let response = client(stack).post(server.url("/")).body("x").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let expected: &[&str] = match is_before {
            // The whole call is repeated: a 503 is an answer to it.
            true => &["old", "old", "new", "old", "new"],
            // Each attempt is repeated by itself.
            false => &["old", "old", "new", "new"],
        };
        assert_eq!(*tries.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn extensions_reach_every_attempt_as_they_were_and_come_back_from_the_last() {
    let (server, seen) = refusing_server().await;
    let watch = Arc::new(Watch::default());
    let client = client([Arc::new(fallback()) as Arc<dyn Middleware>, watch as _]);
    let mut extensions = Extensions::new();
    let request = client.get(server.url("/")).build().unwrap();
    client.execute_with_extensions(request, &mut extensions).await.unwrap();
    assert_eq!(extensions.get(), Some(&Passes(2)));

    seen.lock().unwrap().clear();
    let only_new = CredentialChoice::Only(Slot::Fallback);
    client.get(server.url("/")).with_extension(only_new).send().await.unwrap();
    assert_eq!(seen.lock().unwrap().iter().map(|(_, token, _)| token.as_str()).collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn a_redirect_to_another_origin_that_refuses_never_sees_the_other_credential() {
    let keys = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&keys);
    let stranger = Server::start(move |request| {
        let key = request.headers().get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
        log.lock().unwrap().extend(key);
        async { json(401, "{}") }
    })
    .await;
    let target = stranger.url("/elsewhere");
    let server = Server::start(move |_| {
        let target = target.clone();
        async move { Response::builder().status(307).header("location", target).body(full("")).unwrap() }
    })
    .await;
    let key = |text| Credential::header("x-api-key", text).unwrap();
    let layer = || CredentialFallbackLayer::new(key("old"), key("new")).unwrap();

    let middleware = client([Arc::new(FallbackMiddleware::new(layer())) as _]);
    let response = middleware.post(server.url("/")).body("x").send().await.unwrap();
    assert!(matches!(outcome(&response).no_replay(), Some(NoReplay::Redirected)));
    assert_eq!(response.url().as_str(), stranger.url("/elsewhere"));

    let service = layer().layer(ReqwestService::new(reqwest::Client::new()));
    let request = http::Request::post(server.url("/")).body(reqwest::Body::from("x")).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::Redirected)));
    assert_eq!(response.extensions().get::<FinalUri>().unwrap().0, *stranger.url("/elsewhere"));
    assert_eq!(reqwest::Response::from(response).url().as_str(), stranger.url("/elsewhere"));
    assert!(keys.lock().unwrap().iter().all(|key| key != "new"));
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_no_hindrance() {
    let server = Server::start(|request| async move {
        match (request.uri().path(), token_of(&request).as_str()) {
            ("/", _) => Response::builder().status(307).header("location", "/there").body(full("")).unwrap(),
            (_, "old") => json(401, "{}"),
            _ => json(200, request.into_body().collect().await.unwrap().to_bytes()),
        }
    })
    .await;
    let response =
        client([Arc::new(fallback()) as _]).post(server.url("/")).body("kept").send().await.unwrap();
    assert_eq!(outcome(&response).answered_by(), Some(Slot::Fallback));
    assert_eq!(response.url().path(), "/there");
    assert_eq!(response.text().await.unwrap(), "kept");
}

#[tokio::test]
async fn a_client_a_borrowed_client_and_a_stack_are_services() {
    let (server, _) = refusing_server().await;
    let request = || http::Request::post(server.url("/")).body(reqwest::Body::from("x")).unwrap();
    let plain = reqwest::Client::new();
    let stack = client([Arc::new(Watch::default()) as _]);
    let answers = [
        layer().layer(ReqwestService::new(&plain)).oneshot(request()).await.unwrap(),
        layer().layer(ReqwestService::new(plain.clone())).oneshot(request()).await.unwrap(),
        layer().layer(ReqwestService::new(stack)).oneshot(request()).await.unwrap(),
    ];
    for answer in answers {
        assert_eq!(Outcome::of(&answer).answered_by(), Some(Slot::Fallback));
        let response = reqwest::Response::from(answer);
        assert_eq!(response.url().as_str(), server.url("/"));
        assert_eq!(response.text().await.unwrap(), "{}");
    }
}

#[tokio::test]
async fn errors_of_the_chain_come_back_as_they_were_and_ours_name_their_kind() {
    let client = client([Arc::new(fallback()) as _]);
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = client.get(format!("http://{closed}/")).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");

    let hanging = Server::start(|_| std::future::pending()).await;
    let error = client.get(hanging.url("/")).timeout(Duration::from_millis(50)).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");

    match client.get("http://api.example/?key=s3cret").send().await.unwrap_err() {
        reqwest_middleware::Error::Middleware(error) => {
            assert_eq!(error.downcast_ref::<Error>().unwrap().kind(), ErrorKind::InsecureOrigin);
            assert!(!format!("{error:?}").contains("s3cret"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failing_middleware_behind_it_fails_the_call_and_is_not_run_again() {
    struct Fails(AtomicUsize);
    #[async_trait]
    impl Middleware for Fails {
        async fn handle(
            &self,
            _: reqwest::Request,
            _: &mut Extensions,
            _: Next<'_>,
        ) -> reqwest_middleware::Result<reqwest::Response> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(reqwest_middleware::Error::middleware(std::io::Error::other("out of order")))
        }
    }
    let fails = Arc::new(Fails(AtomicUsize::new(0)));
    let client = client([Arc::new(fallback()) as Arc<dyn Middleware>, Arc::clone(&fails) as _]);
    let error = client.get("https://api.example/").send().await.unwrap_err();
    assert_eq!(error.to_string(), "out of order");
    assert_eq!(fails.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn events_arrive_before_the_next_one_exists() {
    let go_on = Arc::new(Notify::new());
    let released = Arc::clone(&go_on);
    let server = Server::start(move |_| {
        let go_on = Arc::clone(&go_on);
        async move {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                sender.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
                go_on.notified().await;
                let _ = sender.send(Ok(Frame::data(Bytes::from("data: 2\n\n")))).await;
            });
            let frames = futures::stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|frame| (frame, receiver))
            });
            let body = BodyExt::boxed_unsync(StreamBody::new(Box::pin(frames)));
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
    })
    .await;
    let mut response = client([Arc::new(fallback()) as _]).get(server.url("/")).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    released.notify_one();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "data: 2\n\n");
}

#[test]
fn the_middleware_and_the_service_are_send_and_sync_and_show_no_secret() {
    fn assert_send_sync<T: Send + Sync + Clone>(_: &T) {}
    let secret = |text| Credential::bearer(text).unwrap();
    let layer = CredentialFallbackLayer::new(secret("s3cret-old"), secret("s3cret-new")).unwrap();
    let middleware = FallbackMiddleware::new(layer.clone());
    let service = layer.layer(ReqwestService::new(reqwest::Client::new()));
    assert_send_sync(&middleware);
    assert_send_sync(&service);
    assert!(!format!("{middleware:?} {service:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_request_out_of_scope_stays_as_reqwest_has_it() {
    let elsewhere = Server::start(|request| async move {
        match request.uri().path() {
            "/moved" => Response::builder().status(307).header("location", "/there").body(full("")).unwrap(),
            _ => json(200, request.into_body().collect().await.unwrap().to_bytes()),
        }
    })
    .await;
    let policy = ExponentialBackoff::builder().build_with_max_retries(1);
    let layer = layer().with_origins(["https://api.example".parse().unwrap()]);
    let client = client([
        Arc::new(FallbackMiddleware::new(layer)) as Arc<dyn Middleware>,
        // Fails if it cannot clone the request.
        Arc::new(RetryTransientMiddleware::new_with_policy(policy)) as _,
    ]);
    assert_eq!(client.get(elsewhere.url("/")).send().await.unwrap().status(), StatusCode::OK);
    let response = client.post(elsewhere.url("/moved")).body("kept").send().await.unwrap();
    assert!(matches!(outcome(&response).no_replay(), Some(NoReplay::OutOfScope)));
    assert_eq!(response.text().await.unwrap(), "kept");
}

#[tokio::test]
async fn an_answer_that_a_middleware_made_is_no_redirect() {
    struct Mock;
    #[async_trait]
    impl Middleware for Mock {
        async fn handle(
            &self,
            request: reqwest::Request,
            _: &mut Extensions,
            _: Next<'_>,
        ) -> reqwest_middleware::Result<reqwest::Response> {
            let is_old = request.headers()["authorization"] == "Bearer old";
            let status = if is_old { 401 } else { 200 };
            Ok(http::Response::builder().status(status).body("").unwrap().into())
        }
    }
    let client = client([Arc::new(fallback()) as Arc<dyn Middleware>, Arc::new(Mock) as _]);
    let response = client.get("https://api.example/x").send().await.unwrap();
    assert_eq!(outcome(&response).answered_by(), Some(Slot::Fallback));
    assert_eq!(response.url().as_str(), "https://api.example/x");
}

#[tokio::test]
async fn of_two_fallbacks_in_one_stack_each_tells_its_own_story() {
    let (server, _) = refusing_server().await;
    let elsewhere = layer().with_origins(["https://api.example".parse().unwrap()]);
    let elsewhere = Arc::new(FallbackMiddleware::new(elsewhere)) as Arc<dyn Middleware>;
    let here = Arc::new(fallback()) as Arc<dyn Middleware>;
    for stack in [[Arc::clone(&elsewhere), Arc::clone(&here)], [here, elsewhere]] {
        let response = client(stack).get(server.url("/")).send().await.unwrap();
        assert_eq!(outcome(&response).attempts().count(), 2, "{}", outcome(&response));
    }
}
