//! A web application that chats on behalf of its users: login at Coze, one chat per user, and, after the workspace has
//! moved, a new consent for the enterprise's account. Any number of replicas share a Redis.
//!
//! `REDIS_URL=redis://127.0.0.1/ cargo run --example web_backend --features redis,simulator`, and follow what it says.
//! Without `REDIS_URL`, tokens are kept in memory.
//!
//! A login belongs to the browser, the user and the account that began it, and forms of other sites are refused. What a
//! real one adds: `/enter` asks for a password, sessions end, and it is served over HTTPS, which makes its cookies
//! `__Host-` and `Secure`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Form, FromRef, Path, Query, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{Request, StatusCode, Uri, uri::PathAndQuery};
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
use tower_credential_fallback::{BoxError, CredentialFallback, Error, NoReplay, Outcome, ReplayBody, Slot};
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
    pub(crate) personal_store: Arc<dyn TokenStore>,
    pub(crate) enterprise_store: Arc<dyn TokenStore>,
}

/// The two stores in one Redis, each under a prefix of its own.
pub(crate) fn stores_in(redis_url: &str) -> Result<[Arc<dyn TokenStore>; 2], Error> {
    let store = |prefix| Ok(Arc::new(RedisStore::new(redis_url)?.with_prefix(prefix)) as Arc<dyn TokenStore>);
    Ok([store("web-backend:personal")?, store("web-backend:enterprise")?])
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

/// One replica.
pub(crate) fn backend(setup: Setup) -> Result<Router, BoxError> {
    let Setup { region, public_url, personal, enterprise, key, personal_store, enterprise_store } = setup;
    let account = |name: &'static str, app: UserApp, store| -> Result<_, Error> {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let config = coze::user_app(&region, app.client_id)
            .with_client_secret(app.client_secret.unwrap_or_default())
            .with_redirect_uri(format!("{public_url}/callback/{name}"));
        let client = OAuthClient::new(http, config)?;
        let login = format!("{public_url}/login/{name}");
        let tokens = UserTokens::new(client.clone(), store, move |_: &UserId| login.clone());
        Ok((client, tokens))
    };
    let personal = account("personal", personal, personal_store)?;
    let enterprise = account("enterprise", enterprise, enterprise_store)?;
    let layer = coze::layer(&region, personal.1.clone(), enterprise.1.clone())?;
    let coze = ServiceBuilder::new().layer(layer).service(Client::builder(TokioExecutor::new()).build_http());
    let chat_url = format!("{}/v3/chat", region.base_url()).parse()?;
    let cookies = Cookies { is_secure: public_url.starts_with("https:") };
    let csrf = CsrfLayer::new().add_trusted_origin(&public_url)?;
    Ok(Router::new()
        .route("/enter", get(enter_page).post(enter))
        .route("/chat", get(chat_page).post(chat))
        .route("/login/{account}", get(login))
        .route("/callback/{account}", get(callback))
        .with_state(App { coze, chat_url, personal, enterprise, cookies, key })
        // What acts is a POST, and comes from a page of ours.
        .layer(csrf))
}

/// What goes wrong, as a page.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// What is kept in a browser, sealed with the application's key: it can neither read nor make one.
#[derive(Clone, Copy)]
struct Cookies {
    /// Whether browsers come over HTTPS: then nobody on the way, and no other host, can plant one.
    is_secure: bool,
}

#[derive(Clone, Copy)]
enum Kept {
    /// Who uses this browser.
    Session,
    /// What was asked before a login came between.
    Asked,
    /// A login that has begun.
    Login,
}

impl Cookies {
    fn name(self, kept: Kept) -> &'static str {
        match (kept, self.is_secure) {
            (Kept::Session, false) => "session",
            (Kept::Session, true) => "__Host-session",
            (Kept::Asked, false) => "asked",
            (Kept::Asked, true) => "__Host-asked",
            (Kept::Login, false) => "login",
            (Kept::Login, true) => "__Host-login",
        }
    }

    fn make(self, kept: Kept, value: String) -> Cookie<'static> {
        Cookie::build((self.name(kept), value))
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.is_secure)
            .path("/")
            .build()
    }

    fn read(self, jar: &PrivateCookieJar, kept: Kept) -> Option<String> {
        jar.get(self.name(kept)).map(|cookie| cookie.value().to_owned())
    }

    fn remove(self, jar: PrivateCookieJar, kept: Kept) -> PrivateCookieJar {
        jar.remove(self.make(kept, String::new()))
    }

    /// Back to what was asked.
    fn back(self, jar: PrivateCookieJar) -> Response {
        let to = self.read(&jar, Kept::Asked).unwrap_or_else(|| "/enter".to_owned());
        (self.remove(jar, Kept::Asked), Redirect::to(&to)).into_response()
    }
}

/// A login, and whose it is: finished by another user or for another account, it would be filed under a wrong name.
#[derive(Serialize, Deserialize)]
struct Begun {
    user: String,
    account: String,
    login: Login,
}

/// What OAuth's own redirects are: 302.
fn found(to: &str) -> impl IntoResponse {
    (StatusCode::FOUND, [(LOCATION, to.to_owned())])
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
    State(App { cookies, .. }): State<App>,
    jar: PrivateCookieJar,
    Form(Entered { user }): Form<Entered>,
) -> Response {
    // Whoever was here before has nothing to finish any more.
    let jar = cookies.remove(jar, Kept::Login);
    cookies.back(jar.add(cookies.make(Kept::Session, user)))
}

#[derive(Deserialize)]
struct Question {
    bot: String,
    text: String,
}

/// The question is in the page's own address: the form has only to be sent.
async fn chat_page() -> Html<&'static str> {
    Html("<form method=post><button>Ask</button></form>")
}

/// Asks a bot, on behalf of the user whose session this is. The answer streams through.
async fn chat(
    State(app): State<App>,
    jar: PrivateCookieJar,
    uri: Uri,
    Query(Question { bot, text }): Query<Question>,
) -> Result<Response, Failed> {
    // Without scheme and host, so that the way back leads nowhere else.
    let asked = uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
    let asked = app.cookies.make(Kept::Asked, asked);
    let Some(user) = app.cookies.read(&jar, Kept::Session) else {
        return Ok((jar.add(asked), found("/enter")).into_response());
    };
    let user = UserId::new(user);
    let question = serde_json::json!({
        "bot_id": bot, "user_id": user.as_str(), "stream": true,
        "additional_messages": [{ "role": "user", "content": text, "content_type": "text" }],
    });
    let request = Request::post(app.chat_url)
        .header(CONTENT_TYPE, "application/json")
        .extension(user)
        .body(Full::from(question.to_string()))
        .map_err(|error| Failed(StatusCode::BAD_REQUEST, error.to_string()))?;
    let answered = app.coze.oneshot(request).await;
    if let Some(login) = where_to_authorise(&answered) {
        return Ok((jar.add(asked), found(&login)).into_response());
    }
    let response = answered.map_err(|error| Failed(StatusCode::BAD_GATEWAY, error.to_string()))?;
    let by = Outcome::of(&response).answered_by().map_or("nobody", Slot::as_str);
    let mut answer = Response::builder().status(response.status()).header("x-answered-by", by);
    if let Some(kind) = response.headers().get(CONTENT_TYPE) {
        answer = answer.header(CONTENT_TYPE, kind);
    }
    answer
        .body(Body::new(response.into_body()))
        .map_err(|error| Failed(StatusCode::BAD_GATEWAY, error.to_string()))
}

/// The refusal says so, if one grant is refused and there is no other; and the error, if there is none at all: then the
/// first account of those that were asked. Once the old credential is retired, that is the enterprise alone.
fn where_to_authorise<B>(answered: &Result<Response<B>, BoxError>) -> Option<String> {
    match answered {
        Ok(response) => match Outcome::of(response).no_replay()? {
            NoReplay::InteractionRequired { authorize_url } => Some(authorize_url.clone()),
            _ => None,
        },
        Err(error) => {
            let error = error.downcast_ref::<Error>()?;
            let causes = [Slot::Primary, Slot::Fallback].map(|slot| error.credential_error(slot));
            causes.into_iter().flatten().find_map(|cause| cause.authorize_url()).map(str::to_owned)
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

/// Off to Coze's page. What proves the login later stays in this browser, sealed.
async fn login(
    State(app): State<App>,
    Path(account): Path<String>,
    jar: PrivateCookieJar,
) -> Result<Response, Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let Some(user) = app.cookies.read(&jar, Kept::Session) else {
        return Ok(found("/enter").into_response());
    };
    let (url, login) = app.account(&account)?.0.authorize().map_err(|error| failed(&error))?;
    let begun = serde_json::to_string(&Begun { user, account, login }).map_err(|error| failed(&error))?;
    Ok((jar.add(app.cookies.make(Kept::Login, begun)), found(&url)).into_response())
}

#[derive(Deserialize)]
struct Callback {
    state: String,
    code: Option<String>,
}

/// Back from Coze's page. However that ends, the login is over.
async fn callback(
    State(app): State<App>,
    Path(account): Path<String>,
    jar: PrivateCookieJar,
    Query(callback): Query<Callback>,
) -> Response {
    let session = app.cookies.read(&jar, Kept::Session);
    let begun = app.cookies.read(&jar, Kept::Login);
    let jar = app.cookies.remove(jar, Kept::Login);
    match finish(&app, &account, session, begun, callback).await {
        Ok(()) => app.cookies.back(jar),
        Err(failed) => (jar, failed).into_response(),
    }
}

async fn finish(
    app: &App,
    account: &str,
    session: Option<String>,
    begun: Option<String>,
    Callback { state, code }: Callback,
) -> Result<(), Failed> {
    let (client, tokens) = app.account(account)?;
    let bad = |what: &str| Failed(StatusCode::BAD_REQUEST, what.to_owned());
    let session = session.ok_or_else(|| bad("nobody has entered here"))?;
    let begun = begun.and_then(|begun| serde_json::from_str::<Begun>(&begun).ok());
    let begun = begun.ok_or_else(|| bad("no login was begun in this browser"))?;
    if begun.user != session || begun.account != account {
        return Err(bad("this login was begun by another user, or for another account"));
    }
    let code =
        code.ok_or_else(|| Failed(StatusCode::FORBIDDEN, "Coze was not allowed to let us in".to_owned()))?;
    let grant = client.finish(begun.login, &state, &code).await.map_err(|error| bad(&error.to_string()))?;
    let kept = tokens.sign_in(&UserId::new(session), &grant).await;
    kept.map_err(|error| Failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(())
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
    let [personal_store, enterprise_store]: [Arc<dyn TokenStore>; 2] = match std::env::var("REDIS_URL") {
        Ok(url) => stores_in(&url)?,
        Err(_) => [Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())],
    };
    let setup = Setup {
        region: Region::custom(coze.base_url())?,
        public_url: first.clone(),
        personal: coze.create_web_app(),
        enterprise: coze.create_web_app(),
        key: Key::generate(),
        personal_store,
        enterprise_store,
    };
    for listener in listeners {
        let replica = backend(setup.clone())?;
        tokio::spawn(async move { axum::serve(listener, replica).await });
    }
    println!("Ask:       {first}/chat?bot={bot}&text=hello");
    println!("           {second}/chat?bot={bot}&text=hello (the other replica)");
    println!("Consent as {person}, and after the move as {enterprise}.");
    println!("Press Enter to move the workspace, and again to end.");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    if lines.next_line().await?.is_some() {
        coze.move_workspace(&workspace, &enterprise);
        println!("Moved. Ask again.");
        lines.next_line().await?;
    }
    Ok(())
}
