//! The work that everybody is measured on, and the ways to do it.
#![allow(dead_code, unreachable_pub, reason = "each benchmark uses its part")]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::FutureExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::retry::{Policy, RetryLayer};
use tower::{Service, ServiceBuilder};
use tower_credential_fallback::{
    Credential, CredentialFallbackLayer, JsonCodeClassifier, Order, RejectionKind,
};
use tower_http::set_header::SetRequestHeaderLayer;

/// What is sent, and what comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub name: &'static str,
    /// Bytes in the request's body.
    pub body: usize,
    pub answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Accepted, in JSON, with a code to look for behind the data.
    Json,
    /// The same, with the code before the data.
    CodeFirst,
    /// Accepted, and not JSON.
    Text,
    /// The old credential is refused, in JSON, and the new one accepted; who can learn has learnt it.
    Moved,
    /// The same, and nothing is learnt: every call is refused and replayed.
    Refused,
}

pub const CASES: [Case; 7] = [
    Case { name: "no body, JSON", body: 0, answer: Answer::Json },
    Case { name: "4 KiB, JSON", body: 4 * 1024, answer: Answer::Json },
    Case { name: "4 KiB, JSON, code first", body: 4 * 1024, answer: Answer::CodeFirst },
    Case { name: "1 MiB, JSON", body: 1024 * 1024, answer: Answer::Json },
    Case { name: "4 KiB, text", body: 4 * 1024, answer: Answer::Text },
    Case { name: "4 KiB, moved", body: 4 * 1024, answer: Answer::Moved },
    Case { name: "4 KiB, refused, then accepted", body: 4 * 1024, answer: Answer::Refused },
];

/// Calls in a row whose instructions are counted.
pub const CALLS: u64 = 64;

/// A way to do it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// One credential, set by tower-http: what everybody else is compared with.
    Bare,
    Ours,
    /// `tower::retry`, whose policy looks at the status and sets the other credential.
    Retry,
    /// Clone, send, collect, parse, look at the code, send again with a second client.
    Recipe,
}

impl Way {
    pub const ALL: [Self; 4] = [Self::Bare, Self::Ours, Self::Retry, Self::Recipe];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Ours => "ours",
            Self::Retry => "tower::retry",
            Self::Recipe => "recipe",
        }
    }
}

/// A chat's answer, shortened.
pub const ACCEPTED: &str = r#"{"data":{"id":"7381371876397948934","conversation_id":"7381365856095485412","bot_id":"7379462189365198898","created_at":1718609571,"last_error":{"code":0,"msg":""},"status":"in_progress"},"code":0,"msg":""}"#;
pub const CODE_FIRST: &str = r#"{"code":0,"msg":"","data":{"id":"7381371876397948934","conversation_id":"7381365856095485412","bot_id":"7379462189365198898","created_at":1718609571,"last_error":{"code":0,"msg":""},"status":"in_progress"}}"#;
pub const REFUSED: &str =
    r#"{"code":4101,"msg":"The token has no permission for this resource.","detail":{"logid":"2025"}}"#;

pub const OLD: &str = "Bearer old-token-of-some-forty-characters-as-they-are";
pub const NEW: &str = "Bearer new-token-of-some-forty-characters-as-they-are";

pub fn request(case: Case) -> Request<Full<Bytes>> {
    let mut request = Request::post("https://api.example.com/v3/chat?conversation_id=7381365856095485412")
        .body(Full::new(Bytes::from(vec![b'x'; case.body])))
        .expect("a valid request");
    *request.headers_mut() = headers();
    request
}

/// Seven of them, made at run time, as a client's are.
pub fn headers() -> HeaderMap {
    let header = |nth| {
        let name = format!("x-dynamic-header-{nth}");
        let value = format!("value {nth} of this request, made at run time");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a valid name");
        (name, HeaderValue::from_str(&value).expect("a valid value"))
    };
    (0..7).map(header).collect()
}

/// Reads the request's body to its end, as a connection would, and answers. Allocates nothing but the answer.
#[derive(Clone)]
pub struct Inner {
    answer: Answer,
}

impl<B> Service<Request<B>> for Inner
where
    B: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_old = request.headers().get(AUTHORIZATION).is_some_and(|value| value == OLD);
        let mut body = request.into_body();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
            std::hint::black_box(frame);
        }
        let (status, kind, text) = match self.answer {
            Answer::Text => (200, "text/plain", "as it is"),
            Answer::Moved | Answer::Refused if is_old => (401, "application/json", REFUSED),
            Answer::CodeFirst => (200, "application/json", CODE_FIRST),
            Answer::Json | Answer::Moved | Answer::Refused => (200, "application/json", ACCEPTED),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = StatusCode::from_u16(status).expect("a valid status");
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        ready(Ok(response))
    }
}

pub fn set(token: &'static str) -> SetRequestHeaderLayer<HeaderValue> {
    SetRequestHeaderLayer::overriding(AUTHORIZATION, HeaderValue::from_static(token))
}

pub fn bare(
    case: Case,
) -> impl Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone {
    ServiceBuilder::new().layer(set(OLD)).service(Inner { answer: case.answer })
}

pub fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    let credential =
        |token: &str| Credential::bearer(token.trim_start_matches("Bearer ")).expect("a valid token");
    let classifier = JsonCodeClassifier::new("code")
        .reject(4100, RejectionKind::Unauthenticated)
        .reject(4101, RejectionKind::Forbidden)
        .reject(700_012_006, RejectionKind::Unauthenticated);
    CredentialFallbackLayer::new(credential(OLD), credential(NEW))
        .expect("two tokens")
        .with_classifier(classifier)
}

/// Looks at the status alone, and sets the other credential.
#[derive(Clone)]
pub struct StatusOnly;

impl<A, E> Policy<Request<Full<Bytes>>, Response<A>, E> for StatusOnly {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        request: &mut Request<Full<Bytes>>,
        result: &mut Result<Response<A>, E>,
    ) -> Option<Ready<()>> {
        let is_refused = result.as_ref().is_ok_and(|response| response.status() == StatusCode::UNAUTHORIZED);
        let is_old = request.headers().get(AUTHORIZATION).is_some_and(|value| value == OLD);
        (is_refused && is_old).then(|| {
            request.headers_mut().insert(AUTHORIZATION, const { HeaderValue::from_static(NEW) });
            ready(())
        })
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

/// What the migration guide does, in Rust.
#[derive(Clone)]
pub struct Recipe<P, E> {
    pub personal: P,
    pub enterprise: E,
}

impl<P, E> Recipe<P, E>
where
    P: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible>,
    E: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible>,
{
    pub async fn call(&mut self, request: Request<Full<Bytes>>) -> Response<Full<Bytes>> {
        let again = request.clone();
        let response = self.personal.call(request).await.unwrap_or_else(|never| match never {});
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap_or_else(|never| match never {}).to_bytes();
        let code =
            serde_json::from_slice::<serde_json::Value>(&body).ok().and_then(|json| json["code"].as_i64());
        if matches!(code, Some(4100 | 4101)) {
            return self.enterprise.call(again).await.unwrap_or_else(|never| match never {});
        }
        Response::from_parts(head, Full::new(body))
    }
}

/// Does the call, whichever way, and reads the answer to its end. Nothing in it ever waits.
pub fn run(way: Way, case: Case) -> impl FnMut(Request<Full<Bytes>>) {
    let mut bare = bare(case);
    let order = if case.answer == Answer::Refused { Order::PrimaryFirst } else { Order::Adaptive };
    let mut ours =
        ServiceBuilder::new().layer(layer().with_order(order)).service(Inner { answer: case.answer });
    let mut retry = ServiceBuilder::new()
        .layer(set(OLD))
        .layer(RetryLayer::new(StatusOnly))
        .service(Inner { answer: case.answer });
    let personal = ServiceBuilder::new().layer(set(OLD)).service(Inner { answer: case.answer });
    let enterprise = ServiceBuilder::new().layer(set(NEW)).service(Inner { answer: case.answer });
    let mut recipe = Recipe { personal, enterprise };
    move |request| match way {
        Way::Bare => finish(bare.call(request)),
        Way::Ours => finish(ours.call(request)),
        Way::Retry => finish(retry.call(request)),
        Way::Recipe => finish(async { Ok::<_, Infallible>(recipe.call(request).await) }),
    }
}

fn finish<F, B, E>(call: F)
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body + Unpin,
{
    let Some(Ok(response)) = call.now_or_never() else { panic!("it waits, or fails") };
    let mut body = response.into_body();
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
        std::hint::black_box(frame.into_data().ok());
    }
}

/// Short, as it is for ratios within one run.
pub fn criterion() -> criterion::Criterion {
    use std::time::Duration;

    criterion::Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Where the report finds what a benchmark has measured.
pub fn save(name: &str, results: &serde_json::Value) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("results");
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join(format!("{name}.json")), results.to_string()));
    if let Err(error) = written {
        eprintln!("{name}: the results could not be written: {error}");
    }
    println!("{name}: {results:#}");
}
