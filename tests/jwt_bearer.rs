//! `JwtBearer` over real sockets, with keys made for the run and assertions verified by the server.

#![cfg(feature = "jwt")]

use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::body::Body;
use axum::extract::Request as AxumRequest;
use axum::response::Response;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::{Request, StatusCode, request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_credential_fallback::{
    AuthProvider, Clock, Credential, CredentialError, ErrorKind, ExpiresIn, JwtBearer, JwtGrant, JwtKey,
    Rejection, RejectionKind, RequestStyle,
};
use tower_service::Service;

const TOKEN: &str = "czs_the-secret-token-of-this-test-0123456789";

// --- keys -----------------------------------------------------------------------------------------------

struct Keys {
    pkcs8: String,
    pkcs1: String,
    /// PKCS#1 DER.
    public: Vec<u8>,
    public_pem: String,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = pair.as_der().unwrap();
        // PrivateKeyInfo ::= SEQUENCE { version, algorithm, privateKey OCTET STRING } (RFC 5958)
        let (_, info, _) = der(pkcs8.as_ref());
        let (_, _, after_version) = der(info);
        let (_, _, after_algorithm) = der(after_version);
        let (tag, pkcs1, _) = der(after_algorithm);
        assert_eq!(tag, 0x04);
        Keys {
            pkcs8: pem("PRIVATE KEY", pkcs8.as_ref()),
            pkcs1: pem("RSA PRIVATE KEY", pkcs1),
            public: pair.public_key().as_ref().to_vec(),
            public_pem: pem("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref()),
        }
    })
}

/// The first element's tag and content, and what follows it.
fn der(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, header) = match bytes[1] {
        short if short < 0x80 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            (bytes[2..2 + count].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + count)
        }
    };
    (bytes[0], &bytes[header..header + length], &bytes[header + length..])
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A well-formed PKCS#1 key (RFC 8017, A.1.2) of twelve bits: p = 61, q = 53.
fn tiny_key() -> String {
    let numbers: [u16; 9] = [0, 3233, 17, 2753, 61, 53, 53, 49, 38];
    let mut content = Vec::new();
    for number in numbers {
        let bytes = number.to_be_bytes();
        content.extend_from_slice(&[0x02, 2]);
        content.extend_from_slice(&bytes);
    }
    let mut der = vec![0x30, u8::try_from(content.len()).unwrap()];
    der.extend(content);
    pem("RSA PRIVATE KEY", &der)
}

fn key() -> JwtKey {
    JwtKey::from_rsa_pem("key-1", &keys().pkcs8).unwrap()
}

// --- server ---------------------------------------------------------------------------------------------

#[derive(Clone)]
struct Seen {
    head: http::HeaderMap,
    path: String,
    body: String,
}

impl Seen {
    fn form(&self) -> HashMap<String, String> {
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    fn assertion(&self) -> String {
        match self.head.get("authorization") {
            Some(value) => value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned(),
            None => self.form()["assertion"].clone(),
        }
    }

    fn claims(&self) -> Value {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        decode(self.assertion(), &DecodingKey::from_rsa_der(&keys().public), &validation).unwrap().claims
    }
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers each request with what `answer` makes of it.
    async fn start(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let app = Router::new().fallback(move |request: AxumRequest| {
            let (log, answer) = (Arc::clone(&log), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let one = Seen {
                    path: head.uri.to_string(),
                    head: head.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                log.lock().unwrap().push(one.clone());
                answer(&one)
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/oauth2/token", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn grant(&self) -> JwtGrant {
        JwtGrant::new(&self.url, key()).with_issuer("client-42").with_audience("api.example.com")
    }
}

fn answer(status: u16, body: impl Into<String>) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(body.into()))
        .unwrap()
}

fn good() -> Response {
    answer(200, json!({ "access_token": TOKEN, "token_type": "bearer", "expires_in": 900 }).to_string())
}

fn http() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn head() -> request::Parts {
    Request::new(()).into_parts().0
}

async fn ask(provider: &JwtBearer) -> Result<Credential, CredentialError> {
    provider.credential(&head()).await
}

fn shown_secret(credential: &Credential) -> String {
    let mut headers = http::HeaderMap::new();
    credential.apply(&mut headers);
    headers["authorization"].to_str().unwrap().to_owned()
}

/// The error, its sources and all their forms, as a log might have them.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        text.push_str(&format!("{error} {error:?} {error:#?}\n"));
        next = error.source();
    }
    text
}

/// A clock that is off by so many seconds.
#[derive(Clone, Copy, Debug)]
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> SystemTime {
        let by = Duration::from_secs(self.0.unsigned_abs());
        if self.0 < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn near(left: u64, right: u64) -> bool {
    left.abs_diff(right) <= 10
}

/// Asks again through the back-off until there is a token.
async fn ask_until_good(provider: &JwtBearer) -> Credential {
    loop {
        match ask(provider).await {
            Ok(credential) => return credential,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

// --- requests -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_form_carries_a_signed_assertion_and_the_parameters() {
    let server = Server::start(|_| good()).await;
    let grant = server
        .grant()
        .with_claim("sub", "robot@example.com")
        .with_claim("session", json!({ "device": 7 }))
        .with_parameter("scope", "read write")
        .with_parameter("duration_seconds", 900);
    let provider = JwtBearer::new(http(), grant).unwrap();
    let credential = ask(&provider).await.unwrap();
    assert_eq!(shown_secret(&credential), format!("Bearer {TOKEN}"));
    assert!(near(unix(credential.expires_at().unwrap()), unix(SystemTime::now()) + 900));

    let seen = &server.seen()[0];
    assert_eq!(seen.path, "/oauth2/token");
    assert_eq!(seen.head["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(seen.head["accept"], "application/json");
    let form = seen.form();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(form["scope"], "read write");
    assert_eq!(form["duration_seconds"], "900");

    let header = decode_header(seen.assertion()).unwrap();
    assert_eq!(header.alg, Algorithm::RS256);
    assert_eq!(header.typ.as_deref(), Some("JWT"));
    assert_eq!(header.kid.as_deref(), Some("key-1"));
    let claims = seen.claims();
    assert_eq!(claims["iss"], "client-42");
    assert_eq!(claims["aud"], "api.example.com");
    assert_eq!(claims["sub"], "robot@example.com");
    assert_eq!(claims["session"]["device"], 7);
    let (issued, expires) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    let now = unix(SystemTime::now());
    assert!(issued < now && now - issued < 60, "a little backdated");
    assert!(near(expires, now + 300));
    let jti = claims["jti"].as_str().unwrap();
    assert!(jti.len() == 64 && jti.bytes().all(|b| b.is_ascii_hexdigit()), "{jti}");
}

#[tokio::test]
async fn the_assertion_can_travel_in_the_authorization_header_with_a_json_body() {
    let server = Server::start(|_| good()).await;
    let scope = json!({ "account_permission": { "permission_list": ["Connector.botChat"] } });
    let grant = server
        .grant()
        .with_request_style(RequestStyle::BearerJson)
        .with_parameter("duration_seconds", 900)
        .with_parameter("scope", scope.clone());
    ask(&JwtBearer::new(http(), grant).unwrap()).await.unwrap();

    let seen = &server.seen()[0];
    assert_eq!(seen.head["content-type"], "application/json");
    assert_eq!(seen.claims()["iss"], "client-42");
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    let grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    assert_eq!(body, json!({ "grant_type": grant_type, "duration_seconds": 900, "scope": scope }));
}

#[tokio::test]
async fn an_assertion_never_outlives_an_hour() {
    let server = Server::start(|_| good()).await;
    let grant = server.grant().with_assertion_lifetime(Duration::from_secs(3_600));
    ask(&JwtBearer::new(http(), grant).unwrap()).await.unwrap();
    let claims = server.seen()[0].claims();
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3_600);
}

#[tokio::test]
async fn every_attempt_has_a_fresh_jti_and_signature_retries_included() {
    let server = Server::start(|_| answer(503, "")).await;
    let provider = JwtBearer::new(http(), server.grant()).unwrap();
    while provider.cache().mints() < 3 {
        ask(&provider).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = server.seen();
    let jtis: HashSet<_> = seen.iter().map(|one| one.claims()["jti"].to_string()).collect();
    let assertions: HashSet<_> = seen.iter().map(Seen::assertion).collect();
    assert_eq!((jtis.len(), assertions.len()), (3, 3));
}

#[tokio::test]
async fn a_thousand_concurrent_calls_exchange_one_assertion() {
    let server = Server::start(|_| good()).await;
    let provider = JwtBearer::new(http(), server.grant()).unwrap();
    let calls: Vec<_> = (0..1_000)
        .map(|_| {
            let provider = provider.clone();
            tokio::spawn(async move { ask(&provider).await.unwrap().generation() })
        })
        .collect();
    let mut generations = HashSet::new();
    for call in calls {
        generations.insert(call.await.unwrap());
    }
    assert_eq!((generations.len(), server.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_refused_token_is_exchanged_anew() {
    let server = Server::start(|_| good()).await;
    let provider = JwtBearer::new(http(), server.grant()).unwrap();
    let first = ask(&provider).await.unwrap();
    provider.rejected(&first, &Rejection::new(RejectionKind::Forbidden, StatusCode::FORBIDDEN));
    assert_eq!(ask(&provider).await.unwrap().generation(), first.generation());
    provider.rejected(&first, &Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED));
    assert_ne!(ask(&provider).await.unwrap().generation(), first.generation());
    assert_eq!(server.seen().len(), 2);
}

/// Ready on the second poll only, and never `Sync`.
#[derive(Clone)]
struct Strict {
    inner: Client<HttpConnector, Full<Bytes>>,
    polls: std::cell::Cell<u32>,
}

impl Service<Request<Full<Bytes>>> for Strict {
    type Response = hyper::Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() < 2 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        assert!(self.polls.replace(0) >= 2, "called before it was ready");
        Box::pin(self.inner.request(request))
    }
}

#[tokio::test]
async fn the_client_is_polled_ready_before_each_call_and_need_not_be_sync() {
    let server = Server::start(|_| good()).await;
    let strict = Strict { inner: http(), polls: std::cell::Cell::new(0) };
    let provider =
        JwtBearer::builder(strict, server.grant()).with_remint_interval(Duration::ZERO).build().unwrap();
    for _ in 0..2 {
        let token = ask(&provider).await.unwrap();
        provider.rejected(&token, &Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED));
    }
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn public_types_cross_threads() {
    fn crosses<T: Send + Sync + Clone + 'static>() {}
    crosses::<JwtBearer>();
    crosses::<JwtGrant>();
    crosses::<JwtKey>();
}

// --- configuration --------------------------------------------------------------------------------------

#[test]
fn pkcs1_and_pkcs8_keys_are_both_taken() {
    for pem in [&keys().pkcs1, &keys().pkcs8] {
        JwtKey::from_rsa_pem("key-1", pem).unwrap();
        JwtKey::from_rsa_pem("key-1", pem.replace('\n', "\r\n")).unwrap();
    }
}

#[test]
fn a_key_that_cannot_sign_is_refused_when_built_and_not_shown() {
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let ec = pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref());
    let pkcs8 = &keys().pkcs8;
    let cases = [
        ("got nothing", String::new()),
        ("RSA private key", "garbage".to_owned()),
        ("got a public one", keys().public_pem.clone()),
        ("got a public one", pem("RSA PUBLIC KEY", &keys().public)),
        ("2048", pem("PRIVATE KEY", &keys().public)),
        ("RSA private key", ec.clone()),
        ("got an elliptic-curve one", ec.replace("PRIVATE KEY", "EC PRIVATE KEY")),
        ("2048", tiny_key()),
        ("line breaks", pkcs8.replace('\n', "\\n")),
        ("got an encrypted one", pkcs8.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")),
        ("2048", pkcs8.replace("PRIVATE KEY", "RSA PRIVATE KEY")),
        ("2048", pkcs8[..pkcs8.len() / 2].to_owned()),
        ("2048", pem("PRIVATE KEY", b"\x30\x03\x02\x01\x00")),
    ];
    for (expected, pem) in cases {
        let error = JwtKey::from_rsa_pem("key-1", &pem).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some("private_key")));
        let shown = chain(&error);
        assert!(shown.contains(expected), "{shown}");
        for line in pem.lines().filter(|line| line.len() > 20 && !line.starts_with("-----")) {
            assert!(!shown.contains(&line[..20]), "{shown}");
        }
    }
}

#[test]
fn a_damaged_key_is_an_error_and_never_a_panic() {
    let text: String = keys().pkcs8.lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64_STANDARD.decode(text).unwrap();
    for end in (0..der.len()).step_by(7) {
        JwtKey::from_rsa_pem("key-1", pem("PRIVATE KEY", &der[..end])).unwrap_err();
    }
    // The head holds all the lengths and tags. A changed bit may go unnoticed there, but must not panic.
    for bit in 0..8 * 40 {
        let mut damaged = der.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let _ = JwtKey::from_rsa_pem("key-1", pem("PRIVATE KEY", &damaged));
    }
}

#[test]
fn what_is_missing_or_wrong_in_a_grant_is_named_when_built() {
    let url = "https://identity.example.com/token";
    let grant = || JwtGrant::new(url, key()).with_issuer("client-42").with_audience("api.example.com");
    let at = |url: &str| JwtGrant::new(url, key()).with_issuer("client-42").with_audience("api.example.com");
    let cases = [
        ("issuer", grant().with_issuer("")),
        ("issuer", grant().with_issuer("client-42\n")),
        ("audience", grant().with_audience("")),
        ("audience", JwtGrant::new(url, key()).with_issuer("client-42")),
        ("assertion_lifetime", grant().with_assertion_lifetime(Duration::ZERO)),
        ("assertion_lifetime", grant().with_assertion_lifetime(Duration::from_secs(3_601))),
        ("token_url", at("")),
        ("token_url", at("/token")),
        ("token_url", at("identity.example.com/token")),
        ("token_url", at("ftp://identity.example.com/token")),
        ("token_url", at("https:///token")),
        ("token_url", at("https://user:hunter2@identity.example.com/token")),
        ("token_url", at("https://identity.example.com/token#fragment")),
        ("token_url", at("https://identity example.com/token")),
        ("token_url", at("https://identity.example.com:84433/token")),
        ("token_url", at("https://*.example.com/token")),
        ("token_url", at("http://identity.example.com/token")),
        ("token_url", at("http://127.0.0.1.example.com/token")),
        ("token_url", at("http://localhost.example.com/token")),
        ("parameter", grant().with_parameter("grant_type", "password")),
        ("parameter", grant().with_parameter("assertion", "x")),
        ("parameter", grant().with_parameter("scope", json!({ "nested": true }))),
        ("parameter", grant().with_parameter("scope", Value::Null)),
    ];
    for (field, grant) in cases {
        let error = JwtBearer::new(http(), grant).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some(field)), "{error}");
        assert!(error.to_string().contains("expected"), "{error}");
        assert!(!chain(&error).contains("hunter2"));
    }
    for name in ["iss", "aud", "iat", "exp", "jti"] {
        let error = JwtBearer::new(http(), grant().with_claim(name, "x")).unwrap_err();
        assert_eq!(error.field(), Some("claim"));
    }
    for id in ["", " ", "key-1\n"] {
        let error = JwtKey::from_rsa_pem(id, &keys().pkcs8).unwrap_err();
        assert_eq!(error.field(), Some("key_id"));
    }
    let error = JwtBearer::builder(http(), grant()).with_load_timeout(Duration::ZERO).build().unwrap_err();
    assert_eq!(error.field(), Some("load_timeout"));
}

#[test]
fn plaintext_is_for_loopback_or_on_request() {
    let at = |url: &str| JwtGrant::new(url, key()).with_issuer("client-42").with_audience("api.example.com");
    for url in [
        "http://127.0.0.1:8080/token",
        "http://127.9.9.9/token",
        "http://[::1]:8080/token",
        "http://localhost/token",
        "http://identity.localhost/token",
    ] {
        JwtBearer::new(http(), at(url)).unwrap();
    }
    JwtBearer::new(http(), at("http://identity.internal/token").with_plaintext_allowed(true)).unwrap();
}

// --- answers --------------------------------------------------------------------------------------------

/// The error that this answer leads to.
async fn refused(
    response: impl Fn() -> Response + Clone + Send + Sync + 'static,
    expires_in: ExpiresIn,
) -> CredentialError {
    let server = Server::start(move |_| response()).await;
    let provider = JwtBearer::new(http(), server.grant().with_expires_in(expires_in)).unwrap();
    let error = ask(&provider).await.unwrap_err();
    assert!(!chain(&error).contains(TOKEN), "{error:?}");
    let assertion = server.seen()[0].assertion();
    for part in assertion.split('.') {
        assert!(!chain(&error).contains(part), "{error:?}");
    }
    assert_eq!(ask(&provider).await.unwrap_err().to_string(), error.to_string());
    assert_eq!(server.seen().len(), 1, "no tight loop");
    error
}

#[tokio::test]
async fn a_bad_answer_is_a_clear_error_that_names_the_field() {
    let with = |field: &str, value: Value| {
        let mut body = json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 900 });
        body[field] = value;
        body.to_string()
    };
    let cases = [
        ("without a body", String::new()),
        ("not with a JSON object", "<html>sign in</html>".to_owned()),
        ("not with a JSON object", json!([TOKEN]).to_string()),
        ("not with a JSON object", format!("{{\"access_token\":\"{TOKEN}\"")),
        ("64 KiB", format!("{{\"access_token\":\"{}\"}}", "x".repeat(70 * 1024))),
        ("no `access_token`", json!({ "expires_in": 900 }).to_string()),
        ("`access_token`: expected a string, got a number", with("access_token", json!(12345))),
        ("`access_token`: expected a string, got null", with("access_token", Value::Null)),
        ("`access_token`: expected a non-empty token", with("access_token", json!(""))),
        ("`access_token`: expected a non-empty token", with("access_token", json!("a\r\nx-admin: 1"))),
        ("`access_token`: expected a non-empty token", with("access_token", json!("tökén"))),
        ("`token_type`: expected `Bearer`, got `DPoP`", with("token_type", json!("DPoP"))),
        ("`token_type`: expected `Bearer`, got `[…]`", with("token_type", json!(TOKEN))),
        ("`token_type`: expected a string, got a number", with("token_type", json!(1))),
        ("no `expires_in`", json!({ "access_token": TOKEN }).to_string()),
        ("`expires_in`: expected a number, got another string", with("expires_in", json!("abc"))),
        ("`expires_in`: expected a number, got an object", with("expires_in", json!({}))),
        ("`expires_in`: expected a number, got null", with("expires_in", Value::Null)),
        ("`expires_in`: expected a number that is not negative", with("expires_in", json!(-5))),
        ("`ExpiresIn::Absolute`", with("expires_in", json!(unix(SystemTime::now()) + 900))),
        ("`expires_in`: expected seconds from now", with("expires_in", json!(u64::MAX))),
        ("`expires_in`: expected seconds from now", with("expires_in", json!(1e300))),
        ("expired on arrival", with("expires_in", json!(0))),
    ];
    for (expected, body) in cases {
        let error = refused(move || answer(200, body.clone()), ExpiresIn::Relative).await;
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn a_compressed_answer_says_what_is_missing() {
    let gzip = || {
        let body = Body::from(vec![0x1f, 0x8b, 8, 0]);
        Response::builder().header("content-encoding", "gzip").body(body).unwrap()
    };
    let error = refused(gzip, ExpiresIn::Relative).await.to_string();
    assert!(error.contains("content encoding gzip"), "{error}");
}

#[tokio::test]
async fn a_relative_expiry_may_be_a_string_of_digits_or_a_fraction() {
    for value in [json!("900"), json!(900.7)] {
        let body = json!({ "access_token": TOKEN, "expires_in": value }).to_string();
        let server = Server::start(move |_| answer(200, body.clone())).await;
        let credential = ask(&JwtBearer::new(http(), server.grant()).unwrap()).await.unwrap();
        assert!(near(unix(credential.expires_at().unwrap()), unix(SystemTime::now()) + 900));
    }
}

#[tokio::test]
async fn absolute_and_relative_expiries_are_told_apart_by_configuration() {
    let body = |seconds: u64| json!({ "access_token": TOKEN, "expires_in": seconds }).to_string();
    let end = unix(SystemTime::now()) + 900;
    let server = Server::start(move |_| answer(200, body(end))).await;
    let provider = JwtBearer::new(http(), server.grant().with_expires_in(ExpiresIn::Absolute)).unwrap();
    assert_eq!(unix(ask(&provider).await.unwrap().expires_at().unwrap()), end);

    let error = refused(move || answer(200, body(900)), ExpiresIn::Absolute).await.to_string();
    assert!(error.contains("expired") && error.contains("`ExpiresIn::Relative`"), "{error}");
    let error = refused(move || answer(200, body(end * 1_000)), ExpiresIn::Absolute).await.to_string();
    assert!(error.contains("20 years"), "{error}");
    let error = refused(move || answer(200, body(u64::MAX)), ExpiresIn::Absolute).await.to_string();
    assert!(error.contains("20 years"), "{error}");
    let error = refused(move || answer(200, body(end - 1_000)), ExpiresIn::Absolute).await.to_string();
    assert!(error.contains("expired on arrival"), "{error}");
}

#[tokio::test]
async fn an_ignored_expiry_keeps_the_token_until_it_is_refused() {
    let server =
        Server::start(|_| answer(200, json!({ "access_token": TOKEN, "expires_in": "?" }).to_string())).await;
    let provider = JwtBearer::new(http(), server.grant().with_expires_in(ExpiresIn::Ignored)).unwrap();
    assert_eq!(ask(&provider).await.unwrap().expires_at(), None);
}

#[tokio::test]
async fn an_oauth_error_is_shown_with_code_and_message() {
    let cases = [
        (
            json!({ "error_code": "invalid_client", "error_message": "invalid jwt: kid not been registred" }),
            "400 Bad Request: invalid_client: invalid jwt: kid not been registred",
        ),
        (
            json!({ "error": "invalid_grant", "error_description": "clock\r\nskew\u{1b}[0m" }),
            "400 Bad Request: invalid_grant: clock skew[0m",
        ),
        (json!({ "error_code": 4100, "error": "access_deny" }), "400 Bad Request: 4100"),
        (
            json!({ "error": TOKEN, "error_description": format!("bad {TOKEN} sent") }),
            "400 Bad Request: bad […] sent",
        ),
        (json!({ "error": { "code": 7 } }), "400 Bad Request"),
        (json!("invalid_client"), "400 Bad Request"),
    ];
    for (body, expected) in cases {
        let error = refused(move || answer(400, body.to_string()), ExpiresIn::Relative).await;
        assert_eq!(error.to_string(), format!("the token endpoint answered {expected}"));
    }
    let error = refused(|| answer(502, "<html>".repeat(50_000)), ExpiresIn::Relative).await;
    assert_eq!(error.to_string(), "the token endpoint answered 502 Bad Gateway");
}

#[tokio::test]
async fn an_echoed_assertion_is_not_shown() {
    let server = Server::start(|seen| {
        let body = json!({ "error": seen.assertion(), "error_description": format!("bad assertion \"{}\"", seen.assertion()) });
        answer(401, body.to_string())
    })
    .await;
    let error = ask(&JwtBearer::new(http(), server.grant()).unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "the token endpoint answered 401 Unauthorized: bad assertion […]");
}

#[tokio::test]
async fn retry_after_is_read_as_seconds_or_as_a_date() {
    let with = |status: u16, value: String| {
        move || {
            let mut response = answer(status, "{}");
            response.headers_mut().insert("retry-after", value.parse().unwrap());
            response
        }
    };
    let date = |ahead: u64| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(ahead));
    for status in [429, 503] {
        let error = refused(with(status, "7".into()), ExpiresIn::Relative).await;
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        let error = refused(with(status, date(120)), ExpiresIn::Relative).await;
        assert!(near(error.retry_after().unwrap().as_secs(), 120));
    }
    let past = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH);
    assert_eq!(refused(with(503, past), ExpiresIn::Relative).await.retry_after(), Some(Duration::ZERO));
    assert_eq!(refused(with(429, "soon".into()), ExpiresIn::Relative).await.retry_after(), None);
    assert_eq!(refused(with(400, "7".into()), ExpiresIn::Relative).await.retry_after(), None);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Server::start(|_| good()).await;
    for status in [301, 302, 303, 307, 308] {
        let url = target.url.clone();
        let redirect = move || {
            let mut response = answer(status, "");
            response.headers_mut().insert("location", url.parse().unwrap());
            response
        };
        let error = refused(redirect, ExpiresIn::Relative).await.to_string();
        assert!(error.contains("redirects are not followed"), "{error}");
    }
    assert!(target.seen().is_empty());
}

#[tokio::test]
async fn an_unreachable_endpoint_is_an_error_with_its_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    drop(listener);
    let grant = JwtGrant::new(url, key()).with_issuer("client-42").with_audience("api.example.com");
    let error = ask(&JwtBearer::new(http(), grant).unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "the token endpoint could not be reached");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_with_its_cause() {
    let broken = |status: u16| {
        move || {
            let first = futures::stream::iter([Ok(Bytes::from_static(b"{\"access_token\":"))]);
            // Hyper sends what it has when the body is pending; an error at once would swallow the head too.
            let cut = futures::stream::once(async {
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            });
            let body = Body::from_stream(futures::StreamExt::chain(first, cut));
            Response::builder().status(status).body(body).unwrap()
        }
    };
    let error = refused(broken(200), ExpiresIn::Relative).await;
    assert_eq!(error.to_string(), "the token endpoint's answer broke off");
    assert!(error.source().is_some());
    let error = refused(broken(500), ExpiresIn::Relative).await;
    assert_eq!(error.to_string(), "the token endpoint answered 500 Internal Server Error");
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_given_up_after_the_load_timeout() {
    let endless = || {
        let first = futures::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"{"))]);
        let body = futures::StreamExt::chain(first, futures::stream::pending());
        Response::builder().body(Body::from_stream(body)).unwrap()
    };
    let server = Server::start(move |_| endless()).await;
    let provider = JwtBearer::builder(http(), server.grant())
        .with_load_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let error = ask(&provider).await.unwrap_err().to_string();
    assert!(error.contains("200ms"), "{error}");
}

// --- clocks ---------------------------------------------------------------------------------------------

/// Refuses assertions that are not of this minute, as a strict server does.
fn strict(seen: &Seen) -> Response {
    let (claims, now) = (seen.claims(), unix(SystemTime::now()));
    let (issued, expires) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    if issued > now + 5 || expires <= now {
        return answer(400, json!({ "error": "invalid_grant" }).to_string());
    }
    answer(200, json!({ "access_token": TOKEN, "expires_in": now + 900 }).to_string())
}

#[tokio::test]
async fn a_clock_that_is_minutes_off_works_from_the_second_exchange() {
    for off in [-1_200, 1_200] {
        let server = Server::start(strict).await;
        let grant = server.grant().with_expires_in(ExpiresIn::Absolute).with_clock(Off(off));
        let provider = JwtBearer::new(http(), grant).unwrap();
        ask(&provider).await.unwrap_err();
        let credential = ask_until_good(&provider).await;
        assert_eq!(server.seen().len(), 2);
        // By our clock, wrong as it is, the token has as long to live as by the server's.
        assert!(near(unix(credential.expires_at().unwrap()), unix(Off(off).now()) + 900));
    }
}

#[tokio::test]
async fn a_success_teaches_the_servers_clock_too() {
    let server = Server::start(|_| {
        answer(200, json!({ "access_token": TOKEN, "expires_in": unix(SystemTime::now()) + 900 }).to_string())
    })
    .await;
    let grant = server.grant().with_expires_in(ExpiresIn::Absolute).with_clock(Off(1_200));
    let provider = JwtBearer::new(http(), grant).unwrap();
    let first = ask(&provider).await.unwrap();
    assert!(near(unix(first.expires_at().unwrap()), unix(Off(1_200).now()) + 900));
    provider.rejected(&first, &Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED));
    ask(&provider).await.unwrap();
    let issued: Vec<_> = server.seen().iter().map(|seen| seen.claims()["iat"].as_u64().unwrap()).collect();
    assert!(near(issued[0], unix(Off(1_200 - 10).now())));
    assert!(near(issued[1], unix(Off(-10).now())));
}

// --- secrets --------------------------------------------------------------------------------------------

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_reaches_logs_debug_display_or_error_chains() {
    let log = Captured::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::info!("capturing");

    let mut shown = String::new();
    let mut secrets = vec![TOKEN.to_owned(), "query-secret".to_owned(), "parameter-secret".to_owned()];
    secrets.extend(keys().pkcs8.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
    for status in [200, 400] {
        let server = Server::start(move |seen| {
            let body = json!({
                "access_token": if status == 200 { TOKEN } else { "" },
                "expires_in": 900,
                "error_description": format!("{TOKEN} {}", seen.assertion()),
            });
            answer(status, body.to_string())
        })
        .await;
        for style in [RequestStyle::Form, RequestStyle::BearerJson] {
            let url = format!("{}?key=query-secret", server.url);
            let grant = JwtGrant::new(url, key())
                .with_issuer("client-42")
                .with_audience("api.example.com")
                .with_request_style(style)
                .with_parameter("client_secret", "parameter-secret")
                .with_claim("pin", "parameter-secret");
            shown.push_str(&format!("{grant:?} {grant:#?}"));
            let provider = JwtBearer::new(http(), grant).unwrap();
            match ask(&provider).await {
                Ok(credential) => shown.push_str(&format!("{credential:?} {credential:#?}")),
                Err(error) => shown.push_str(&chain(&error)),
            }
            shown.push_str(&format!("{provider:?} {provider:#?} {:?}", provider.cache()));
        }
        for seen in server.seen() {
            secrets.extend(seen.assertion().split('.').map(str::to_owned));
            secrets.push(seen.claims()["jti"].as_str().unwrap().to_owned());
        }
    }
    shown.push_str(&format!("{:?} {:#?}", key(), key()));
    shown.push_str(&String::from_utf8_lossy(&log.0.lock().unwrap()));

    assert!(shown.contains("capturing") && shown.contains("client-42") && shown.contains("key-1"));
    assert!(shown.contains("/oauth2/token"));
    assert!(secrets.len() > 20);
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} is shown in {shown}");
    }
}
