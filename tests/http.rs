//! The layer over real sockets: hyper's client, hyper's server, HTTP/1.1 and HTTP/2.
#![cfg(feature = "coze")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use support::{Body, HyperClient, PROTOCOLS, Protocol, Server, hyper_client, json, token_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::CozeClassifier;
use tower_credential_fallback::{
    Credential, CredentialFallback, CredentialFallbackLayer, Order, Outcome, ReplayBody, Slot,
};

type Client = CredentialFallback<HyperClient<ReplayBody<Full<Bytes>>>, Credential, Credential>;

const REFUSAL: &str = r#"{"code":4101,"msg":"no permission"}"#;

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), Credential::bearer("new").unwrap())
        .unwrap()
        .with_classifier(CozeClassifier::new())
        .with_order(Order::PrimaryFirst)
}

fn client(protocol: Protocol) -> Client {
    layer().layer(hyper_client(protocol))
}

fn request(method: Method, url: String, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(url).body(Full::new(body.into())).unwrap()
}

/// A body of these pieces, each its own frame, each sent once the one before it is under way.
fn pieces(pieces: impl IntoIterator<Item = Vec<u8>, IntoIter: Send + 'static>) -> Body {
    let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
    BodyExt::boxed_unsync(StreamBody::new(futures::stream::iter(frames)))
}

#[tokio::test]
async fn a_refused_upload_arrives_whole_with_its_exact_length_at_the_second_attempt() {
    for protocol in PROTOCOLS {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let server = Server::start(move |request| {
            let log = Arc::clone(&log);
            async move {
                let token = token_of(&request);
                let length = request.headers()["content-length"].to_str().unwrap().to_owned();
                let chunked = request.headers().contains_key("transfer-encoding");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                log.lock().unwrap().push((token.clone(), length, chunked, body));
                if token == "new" { json(200, r#"{"code":0}"#) } else { json(200, REFUSAL) }
            }
        })
        .await;
        let content: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let response = client(protocol)
            .oneshot(request(Method::POST, server.url("/up"), content.clone()))
            .await
            .unwrap();
        assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Fallback));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), r#"{"code":0}"#);
        let seen = seen.lock().unwrap();
        let expected =
            |token: &str| (token.to_owned(), "300000".to_owned(), false, Bytes::from(content.clone()));
        assert_eq!(*seen, [expected("old"), expected("new")], "{protocol:?}");
    }
}

#[tokio::test]
async fn a_refusal_split_over_many_frames_is_found_and_an_accepted_answer_is_unchanged() {
    for protocol in PROTOCOLS {
        let server = Server::start(|request| async move {
            let text = if token_of(&request) == "old" { REFUSAL } else { r#"{"data":"fine","code":0}"# };
            let body = pieces(text.bytes().map(|byte| vec![byte]).collect::<Vec<_>>());
            Response::builder().header("content-type", "application/json").body(body).unwrap()
        })
        .await;
        let response = client(protocol).oneshot(request(Method::GET, server.url("/"), "")).await.unwrap();
        assert_eq!(Outcome::of(&response).attempts().count(), 2);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), r#"{"data":"fine","code":0}"#);
    }
}

#[tokio::test]
async fn trailers_of_an_inspected_answer_reach_the_caller() {
    for protocol in PROTOCOLS {
        let server = Server::start(|_| async {
            let trailers = [("x-sum".parse().unwrap(), "9".parse().unwrap())].into_iter().collect();
            let frames = [Frame::data(Bytes::from(r#"{"data":1}"#)), Frame::trailers(trailers)];
            let body = StreamBody::new(futures::stream::iter(frames.map(Ok)));
            Response::builder()
                .header("content-type", "application/json")
                .header("trailer", "x-sum")
                .body(BodyExt::boxed_unsync(body))
                .unwrap()
        })
        .await;
        let mut request = request(Method::GET, server.url("/"), "");
        if let Protocol::Http1 = protocol {
            request.headers_mut().insert("te", "trailers".parse().unwrap());
        }
        let response = client(protocol).oneshot(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "9", "{protocol:?}");
        assert_eq!(collected.to_bytes(), r#"{"data":1}"#);
    }
}

#[tokio::test]
async fn an_answer_longer_than_the_limit_is_handed_on_whole() {
    for protocol in PROTOCOLS {
        let long = format!(r#"{{"data":"{}","code":4101}}"#, "x".repeat(200_000));
        let answer = long.clone();
        let server = Server::start(move |_| {
            let answer = answer.clone();
            async move { json(200, answer) }
        })
        .await;
        let response = client(protocol).oneshot(request(Method::GET, server.url("/"), "")).await.unwrap();
        assert_eq!(Outcome::of(&response).attempts().count(), 1, "the code stands behind the limit");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), long);
    }
}

#[tokio::test]
async fn events_arrive_before_the_next_one_exists_and_an_endless_answer_never_stalls() {
    for (protocol, content_type, first) in [
        (Protocol::Http1, "text/event-stream; charset=utf-8", "event:done\n\n"),
        (Protocol::Http2, "text/event-stream", "event:done\n\n"),
        (Protocol::Http1, "application/json", r#"{"code":0,"data":["#),
        (Protocol::Http2, "text/plain", "4101"),
        // Whole, and no code in it: judged by its status when it has paused for a second.
        (Protocol::Http1, "application/json", "{}\n"),
        (Protocol::Http2, "application/json", "{}\n"),
    ] {
        let go_on = Arc::new(Notify::new());
        let released = Arc::clone(&go_on);
        let server = Server::start(move |_| {
            let go_on = Arc::clone(&go_on);
            async move {
                let (sender, receiver) = mpsc::channel(1);
                tokio::spawn(async move {
                    sender.send(Ok(Frame::data(Bytes::from(first)))).await.unwrap();
                    go_on.notified().await;
                    let _ = sender.send(Ok(Frame::data(Bytes::from("second")))).await;
                });
                let frames = futures::stream::unfold(receiver, |mut receiver| async {
                    receiver.recv().await.map(|frame| (frame, receiver))
                });
                let body = BodyExt::boxed_unsync(StreamBody::new(Box::pin(frames)));
                Response::builder().header("content-type", content_type).body(body).unwrap()
            }
        })
        .await;
        // Were the second frame waited for, this would hang: nobody has asked for it yet.
        let response = client(protocol).oneshot(request(Method::GET, server.url("/"), "")).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), first);
        released.notify_one();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "second");
    }
}

#[tokio::test]
async fn what_has_no_readable_body_is_judged_by_status_alone() {
    for protocol in PROTOCOLS {
        let server = Server::start(|request| async move {
            let refused = token_of(&request) == "old";
            let status = match request.uri().path() {
                "/204" => 204,
                "/304" => 304,
                _ if refused && request.uri().path() == "/gzip-401" => 401,
                _ if refused && *request.method() == Method::HEAD => 403,
                _ => 200,
            };
            let mut answer = json(status, if status == 200 { REFUSAL } else { "" });
            if request.uri().path().starts_with("/gzip") {
                answer.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            }
            answer
        })
        .await;
        for (method, path, attempts) in [
            (Method::GET, "/204", 1),
            (Method::GET, "/304", 1),
            (Method::GET, "/gzip", 1),
            (Method::GET, "/gzip-401", 2),
            (Method::HEAD, "/", 2),
        ] {
            let request = request(method.clone(), server.url(path), "");
            let response = client(protocol).oneshot(request).await.unwrap();
            assert_eq!(Outcome::of(&response).attempts().count(), attempts, "{method} {path} {protocol:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_while_looked_at_is_handed_on_with_its_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
        stream.write_all(format!("{head}{{\"data\":").as_bytes()).await.unwrap();
    });
    let response = client(Protocol::Http1).oneshot(request(Method::GET, url, "")).await.unwrap();
    server.await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), r#"{"data":"#);
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn a_thousand_refused_then_accepted_calls_use_one_connection() {
    for (size, limit) in [(REFUSAL.len(), 8 * 1024), (64 * 1024, 64 * 1024)] {
        let server = Server::start(move |request| async move {
            let refused = token_of(&request) == "old";
            let text =
                if refused { format!("{REFUSAL}{}", " ".repeat(size - REFUSAL.len())) } else { "{}".into() };
            json(if refused { 401 } else { 200 }, text)
        })
        .await;
        let client = layer().with_inspect_limit(limit).layer(hyper_client(Protocol::Http1));
        for _ in 0..1_000 {
            let response = client.clone().oneshot(request(Method::GET, server.url("/"), "")).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().await.unwrap();
        }
        assert_eq!(server.connections(), 1, "refusals of {size} bytes");
    }
}

#[tokio::test]
async fn a_refusal_that_never_ends_does_not_hold_up_the_replay() {
    for protocol in PROTOCOLS {
        let server = Server::start(|request| async move {
            if token_of(&request) == "new" {
                return json(200, "{}");
            }
            let body = BodyExt::boxed_unsync(StreamBody::new(futures::stream::pending()));
            Response::builder().status(401).body(body).unwrap()
        })
        .await;
        let call = client(protocol).oneshot(request(Method::GET, server.url("/"), ""));
        let response = tokio::time::timeout(Duration::from_secs(20), call).await.expect("stalled").unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn no_call_is_lost_when_the_caller_gives_up_on_others() {
    for protocol in PROTOCOLS {
        let server = Server::start(|request| async move {
            if token_of(&request) == "old" { json(401, REFUSAL) } else { json(200, full_of(request).await) }
        })
        .await;
        let client = client(protocol);
        let mut calls = tokio::task::JoinSet::new();
        for nth in 0..200_usize {
            let call = client.clone().oneshot(request(Method::POST, server.url("/"), nth.to_string()));
            calls.spawn(async move {
                if nth % 3 == 0 {
                    // Dropped at its first wait.
                    drop(futures::future::poll_immediate(call).await);
                    return;
                }
                let body = call.await.unwrap().into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, nth.to_string());
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
    }
}

async fn full_of(request: Request<hyper::body::Incoming>) -> Bytes {
    request.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn an_uploads_first_frame_leaves_before_the_second_exists() {
    for protocol in PROTOCOLS {
        let arrived = Arc::new(Notify::new());
        let go_on = Arc::clone(&arrived);
        let server = Server::start(move |request| {
            let arrived = Arc::clone(&arrived);
            async move {
                let mut body = request.into_body();
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                arrived.notify_one();
                let rest = body.collect().await.unwrap().to_bytes();
                json(200, [first, rest].concat())
            }
        })
        .await;
        // Were the first frame held back, the second would never come.
        let frames = futures::stream::unfold((0, go_on), |(nth, go_on)| async move {
            match nth {
                0 => {}
                1 => go_on.notified().await,
                _ => return None,
            }
            let data = Frame::data(Bytes::from(if nth == 0 { "first " } else { "second" }));
            Some((Ok::<_, std::io::Error>(data), (nth + 1, go_on)))
        });
        let request = Request::post(server.url("/")).body(StreamBody::new(Box::pin(frames))).unwrap();
        let call = layer().layer(hyper_client(protocol)).oneshot(request);
        let response = tokio::time::timeout(Duration::from_secs(20), call).await.expect("held back").unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "first second", "{protocol:?}");
    }
}

/// Answers each connection's first request with these bytes; then closes, or stays silent.
async fn raw_server(first: &'static str, is_closed: bool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let mut len = 0;
                while !head[..len].windows(4).any(|end| end == b"\r\n\r\n") {
                    len += socket.read(&mut head[len..]).await.unwrap();
                }
                let is_new = String::from_utf8_lossy(&head[..len]).contains("Bearer new");
                let served = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{\"code\":0}";
                let answer = if is_new { served } else { first };
                socket.write_all(answer.as_bytes()).await.unwrap();
                if is_new || !is_closed {
                    // Silent, until the client closes.
                    let _ = socket.read(&mut head).await;
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_rejection_that_falls_silent_is_replayed_whatever_length_it_announced() {
    for length in ["content-length: 500", "transfer-encoding: chunked"] {
        let body = if length.starts_with("content") { "{\"msg\":\"no " } else { "b\r\n{\"msg\":\"no \r\n" };
        let head = format!("HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\n{length}\r\n\r\n");
        let url = raw_server(format!("{head}{body}").leak(), false).await;
        let response = client(Protocol::Http1).oneshot(request(Method::GET, url, "")).await.unwrap();
        assert_eq!(Outcome::of(&response).served_by(), Some(Slot::Fallback), "{length}");
    }
}

#[tokio::test]
async fn a_rejection_that_the_network_cuts_behind_its_code_is_replayed() {
    const REST: &str = r#"{"code":4101,"latency":-1.5e+3,"ok":true,"msg":"\u4e2d\n中","detail":{}}"#;
    let code = REST.find(',').unwrap();
    for end in (code + 1..REST.len()).filter(|end| REST.is_char_boundary(*end)) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n";
        let url = raw_server(format!("{head}{}", &REST[..end]).leak(), true).await;
        let response = client(Protocol::Http1).oneshot(request(Method::GET, url, "")).await.unwrap();
        assert_eq!(Outcome::of(&response).served_by(), Some(Slot::Fallback), "{}", &REST[..end]);
    }
}
