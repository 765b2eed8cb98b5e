//! A large upload that is refused at its first bytes, by servers that answer before they read.
#![cfg(all(feature = "http2", feature = "reqwest"))]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::TokioIo;
use peak_alloc::PeakAlloc;
use support::{Protocol, hyper_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::reqwest::{FallbackMiddleware, ReqwestService};
use tower_credential_fallback::{Credential, CredentialFallbackLayer, NoReplay, Order, Outcome, Slot};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: usize = 1024 * 1024;
const UPLOAD: usize = 64 * MIB;
const PIECE: usize = 16 * 1024;
const LIMIT: usize = MIB;

/// What the upload is made of, over and over. A prime length, so that no piece equals the next.
fn pattern() -> Arc<[u8]> {
    let mut state = 1_u32;
    let block = (0..65_521).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    block.collect()
}

fn piece_at(pattern: &[u8], offset: usize) -> Vec<u8> {
    let (before, after) = pattern.split_at(offset % pattern.len());
    let len = after.len().min(PIECE);
    [&after[..len], &before[..PIECE - len]].concat()
}

/// Checks that what arrives is the upload, byte by byte.
struct Checked {
    pattern: Arc<[u8]>,
    arrived: usize,
}

impl Checked {
    fn new() -> Self {
        Self { pattern: pattern(), arrived: 0 }
    }

    fn add(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let expected = &self.pattern[self.arrived % self.pattern.len()..];
            let len = expected.len().min(data.len());
            assert!(data[..len] == expected[..len], "another byte than was sent, at {}", self.arrived);
            self.arrived += len;
            data = &data[len..];
        }
    }
}

/// The upload. A slow one stops after its third piece until a permit says that the second attempt has begun.
fn upload(gate: Option<Arc<Semaphore>>) -> UnsyncBoxBody<Bytes, Infallible> {
    let pattern = pattern();
    let pieces = futures::stream::iter((0..UPLOAD).step_by(PIECE)).then(move |offset| {
        let data = Bytes::from(piece_at(&pattern, offset));
        let gate = gate.clone().filter(|_| offset == 3 * PIECE);
        async move {
            match gate {
                Some(gate) => gate.acquire().await.unwrap().forget(),
                None => tokio::task::yield_now().await,
            }
            Ok(Frame::data(data))
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(pieces))
}

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), Credential::bearer("new").unwrap())
        .unwrap()
        .with_order(Order::PrimaryFirst)
        .with_replay_limit(LIMIT)
}

/// What a server saw.
struct Seen {
    /// How the first attempt's upload ended, and when.
    first_ended: oneshot::Receiver<(String, Instant)>,
    /// When its refusal was written.
    refused_at: oneshot::Receiver<Instant>,
    /// Bytes of the second attempt.
    arrived: oneshot::Receiver<usize>,
}

/// HTTP/1.1, by hand, as no proper server would do it: the refusal is written when the first bytes of the upload
/// are there. Then it reads on, or not, and never closes by itself.
async fn http1_server(gate: Arc<Semaphore>, reads_on: bool) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, first_ended) = oneshot::channel();
    let (refused, refused_at) = oneshot::channel();
    let (sum, arrived) = oneshot::channel();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let len = first.read(&mut buffer).await.unwrap();
            head.extend_from_slice(&buffer[..len]);
        }
        assert!(String::from_utf8_lossy(&head).contains("Bearer old"));
        first.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        refused.send(Instant::now()).unwrap();
        if reads_on {
            tokio::spawn(async move {
                let how = loop {
                    match first.read(&mut buffer).await {
                        Ok(0) => break "closed".to_owned(),
                        Ok(_) => {}
                        Err(error) => break error.kind().to_string(),
                    }
                };
                let _ = ended.send((how, Instant::now()));
            });
            serve_second(listener, gate, sum).await;
        } else {
            serve_second(listener, gate, sum).await;
            drop(first);
        }
    });
    (address, Seen { first_ended, refused_at, arrived })
}

async fn serve_second(listener: TcpListener, gate: Arc<Semaphore>, sum: oneshot::Sender<usize>) {
    let (stream, _) = listener.accept().await.unwrap();
    let sum = std::sync::Mutex::new(Some(sum));
    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
        assert_eq!(support::token_of(&request), "new");
        gate.add_permits(1);
        let sum = sum.lock().unwrap().take().unwrap();
        async move {
            let mut checked = Checked::new();
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                checked.add(&frame.unwrap().into_data().unwrap());
            }
            sum.send(checked.arrived).unwrap();
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// HTTP/2, by the `h2` crate itself: the refusal ends its stream before the upload is read.
async fn http2_server(gate: Arc<Semaphore>) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, first_ended) = oneshot::channel();
    let (refused, refused_at) = oneshot::channel();
    let (sum, arrived) = oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (first, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(support::token_of(&first), "old");
        let refusal = Response::builder().status(401).body(()).unwrap();
        respond.send_response(refusal, true).unwrap();
        refused.send(Instant::now()).unwrap();
        tokio::spawn(async move {
            let mut body = first.into_body();
            let how = loop {
                match body.data().await {
                    Some(Ok(data)) => drop(body.flow_control().release_capacity(data.len())),
                    Some(Err(error)) => break format!("{:?}", error.reason()),
                    None => break "end of stream".to_owned(),
                }
            };
            let _ = ended.send((how, Instant::now()));
        });
        let (second, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(support::token_of(&second), "new");
        gate.add_permits(1);
        tokio::spawn(async move {
            let mut checked = Checked::new();
            let mut body = second.into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                checked.add(&data);
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            sum.send(checked.arrived).unwrap();
            respond.send_response(Response::new(()), true).unwrap();
        });
        while connection.accept().await.is_some() {}
    });
    (address, Seen { first_ended, refused_at, arrived })
}

/// The most memory that the process has had, in bytes.
#[cfg(target_os = "linux")]
fn resident_peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[cfg(not(target_os = "linux"))]
fn resident_peak() -> usize {
    0
}

enum Client {
    Hyper(Protocol),
    ReqwestService(Protocol),
    ReqwestMiddleware,
}

impl Client {
    async fn upload(
        &self,
        url: String,
        body: UnsyncBoxBody<Bytes, Infallible>,
    ) -> (StatusCode, Option<Slot>) {
        let as_stream =
            |body: UnsyncBoxBody<Bytes, Infallible>| reqwest::Body::wrap_stream(body.into_data_stream());
        match self {
            Self::Hyper(protocol) => {
                let client = layer().layer(hyper_client(*protocol));
                let response = client.oneshot(Request::post(url).body(body).unwrap()).await.unwrap();
                (response.status(), Outcome::of(&response).answered_by())
            }
            Self::ReqwestService(protocol) => {
                let client = match protocol {
                    Protocol::Http1 => reqwest::Client::builder().http1_only(),
                    Protocol::Http2 => reqwest::Client::builder().http2_prior_knowledge(),
                };
                let client = layer().layer(ReqwestService::new(client.build().unwrap()));
                let response =
                    client.oneshot(Request::post(url).body(as_stream(body)).unwrap()).await.unwrap();
                (response.status(), Outcome::of(&response).answered_by())
            }
            Self::ReqwestMiddleware => {
                let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
                    .with(FallbackMiddleware::new(layer()))
                    .build();
                let response = client.post(url).body(as_stream(body)).send().await.unwrap();
                (response.status(), Outcome::of_extensions(response.extensions()).answered_by())
            }
        }
    }
}

/// One test: the heap is measured, and so nothing else may run beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_refused_at_its_first_bytes_arrives_whole_in_bounded_memory() {
    for (name, client, is_http2) in [
        ("hyper, HTTP/1.1", Client::Hyper(Protocol::Http1), false),
        ("hyper, HTTP/2", Client::Hyper(Protocol::Http2), true),
        ("reqwest as a service, HTTP/1.1", Client::ReqwestService(Protocol::Http1), false),
        ("reqwest as a service, HTTP/2", Client::ReqwestService(Protocol::Http2), true),
        ("reqwest-middleware, HTTP/1.1", Client::ReqwestMiddleware, false),
    ] {
        let gate = Arc::new(Semaphore::new(0));
        let (address, seen) = match is_http2 {
            true => http2_server(Arc::clone(&gate)).await,
            false => http1_server(Arc::clone(&gate), true).await,
        };
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let resident_before = resident_peak();
        let answer = client.upload(format!("http://{address}/"), upload(Some(gate))).await;
        let grown = HEAP.peak_usage() - before;
        let resident = resident_peak().saturating_sub(resident_before);

        assert_eq!(answer, (StatusCode::OK, Some(Slot::Fallback)), "{name}");
        assert_eq!(seen.arrived.await.unwrap(), UPLOAD, "{name}");
        let (how, ended_at) = tokio::time::timeout(Duration::from_secs(20), seen.first_ended)
            .await
            .expect("the first upload was never given up")
            .unwrap();
        assert_eq!(how, if is_http2 { "Some(CANCEL)" } else { "closed" }, "{name}");
        assert!(grown <= LIMIT + 4 * MIB, "{name}: {grown} bytes more on the heap");
        let took = ended_at - seen.refused_at.await.unwrap();
        assert!(resident <= LIMIT + 8 * MIB, "{name}: {resident} bytes more in memory");
        println!(
            "{name}: at the most {} KiB of heap and {} KiB of memory more; first upload given up {took:?} after \
             its refusal",
            grown / 1024,
            resident / 1024
        );
    }
    a_server_that_never_reads_on_does_not_keep_the_upload_to_itself().await;
    an_upload_past_the_limit_goes_on_and_its_refusal_is_returned_whole().await;
}

/// Its connection takes no more bytes, so the first attempt does not look at its body any more.
async fn a_server_that_never_reads_on_does_not_keep_the_upload_to_itself() {
    let gate = Arc::new(Semaphore::new(0));
    let (address, seen) = http1_server(gate, false).await;
    let client = layer().with_replay_limit(UPLOAD).layer(hyper_client(Protocol::Http1));
    let request = Request::post(format!("http://{address}/")).body(upload(None)).unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(seen.arrived.await.unwrap(), UPLOAD);
}

async fn an_upload_past_the_limit_goes_on_and_its_refusal_is_returned_whole() {
    let server = support::Server::start(|request| async move {
        let mut checked = Checked::new();
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            checked.add(&frame.unwrap().into_data().unwrap());
        }
        support::json(401, checked.arrived.to_string())
    })
    .await;
    for protocol in support::PROTOCOLS {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let request = Request::post(server.url("/")).body(upload(None)).unwrap();
        let call = layer().layer(hyper_client(protocol)).oneshot(request);
        let response = tokio::time::timeout(Duration::from_secs(60), call).await.expect("stalled").unwrap();
        let grown = HEAP.peak_usage() - before;
        assert!(matches!(Outcome::of(&response).no_replay(), Some(NoReplay::BodyTooLarge)));
        let told = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(told, UPLOAD.to_string(), "{protocol:?}: the upload was cut off");
        assert!(grown <= LIMIT + 4 * MIB, "{protocol:?}: {grown} bytes more on the heap");
    }
}
