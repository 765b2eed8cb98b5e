//! The layer over TLS, through upgrades, and between other layers.

mod support;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{SinkExt, StreamExt};
use http::header::{CONTENT_ENCODING, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use support::{PROTOCOLS, Protocol, Server, full, hyper_client, json, token_of};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tower::retry::{Policy, RetryLayer};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt};
use tower_credential_fallback::{
    Credential, CredentialFallbackLayer, Order, Outcome, PeekBody, ReplayBody, Slot, StatusClassifier,
};
use tower_http::decompression::DecompressionLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_http::set_header::SetRequestHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), Credential::bearer("new").unwrap())
        .unwrap()
        .with_order(Order::PrimaryFirst)
}

#[tokio::test]
async fn a_stream_is_replayed_over_tls_on_both_protocols() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let log = Arc::clone(&log);
                    async move {
                        let (token, version) = (token_of(&request), request.version());
                        let body = request.into_body().collect().await?.to_bytes();
                        log.lock().unwrap().push((version, token.clone(), body));
                        let status = if token == "old" { 403 } else { 200 };
                        Ok::<_, hyper::Error>(json(status, "{}"))
                    }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });

    for (protocol, version) in [(Protocol::Http1, Version::HTTP_11), (Protocol::Http2, Version::HTTP_2)] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
        let connector = match protocol {
            Protocol::Http1 => connector.enable_http1().build(),
            Protocol::Http2 => connector.enable_http2().build(),
        };
        let frames = ["over ", "tls"].map(|text| Ok::<_, std::io::Error>(Frame::data(Bytes::from(text))));
        let request = Request::post(format!("https://localhost:{port}/"))
            .body(StreamBody::new(futures::stream::iter(frames)))
            .unwrap();
        let client = layer().layer(Client::builder(TokioExecutor::new()).build(connector));
        let response = client.oneshot(request).await.unwrap();
        assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Fallback));
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let expected = |token: &str| (version, token.to_owned(), Bytes::from("over tls"));
        assert_eq!(seen, [expected("old"), expected("new")]);
    }
}

#[tokio::test]
async fn a_websocket_handshake_refused_once_is_then_accepted_and_used() {
    let server = Server::start(|mut request| async move {
        if token_of(&request) == "old" {
            return json(401, "{}");
        }
        let key = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = TokioIo::new(upgrade.await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() {
                    socket.send(Message::text(format!("echo of {message}"))).await.unwrap();
                }
            }
        });
        Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", key)
            .body(full(""))
            .unwrap()
    })
    .await;
    let request = Request::get(server.url("/"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut response = layer().layer(hyper_client(Protocol::Http1)).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(Outcome::of(&response).attempts().count(), 2);
    let stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("echo of hello"));
}

#[cfg(feature = "json")]
#[tokio::test]
async fn with_decompression_inside_a_refusal_in_gzip_is_read() {
    use tower_credential_fallback::{JsonCodeClassifier, RejectionKind};

    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    for protocol in PROTOCOLS {
        let server = Server::start(move |request| async move {
            let text = if token_of(&request) == "old" { r#"{"code":4101}"# } else { r#"{"code":0}"# };
            let mut answer = json(200, gzip(text));
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            answer
        })
        .await;
        let layer =
            layer().with_classifier(JsonCodeClassifier::new("code").reject(4101, RejectionKind::Forbidden));
        let client = ServiceBuilder::new()
            .layer(layer)
            .layer(DecompressionLayer::new())
            .service(hyper_client::<ReplayBody<Full<Bytes>>>(protocol));
        let request = Request::post(server.url("/")).body(Full::from("x")).unwrap();
        let response = client.oneshot(request).await.unwrap();
        assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Fallback), "{protocol:?}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), r#"{"code":0}"#);
    }
}

#[tokio::test]
async fn layers_around_see_one_call_and_layers_inside_see_each_attempt() {
    for protocol in PROTOCOLS {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let log = Arc::clone(&seen);
        let server = Server::start(move |request| {
            let around = request.headers().get_all("x-around").iter().count();
            let inside = request.headers().get_all("x-inside").iter().count();
            log.lock().unwrap().push((token_of(&request), around, inside));
            let status = if token_of(&request) == "old" { 401 } else { 200 };
            async move { json(status, "{}") }
        })
        .await;
        let set = |name| SetRequestHeaderLayer::appending(name, HeaderValue::from_static("1"));
        let client = ServiceBuilder::new()
            .buffer(2)
            .concurrency_limit(1)
            .timeout(Duration::from_secs(60))
            .layer(TraceLayer::new_for_http())
            .layer(set("x-around".parse().unwrap()))
            .layer(layer())
            .layer(TraceLayer::new_for_http())
            .layer(set("x-inside".parse().unwrap()))
            .layer(FollowRedirectLayer::new())
            .buffer(2)
            .concurrency_limit(1)
            .timeout(Duration::from_secs(60))
            .service(hyper_client(protocol));
        let calls = (0..10).map(|_| {
            let request = Request::post(server.url("/")).body(Full::<Bytes>::from("x")).unwrap();
            client.clone().oneshot(request)
        });
        for response in futures::future::join_all(calls).await {
            assert_eq!(Outcome::of(&response.unwrap()).answered_by(), Some(Slot::Fallback));
        }
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 20);
        assert!(seen.iter().all(|(_, around, inside)| (*around, *inside) == (1, 1)), "{seen:?}");
    }
}

#[tokio::test]
async fn a_timeout_inside_ends_the_call_as_an_error_and_is_no_refusal() {
    let server = Server::start(|_| std::future::pending()).await;
    let client = ServiceBuilder::new()
        .layer(layer())
        .timeout(Duration::from_millis(20))
        .service(hyper_client::<ReplayBody<Empty<Bytes>>>(Protocol::Http1));
    let request = Request::get(server.url("/")).body(Empty::new()).unwrap();
    let error = client.oneshot(request).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error:?}");
    assert!(server.connections() <= 1, "it was sent twice");
}

#[tokio::test]
async fn tower_https_timeout_answers_in_place_of_the_server_and_that_is_no_refusal() {
    let server = Server::start(|request| async move {
        if request.uri().path() == "/hangs" {
            std::future::pending::<()>().await;
        }
        json(if token_of(&request) == "old" { 401 } else { 200 }, "{}")
    })
    .await;
    // It makes an answer of its own, so the body has to be of a kind that it can make: a box.
    fn boxed<B>(body: B) -> UnsyncBoxBody<Bytes, B::Error>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
    {
        body.boxed_unsync()
    }
    let timeout = || TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(3));
    let client = ServiceBuilder::new()
        .layer(timeout())
        .layer(MapResponseBodyLayer::new(boxed))
        .layer(layer())
        .layer(timeout())
        .layer(MapResponseBodyLayer::new(boxed))
        .service(hyper_client::<ReplayBody<Empty<Bytes>>>(Protocol::Http1));
    let call = |path| client.clone().oneshot(Request::get(server.url(path)).body(Empty::new()).unwrap());
    let response = call("/").await.unwrap();
    assert_eq!((response.status(), Outcome::of(&response).attempts().count()), (StatusCode::OK, 2));
    assert_eq!(call("/hangs").await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
}

/// Repeats what was answered with 503.
#[derive(Clone)]
struct Overloaded;

impl<B: Clone, A> Policy<Request<B>, Response<A>, BoxError> for Overloaded {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<A>, BoxError>,
    ) -> Option<Self::Future> {
        let is_overloaded = result.as_ref().is_ok_and(|response| response.status() == 503);
        is_overloaded.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn a_retry_around_repeats_the_whole_call() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let server = Server::start(move |request| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        let status = match token_of(&request).as_str() {
            "old" => 401,
            _ if nth < 4 => 503,
            _ => 200,
        };
        async move { json(status, "{}") }
    })
    .await;
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(Overloaded))
        .layer(layer().with_classifier(StatusClassifier::new()))
        .service(hyper_client::<ReplayBody<Full<Bytes>>>(Protocol::Http1));
    let request = Request::post(server.url("/")).body(Full::<Bytes>::from("x")).unwrap();
    let response: Response<PeekBody<_>> = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(calls.load(Ordering::SeqCst), 6, "old, new (503), old, new (503), old, new");
}
