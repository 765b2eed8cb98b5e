//! What callers ask for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, Method, Request, request};
use tower_credential_fallback::oauth::UserId;
use tower_credential_fallback::{CredentialChoice, Slot};

use crate::answer::{ScriptBody, Step, content};

pub(crate) const ORIGIN: &str = "https://api.world.example";

/// The replay limit of every layer, in bytes.
pub(crate) const REPLAY_LIMIT: usize = 4 * 1024;

/// A call before it is made.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) replica: usize,
    pub(crate) user: Option<&'static str>,
    pub(crate) method: Method,
    pub(crate) path: String,
    /// The resource that has to be served.
    pub(crate) target: Option<usize>,
    /// The resource that the layer can see: what a stream names is not seen.
    pub(crate) resource: Option<usize>,
    /// The value of a header of its own.
    pub(crate) language: &'static str,
    pub(crate) upload: Vec<Step>,
    pub(crate) choice: Option<CredentialChoice>,
    /// When the caller gives up.
    pub(crate) patience: Option<Duration>,
    /// Whether the server does nothing unusual.
    pub(crate) is_calm: bool,
}

impl Spec {
    /// Something random about this resource, or about none.
    pub(crate) fn random(rng: &mut Rng, replica: usize, target: Option<usize>) -> Self {
        let users = [None, Some("u0"), Some("u1"), Some("u2")];
        let method =
            [Method::GET, Method::GET, Method::POST, Method::PUT, Method::DELETE][rng.usize(..5)].clone();
        let has_body = matches!(method, Method::POST | Method::PUT);
        let is_stream = has_body && rng.u8(..3) == 0;
        let in_body = target.filter(|_| method == Method::POST && rng.u8(..4) == 0);
        let path = match (target, in_body) {
            (_, Some(_)) => "/chat".to_owned(),
            (None, _) => "/list".to_owned(),
            (Some(target), None) => {
                let item = ["a", "a", "a", "a", "b", "b", "b", "b", "locked", "private"][rng.usize(..10)];
                format!("/r/{target}/{item}")
            }
        };
        let start = in_body.map_or_else(String::new, |target| format!("bot={target};"));
        let mut spec = Self {
            replica,
            user: users[rng.usize(..users.len())],
            method,
            path,
            target,
            resource: if is_stream && in_body.is_some() { None } else { target },
            language: ["en", "de"][rng.usize(..2)],
            upload: Vec::new(),
            choice: None,
            patience: None,
            is_calm: false,
        };
        if has_body {
            spec.upload = if is_stream { stream(rng, &start) } else { memory(rng, &start) };
        }
        spec.vary(rng);
        spec
    }

    /// A plain request for a resource, which nothing disturbs.
    pub(crate) fn calm(replica: usize, resource: usize) -> Self {
        Self {
            replica,
            user: None,
            method: Method::GET,
            path: format!("/r/{resource}/calm"),
            target: Some(resource),
            resource: Some(resource),
            language: "en",
            upload: Vec::new(),
            choice: None,
            patience: None,
            is_calm: true,
        }
    }

    /// How the caller goes about it, this time.
    pub(crate) fn vary(&mut self, rng: &mut Rng) {
        if rng.u8(..8) == 0 {
            self.language = ["en", "de"][rng.usize(..2)];
        }
        let slot = if rng.bool() { Slot::Primary } else { Slot::Fallback };
        self.choice = match rng.u8(..32) {
            0..2 => Some(CredentialChoice::First(slot)),
            2 => Some(CredentialChoice::Only(slot)),
            _ => None,
        };
        let longest = [20, 300, 5_000][rng.usize(..3)];
        self.patience = (rng.u8(..5) == 0).then(|| Duration::from_millis(rng.u64(0..longest)));
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        content(&self.upload)
    }

    /// Whether its body is in memory.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(&self.upload[..], [] | [Step { wait: Duration::ZERO, data: Some(_) }])
    }

    /// Whether its body breaks off.
    pub(crate) fn breaks_off(&self) -> bool {
        self.upload.iter().any(|step| step.data.is_none())
    }

    /// Method, URI, headers, resource and user: what hints and cooldowns are for.
    pub(crate) fn key(&self) -> String {
        format!("{} {} {} {:?} {:?}", self.method, self.path, self.language, self.resource, self.user)
    }

    pub(crate) fn headers(&self, call: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", call.to_string().parse().unwrap());
        for value in [self.language, "other"] {
            headers.append("accept-language", value.parse().unwrap());
        }
        headers
    }

    pub(crate) fn request(&self, call: usize) -> Request<ScriptBody> {
        let body = ScriptBody::new(self.upload.iter().cloned(), Arc::default());
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = format!("{ORIGIN}{}", self.path).parse().unwrap();
        *request.headers_mut() = self.headers(call);
        // Such as a client's own default, which must not be sent.
        request.headers_mut().insert("authorization", "Bearer own".parse().unwrap());
        self.user.map(|user| request.extensions_mut().insert(UserId::new(user)));
        self.choice.map(|choice| request.extensions_mut().insert(choice));
        request
    }
}

fn memory(rng: &mut Rng, start: &str) -> Vec<Step> {
    vec![Step::new(Duration::ZERO, format!("{start}content {}", rng.u8(..3)))]
}

/// A stream of up to 8 KiB; some break off.
fn stream(rng: &mut Rng, start: &str) -> Vec<Step> {
    let is_fast = rng.bool();
    // The first is read ahead, so that it is not found to be all of the body.
    let mut steps = vec![Step::new(Duration::ZERO, start.to_owned() + "stream ")];
    for _ in 0..rng.usize(1..17) {
        let wait = Duration::from_millis(if is_fast { 0 } else { rng.u64(0..20) });
        steps.push(Step::new(wait, Bytes::from(vec![rng.alphanumeric() as u8; 512])));
    }
    if rng.u8(..6) == 0 {
        let at = rng.usize(1..=steps.len());
        steps.truncate(at);
        steps.push(Step::error(Duration::from_millis(rng.u64(0..3))));
    }
    steps
}

/// The resource that a request is about: the layer's resource key.
pub(crate) fn resource<'r>(head: &'r request::Parts, body: &'r [u8]) -> Option<&'r str> {
    match head.uri.path().strip_prefix("/r/") {
        Some(rest) => rest.split('/').next(),
        None => std::str::from_utf8(body).ok()?.strip_prefix("bot=")?.split(';').next(),
    }
}
