//! The server: connections, routes, faults, and the record of it all.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::auth::{Caller, bearer};
use super::faults::{Faults, Kind};
use super::record::{Record, Recorded};
use super::reply::Code;
use super::world::World;
use super::{Refusal, Settings, chat, reply, resources, token, upload, user_oauth, websocket};

/// What every part of the simulator works on. Locks are held for moments and never across an await.
pub(super) struct Shared {
    base_url: String,
    settings: Settings,
    started: Instant,
    connections: AtomicU64,
    world: Mutex<World>,
    faults: Mutex<Faults>,
    record: Mutex<Record>,
    forced_refusal: Mutex<Option<Refusal>>,
    /// What goes on after the connections' own tasks have handed them over.
    sockets: Mutex<JoinSet<()>>,
}

impl Shared {
    pub(super) fn new(base_url: String, settings: Settings) -> Self {
        // jsonwebtoken panics if it is built with two backends and none is chosen. If somebody has chosen
        // already, that is as good.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        Self {
            base_url,
            record: Mutex::new(Record::new(settings.record_capacity)),
            settings,
            started: Instant::now(),
            connections: AtomicU64::new(0),
            world: Mutex::default(),
            faults: Mutex::default(),
            forced_refusal: Mutex::default(),
            sockets: Mutex::default(),
        }
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The simulator's clock.
    pub(super) fn now(&self) -> SystemTime {
        let offset = Duration::from_secs(self.settings.clock_offset.unsigned_abs());
        let now = SystemTime::now();
        if self.settings.clock_offset < 0 { now - offset } else { now + offset }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    pub(super) fn forced_refusal(&self) -> Option<Refusal> {
        lock(&self.forced_refusal).clone()
    }

    pub(super) fn set_refusal(&self, refusal: Option<Refusal>) {
        *lock(&self.forced_refusal) = refusal;
    }

    /// Runs `socket` until its end, or the simulator's.
    pub(super) fn keep(&self, socket: impl Future<Output = ()> + Send + 'static) {
        let mut sockets = lock(&self.sockets);
        while sockets.try_join_next().is_some() {}
        sockets.spawn(socket);
    }

    pub(super) fn close_sockets(&self) {
        lock(&self.sockets).abort_all();
    }

    pub(super) fn connection_count(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A handler that panicked leaves data that is as good as before: each change is made in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection's number, put into its requests' extensions.
#[derive(Clone, Copy)]
struct Connection(u64);

/// Serves until it is dropped; then every connection is closed.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let routes = routes(Arc::clone(&shared));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors, or a client gone already: the next one may do better.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let service = TowerToHyperService::new(routes.clone().layer(Extension(Connection(number))));
                connections.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    // A client that went away, or does not speak HTTP: nobody is left to tell.
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/permission/oauth2/token", post(token::of_app))
        .route("/api/permission/oauth2/account/{id}/token", post(token::of_account))
        .route("/api/permission/oauth2/enterprise_id/{id}/token", post(token::of_enterprise))
        .route("/api/permission/oauth2/authorize", get(user_oauth::authorize))
        .route("/api/permission/oauth2/workspace_id/{id}/authorize", get(user_oauth::authorize))
        .route("/oauth/consent", get(user_oauth::consent_page).post(user_oauth::consent))
        .route(user_oauth::DEVICE_PAGE, get(user_oauth::device_page).post(user_oauth::enter_device_code))
        .route("/api/permission/oauth2/device/code", post(user_oauth::device_code))
        .route("/api/permission/oauth2/workspace_id/{id}/device/code", post(user_oauth::device_code))
        .route("/v3/chat", post(chat::create))
        // The SDKs do not agree on the method.
        .route("/v3/chat/retrieve", get(chat::retrieve).post(chat::retrieve))
        .route("/v3/chat/message/list", get(chat::messages).post(chat::messages))
        .route("/v3/chat/cancel", post(chat::cancel))
        .route("/v1/chat", get(websocket::chat))
        .route("/v1/bots/{id}", get(resources::bot))
        .route("/v1/bot/get_online_info", get(resources::online_bot))
        .route("/v1/conversation/create", post(resources::create_conversation))
        .route("/v1/conversation/retrieve", get(resources::conversation))
        .route("/v1/workspaces", get(resources::workspaces))
        .route("/v1/workflow/run", post(resources::run_workflow))
        .route("/v1/workflow/stream_run", post(resources::run_workflow))
        .route("/v1/files/upload", post(upload::upload))
        .route("/v1/files/retrieve", get(upload::retrieve).post(upload::retrieve))
        .fallback(|| async { reply::error(404, 4000, "Request parameter error: no such path") })
        .method_not_allowed_fallback(|| async {
            reply::error(405, 4000, "Request parameter error: wrong method")
        })
        .layer(DefaultBodyLimit::max(512 * 1024 * 1024))
        .layer(from_fn_with_state(Arc::clone(&shared), around))
        .with_state(shared)
}

/// Around every request: who asks, what goes wrong, and the record.
async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let now = shared.now();
    let holder = bearer(&head.headers).and_then(|token| shared.world().holder_of(token, now));
    head.extensions.insert(Caller(holder.clone()));
    let read = Arc::new(AtomicU64::new(0));
    let request = Request::from_parts(head.clone(), Body::new(Counted { body, read: Arc::clone(&read) }));

    let mut response = befall(&shared, request, next).await;
    let date = httpdate::fmt_http_date(shared.now());
    if let Ok(date) = header::HeaderValue::from_str(&date) {
        response.headers_mut().insert(header::DATE, date);
    }
    shared.record().add(Recorded {
        sequence: 0,
        at: shared.started.elapsed(),
        connection: head.extensions.get().map_or(0, |Connection(number)| *number),
        version: head.version,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        account: holder.map(|holder| holder.account),
        body_bytes: read.load(Ordering::Relaxed),
        status: response.status().as_u16(),
        code: response.extensions().get().map(|Code(code)| *code),
    });
    response
}

/// Lets the faults in force befall the request; without any, the handler answers.
async fn befall(shared: &Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let struck = shared.faults().strike(&path);
    let mut trickle = None;
    for fault in struck {
        match fault {
            Kind::Latency(wait) => tokio::time::sleep(wait).await,
            Kind::Hang => std::future::pending().await,
            Kind::Status(status) => return reply::error(status, 5000, "internal server error"),
            Kind::Raw { status, content_type, body } => return reply::raw(status, &content_type, body),
            Kind::RateLimit(retry_after) => {
                let mut response = reply::error(429, 4020, "too many requests");
                response.headers_mut().insert(header::RETRY_AFTER, retry_after.as_secs().into());
                return response;
            }
            Kind::RefuseUpload => {
                if let Some(caller) = request.extensions().get::<Caller>()
                    && let Err(refusal) = shared.authenticate(caller.clone(), &path)
                {
                    return *refusal;
                }
            }
            Kind::Trickle { bytes, pause } => trickle = Some((bytes, pause)),
        }
    }
    let response = next.run(request).await;
    match trickle {
        Some((bytes, pause)) => trickled(response, bytes, pause).await,
        None => response,
    }
}

/// The same answer in small pieces, each after a pause.
async fn trickled(response: Response, bytes: usize, pause: Duration) -> Response {
    let (head, body) = response.into_parts();
    // The simulator's own bodies do not fail.
    let whole = body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
    let pieces = stream::unfold(whole, move |mut rest: Bytes| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = rest.split_to(bytes.min(rest.len()));
        Some((Ok::<_, std::convert::Infallible>(piece), rest))
    });
    Response::from_parts(head, Body::from_stream(pieces))
}

/// A request's body; counts what is read of it.
struct Counted {
    body: Body,
    read: Arc<AtomicU64>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.read.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
