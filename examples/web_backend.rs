//! A web application that chats on behalf of its users: login at Coze, one chat per user, and, after the workspace has
//! moved, a new consent for the enterprise's account. Any number of replicas share a Redis.
//!
//! `REDIS_URL=redis://127.0.0.1/ cargo run --example web_backend --features redis,simulator`, and follow what it says.
//! Without `REDIS_URL`, tokens are kept in memory.
//!
//! What it guards against, since a grant that is filed under the wrong user is that user's to use:
//!
//! - A login is sealed together with the user and the account that it was begun for. All three have to fit when it is
//!   finished, and it is used once.
//! - Only forms of its own make it do anything: other sites' are refused. A link, wherever it leads from, shows a page.
//! - Over `https`, its cookies are this host's alone; no neighbour can plant one.
//!
//! What a real one does beyond that:
//!
//! - `/enter` asks for a password. Sessions are kept by the server, end, and can be ended; there is a logout
//!   (`UserTokens::sign_out`).
//! - It is reached over TLS. The cookies' key comes from where secrets are kept, and so does one for
//!   `RedisStore::with_encryption_key`.
//! - It limits how often and how much a user may ask: each chat costs money.
//! - It forbids to be framed (`Content-Security-Policy: frame-ancestors 'none'`), and keeps the query of `/callback` out of
//!   its logs: there is a code in it.
//! - Errors go to the log; users get a friendlier page.
//! - It stops in order: no more calls, then `UserTokens::settle`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Form, FromRef, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Router, routing::get};
use axum_extra::extract::PrivateCookieJar;
use axum_extra::extract::cookie::{Cookie, Key, SameSite};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::coze::simulator::{Simulator, UserApp};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{Login, OAuthClient, UserId, UserTokens};
use tower_credential_fallback::store::{MemoryStore, RedisStore, TokenStore};
use tower_credential_fallback::{
    BoxError, CredentialFallback, Error, FallbackHandle, NoReplay, Order, Outcome, ReplayBody, Slot,
};
use tower_http::csrf::CsrfLayer;

type Coze = CredentialFallback<Client<HttpConnector, ReplayBody<Full<Bytes>>>, UserTokens, UserTokens>;

/// What every replica is given.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) region: Region,
    /// Where browsers find the application, whichever replica answers.
    pub(crate) public_url: String,
    /// The app's registrations: in the personal account, and in the enterprise.
    pub(crate) personal: UserApp,
    pub(crate) enterprise: UserApp,
    /// Seals the cookies.
    pub(crate) key: Key,
    /// For both: a grant is kept under its app's ID and its user.
    pub(crate) store: Arc<dyn TokenStore>,
}

/// A store in this Redis.
pub(crate) fn store_in(redis_url: &str) -> Result<Arc<dyn TokenStore>, Error> {
    Ok(Arc::new(RedisStore::new(redis_url)?.with_prefix("web-backend")))
}

#[derive(Clone)]
struct App {
    coze: Coze,
    chat_url: Uri,
    personal: (OAuthClient, UserTokens),
    enterprise: (OAuthClient, UserTokens),
    cookies: Cookies,
    key: Key,
}

impl FromRef<App> for Key {
    fn from_ref(app: &App) -> Self {
        app.key.clone()
    }
}

/// One replica, and the handle that an operator has to be able to reach.
pub(crate) fn backend(setup: Setup) -> Result<(Router, FallbackHandle), BoxError> {
    let Setup { region, public_url, personal, enterprise, key, store } = setup;
    let account = |name: &'static str, app: UserApp| -> Result<_, Error> {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let config = coze::user_app(&region, app.client_id)
            .with_client_secret(app.client_secret.unwrap_or_default())
            .with_redirect_uri(format!("{public_url}/callback/{name}"));
        let client = OAuthClient::new(http, config)?;
        let login = format!("{public_url}/login/{name}");
        let tokens = UserTokens::new(client.clone(), Arc::clone(&store), move |_: &UserId| login.clone());
        Ok((client, tokens))
    };
    let personal = account("personal", personal)?;
    let enterprise = account("enterprise", enterprise)?;
    let layer = coze::layer(&region, personal.1.clone(), enterprise.1.clone())?;
    let handle = layer.handle();
    let coze = ServiceBuilder::new().layer(layer).service(Client::builder(TokioExecutor::new()).build_http());
    let chat_url = format!("{}/v3/chat", region.base_url()).parse()?;
    let cookies = Cookies { has_tls: public_url.starts_with("https://") };
    let router = Router::new()
        .route("/enter", get(enter_page).post(enter))
        .route("/chat", get(chat_page).post(chat))
        .route("/login/{account}", get(login))
        .route("/callback/{account}", get(callback))
        // Named, since a proxy may have changed the `Host` that it would be compared with.
        .layer(CsrfLayer::new().add_trusted_origin(&public_url)?)
        .with_state(App { coze, chat_url, personal, enterprise, cookies, key });
    Ok((router, handle))
}

/// What goes wrong, as a page.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// Who uses this browser.
const SESSION: &str = "session";

/// What was asked before a login came between.
const ASKED: &str = "asked";

/// A login that has begun.
const LOGIN: &str = "login";

/// How cookies are named and set. They are sealed with the application's key, under their names: the browser can neither
/// read nor make one, nor use one for another.
#[derive(Clone, Copy)]
struct Cookies {
    has_tls: bool,
}

impl Cookies {
    /// `__Host-`: browsers take that from this very host alone, over TLS. Without, any host of the same domain could set
    /// our cookies too.
    fn name(self, name: &str) -> String {
        if self.has_tls { format!("__Host-{name}") } else { name.to_owned() }
    }

    fn get(self, jar: &PrivateCookieJar, name: &str) -> Option<String> {
        jar.get(&self.name(name)).map(|cookie| cookie.value().to_owned())
    }

    fn add(self, jar: PrivateCookieJar, name: &str, value: String) -> PrivateCookieJar {
        jar.add(self.cookie(name, value))
    }

    fn remove(self, jar: PrivateCookieJar, name: &str) -> PrivateCookieJar {
        jar.remove(self.cookie(name, String::new()))
    }

    fn cookie(self, name: &str, value: String) -> Cookie<'static> {
        let cookie = Cookie::build((self.name(name), value)).http_only(true).secure(self.has_tls);
        cookie.same_site(SameSite::Lax).path("/").build()
    }
}

/// Back to what was asked.
fn back(app: &App, jar: PrivateCookieJar) -> Response {
    let to = app.cookies.get(&jar, ASKED).unwrap_or_else(|| "/enter".to_owned());
    (app.cookies.remove(jar, ASKED), Redirect::to(&to)).into_response()
}

async fn enter_page() -> Html<&'static str> {
    Html("<form method=post>You are <input name=user> <button>Enter</button></form>")
}

#[derive(Deserialize)]
struct Entered {
    user: String,
}

/// Stands in for the application's own login.
async fn enter(
    State(app): State<App>,
    jar: PrivateCookieJar,
    Form(Entered { user }): Form<Entered>,
) -> Response {
    // Whoever was here before has nothing to finish any more.
    let jar = app.cookies.remove(jar, LOGIN);
    back(&app, app.cookies.add(jar, SESSION, user))
}

#[derive(Deserialize)]
struct Question {
    bot: String,
    text: String,
}

impl Question {
    /// The page that asks it. A path, made anew: whatever the request's own URL was, it leads nowhere else.
    fn page(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("bot", &self.bot).append_pair("text", &self.text);
        format!("/chat?{}", query.finish())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Shows a question, and asks nothing: anybody can make a browser follow a link.
async fn chat_page(
    State(app): State<App>,
    jar: PrivateCookieJar,
    Query(question): Query<Question>,
) -> Response {
    if app.cookies.get(&jar, SESSION).is_none() {
        return (app.cookies.add(jar, ASKED, question.page()), Redirect::to("/enter")).into_response();
    }
    let (bot, text) = (escaped(&question.bot), escaped(&question.text));
    Html(format!(
        "<form method=post action=/chat><input name=bot value=\"{bot}\"> <input name=text value=\"{text}\"> \
         <button>Ask</button></form>"
    ))
    .into_response()
}

/// Asks a bot, on behalf of the user whose session this is. The answer streams through.
async fn chat(
    State(app): State<App>,
    jar: PrivateCookieJar,
    Form(question): Form<Question>,
) -> Result<Response, Failed> {
    let App { coze, chat_url, cookies, .. } = app;
    let page = question.page();
    let Some(session) = cookies.get(&jar, SESSION) else {
        return Ok((cookies.add(jar, ASKED, page), Redirect::to("/enter")).into_response());
    };
    let user = UserId::new(session);
    let question = serde_json::json!({
        "bot_id": question.bot, "user_id": user.as_str(), "stream": true,
        "additional_messages": [{ "role": "user", "content": question.text, "content_type": "text" }],
    });
    let request = Request::post(chat_url)
        .header(CONTENT_TYPE, "application/json")
        .extension(user)
        .body(Full::from(question.to_string()))
        .map_err(|error| Failed(StatusCode::BAD_REQUEST, error.to_string()))?;
    let answered = coze.oneshot(request).await;
    if let Some(login) = where_to_authorise(&answered) {
        return Ok((cookies.add(jar, ASKED, page), Redirect::to(&login)).into_response());
    }
    let response = answered.map_err(|error| Failed(StatusCode::BAD_GATEWAY, error.to_string()))?;
    if Outcome::of(&response).is_refused() {
        let jar = cookies.add(jar, ASKED, page);
        return Ok((StatusCode::FORBIDDEN, jar, Html(REFUSED)).into_response());
    }
    let by = Outcome::of(&response).answered_by().map_or("nobody", Slot::as_str);
    let mut answer = Response::builder().status(response.status()).header("x-answered-by", by);
    if let Some(kind) = response.headers().get(CONTENT_TYPE) {
        answer = answer.header(CONTENT_TYPE, kind);
    }
    answer
        .body(Body::new(response.into_body()))
        .map_err(|error| Failed(StatusCode::BAD_GATEWAY, error.to_string()))
}

/// All that was granted is refused: it may have been granted by the wrong account, or there is no such bot. Where things
/// are, in the end, is the enterprise.
const REFUSED: &str =
    "<p>Coze refuses you this bot. <a href=/login/enterprise>Authorise again in the enterprise</a>";

/// The refusal says so, if one grant is refused and there is no other; and the error, if there is none at all: then at the
/// account whose turn it was first, by the order that is in force now; or at the other, if that one needs no consent.
fn where_to_authorise<B>(answered: &Result<Response<B>, BoxError>) -> Option<String> {
    match answered {
        Ok(response) => match Outcome::of(response).no_replay()? {
            NoReplay::InteractionRequired { authorize_url } => Some(authorize_url.clone()),
            _ => None,
        },
        Err(error) => {
            let error = error.downcast_ref::<Error>()?;
            let first = error.first_slot()?;
            let url = |slot| error.credential_error(slot)?.authorize_url();
            url(first).or_else(|| url(first.other())).map(str::to_owned)
        }
    }
}

impl App {
    fn account(&self, name: &str) -> Result<&(OAuthClient, UserTokens), Failed> {
        match name {
            "personal" => Ok(&self.personal),
            "enterprise" => Ok(&self.enterprise),
            _ => Err(Failed(StatusCode::NOT_FOUND, "no such account".to_owned())),
        }
    }
}

/// A login that has begun, for whom, and where.
#[derive(Serialize, Deserialize)]
struct Begun {
    user: String,
    account: String,
    login: Login,
}

/// Off to Coze's page. What proves the login later stays in this browser, sealed.
async fn login(
    State(app): State<App>,
    Path(account): Path<String>,
    jar: PrivateCookieJar,
) -> Result<Response, Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let client = &app.account(&account)?.0;
    let Some(user) = app.cookies.get(&jar, SESSION) else {
        return Ok(Redirect::to("/enter").into_response());
    };
    let (url, login) = client.authorize().map_err(|error| failed(&error))?;
    let begun = serde_json::to_string(&Begun { user, account, login }).map_err(|error| failed(&error))?;
    Ok((app.cookies.add(jar, LOGIN, begun), Redirect::to(&url)).into_response())
}

#[derive(Deserialize)]
struct Callback {
    #[serde(default)]
    state: String,
    code: Option<String>,
}

/// Back from Coze's page. Whatever comes of it, the login is used.
async fn callback(
    State(app): State<App>,
    Path(account): Path<String>,
    jar: PrivateCookieJar,
    query: Result<Query<Callback>, QueryRejection>,
) -> Response {
    let session = app.cookies.get(&jar, SESSION);
    let begun = app.cookies.get(&jar, LOGIN);
    let jar = app.cookies.remove(jar, LOGIN);
    match finish(&app, &account, session, begun, query).await {
        Ok(()) => back(&app, jar),
        Err(failed) => (jar, failed).into_response(),
    }
}

async fn finish(
    app: &App,
    account: &str,
    session: Option<String>,
    begun: Option<String>,
    query: Result<Query<Callback>, QueryRejection>,
) -> Result<(), Failed> {
    let bad = |what: &str| Failed(StatusCode::BAD_REQUEST, what.to_owned());
    let (client, tokens) = app.account(account)?;
    let session = session.ok_or_else(|| bad("nobody has entered here"))?;
    let begun = begun.and_then(|begun| serde_json::from_str::<Begun>(&begun).ok());
    let begun = begun.ok_or_else(|| bad("no login was begun in this browser"))?;
    if begun.user != session {
        return Err(bad("this login was begun by another user"));
    }
    if begun.account != account {
        return Err(bad("this login was begun for another account"));
    }
    let Query(Callback { state, code }) = query.map_err(|_| bad("the callback is not as expected"))?;
    let code =
        code.ok_or_else(|| Failed(StatusCode::FORBIDDEN, "Coze was not allowed to let us in".to_owned()))?;
    let grant = client.finish(begun.login, &state, &code).await.map_err(|error| bad(&error.to_string()))?;
    let kept = tokens.sign_in(&UserId::new(session), &grant).await;
    kept.map_err(|error| Failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

/// A Coze on loopback, and two replicas in front of it.
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let coze = Simulator::start().await?;
    let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
    let workspace = coze.create_workspace(&person);
    let bot = coze.create_bot(&workspace);
    let listeners = [TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?];
    let urls = [0, 1].map(|n| listeners[n].local_addr().map(|address| format!("http://{address}")));
    let [first, second] = urls;
    let (first, second) = (first?, second?);
    let store: Arc<dyn TokenStore> = match std::env::var("REDIS_URL") {
        Ok(url) => store_in(&url)?,
        Err(_) => Arc::new(MemoryStore::new()),
    };
    let app = |account: &str| {
        let app = coze.create_web_app();
        coze.register_redirect_uri(&app, format!("{first}/callback/{account}"));
        app
    };
    let setup = Setup {
        region: Region::custom(coze.base_url())?,
        public_url: first.clone(),
        personal: app("personal"),
        enterprise: app("enterprise"),
        key: Key::generate(),
        store,
    };
    let mut handles = Vec::new();
    for listener in listeners {
        let (replica, handle) = backend(setup.clone())?;
        handles.push(handle);
        tokio::spawn(async move { axum::serve(listener, replica).await });
    }
    println!("Ask:       {first}/chat?bot={bot}&text=hello");
    println!("           {second}/chat?bot={bot}&text=hello (the other replica)");
    println!("Consent as {person}, and after the move as {enterprise}.");
    println!("Press Enter to move the workspace, then to retire the old account, then to end.");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    if lines.next_line().await?.is_some() {
        coze.move_workspace(&workspace, &enterprise);
        println!("Moved. Ask again.");
    }
    if lines.next_line().await?.is_some() {
        handles.iter().for_each(|handle| handle.set_order(Order::FallbackOnly));
        println!("Retired. Ask in another browser, as somebody else.");
        lines.next_line().await?;
    }
    Ok(())
}
