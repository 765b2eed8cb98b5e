//! Redirects that tower-http's `FollowRedirect`, of either version, follows inside of the layer.
#![cfg(feature = "follow-redirect")]

mod support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use support::{PROTOCOLS, Protocol, Server, full, hyper_client, json};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::{
    BoxError, Credential, CredentialFallbackLayer, FinalUri, NoReplay, Outcome, ReplayBody, Slot,
};
use tower_http::follow_redirect::FollowRedirectLayer as Follow07;
use tower_http::follow_redirect::policy::Limited as Limited07;
use tower_http_06::follow_redirect::FollowRedirectLayer as Follow06;
use tower_http_06::follow_redirect::policy::Limited as Limited06;

type Client = BoxCloneService<Request<ReplayBody<Full<Bytes>>>, Response<Incoming>, BoxError>;

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    let key = |value| Credential::header("x-api-key", value).unwrap();
    CredentialFallbackLayer::new(key("old"), key("new")).unwrap()
}

/// Each version alone, and one around the other. The policies strip nothing: the worst case.
fn clients(protocol: Protocol) -> [(&'static str, Client); 4] {
    let client = || Client::new(hyper_client(protocol).map_err(BoxError::from));
    let by_07 = |inner| Client::new(Follow07::with_policy(Limited07::new(5)).layer(inner));
    let by_06 = |inner| Client::new(Follow06::with_policy(Limited06::new(5)).layer(inner));
    [
        ("0.7", by_07(client())),
        ("0.6", by_06(client())),
        ("0.7 around 0.6", by_07(by_06(client()))),
        ("0.6 around 0.7", by_06(by_07(client()))),
    ]
}

fn get(url: String) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

fn redirect(target: &str) -> Response<support::Body> {
    Response::builder()
        .status(StatusCode::TEMPORARY_REDIRECT)
        .header("location", target)
        .body(full(""))
        .unwrap()
}

/// A server that answers 401, and the keys that it was shown.
async fn stranger() -> (Server, Arc<Mutex<Vec<String>>>) {
    let keys = Arc::<Mutex<Vec<_>>>::default();
    let log = Arc::clone(&keys);
    let server = Server::start(move |request| {
        log.lock().unwrap().push(request.headers()["x-api-key"].to_str().unwrap().to_owned());
        async { json(401, "{}") }
    });
    (server.await, keys)
}

#[tokio::test]
async fn after_a_redirect_to_another_origin_the_second_key_is_not_sent() {
    for protocol in PROTOCOLS {
        for (name, client) in clients(protocol) {
            let (stranger, keys) = stranger().await;
            let target = stranger.url("/");
            let server = Server::start(move |_| {
                let answer = redirect(&target);
                async { answer }
            })
            .await;
            let response = layer().layer(client).oneshot(get(server.url("/"))).await.unwrap();
            let outcome = Outcome::of(&response);
            assert!(
                matches!(outcome.no_replay(), Some(NoReplay::Redirected)),
                "{name}, {protocol:?}: {outcome:?}"
            );
            assert_eq!(*keys.lock().unwrap(), ["old"], "{name}, {protocol:?}");
        }
    }
}

#[tokio::test]
async fn an_acceptance_of_a_redirects_target_teaches_nothing() {
    for (name, client) in clients(Protocol::Http1) {
        // A login page, to which the server sends those whom it does not know: the holder of the new key.
        let login = Server::start(|_| async { json(200, "{}") }).await;
        let target = login.url("/");
        let server = Server::start(move |request| {
            let is_new = request.headers()["x-api-key"] == "new";
            let answer = if is_new { redirect(&target) } else { json(401, "{}") };
            async { answer }
        })
        .await;
        let layer = layer();
        let (client, handle) = (layer.layer(client), layer.handle());
        for _ in 0..2 {
            let response = client.clone().oneshot(get(server.url("/"))).await.unwrap();
            let outcome = Outcome::of(&response);
            assert_eq!((response.status(), outcome.served_by()), (StatusCode::OK, None), "{name}");
            assert_eq!(outcome.attempts().next().unwrap().slot, Slot::Primary, "{name}");
        }
        assert_eq!((handle.report().moved, handle.report().fallback.inconclusive), (0, 2), "{name}");
    }
}

#[tokio::test]
async fn after_a_redirect_within_the_origin_the_second_key_is_sent() {
    for (name, client) in clients(Protocol::Http1) {
        let server = Server::start(|request| {
            let answer = match request.uri().path() {
                "/a/b" => redirect("../c"),
                _ if request.headers()["x-api-key"] == "new" => json(200, "{}"),
                _ => json(401, "{}"),
            };
            async { answer }
        })
        .await;
        let response = layer().layer(client).oneshot(get(server.url("/a/b"))).await.unwrap();
        assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Fallback), "{name}");
        assert_eq!(response.status(), StatusCode::OK, "{name}");
    }
}

#[tokio::test]
async fn a_307_for_a_request_with_content_is_the_answer_itself() {
    // The policies clone no body, so that neither version follows.
    for (name, client) in clients(Protocol::Http1) {
        let (stranger, keys) = stranger().await;
        let target = stranger.url("/");
        let server = Server::start(move |request| {
            let answer =
                if request.headers()["x-api-key"] == "new" { redirect(&target) } else { json(401, "{}") };
            async { answer }
        })
        .await;
        let request =
            Request::builder().method(Method::POST).uri(server.url("/")).body(Full::from("content")).unwrap();
        let response = layer().layer(client).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT, "{name}");
        assert_eq!(Outcome::of(&response).attempts().count(), 2, "{name}");
        assert!(keys.lock().unwrap().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn of_several_reports_of_a_redirect_each_one_counts() {
    let asked = "https://a.example/";
    let elsewhere = "https://b.example/";
    for (ours, theirs, is_foreign) in [
        (asked, asked, false),
        // It is the same transport to the same server.
        ("wss://a.example/x", "https://a.example:443/y", false),
        (elsewhere, asked, true),
        (asked, elsewhere, true),
        ("https://a.example:84433/", asked, true),
    ] {
        let inner = tower::service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| async move {
            let mut answer = json(401, "{}");
            answer.extensions_mut().insert(FinalUri(ours.parse().unwrap()));
            let theirs = theirs.parse().unwrap();
            answer.extensions_mut().insert(tower_http_06::follow_redirect::RequestUri(theirs));
            Ok::<_, BoxError>(answer)
        });
        let response = layer().layer(inner).oneshot(get(asked.to_owned())).await.unwrap();
        let outcome = Outcome::of(&response);
        assert_eq!(matches!(outcome.no_replay(), Some(NoReplay::Redirected)), is_foreign, "{ours} {theirs}");
    }
}
