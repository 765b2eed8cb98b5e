//! `examples/web_backend.rs`, as browsers see it: cookies, redirects, forms; two replicas, one Redis.
#![cfg(all(feature = "redis", feature = "simulator"))]

#[path = "support/redis.rs"]
mod servers;
#[allow(dead_code, unreachable_pub, reason = "its `main` is for people")]
#[path = "../examples/web_backend.rs"]
mod web_backend;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{self, Request, header};
use axum_extra::extract::cookie::Key;
use reqwest::cookie::{CookieStore, Jar};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use servers::RedisServer;
use tower::ServiceExt;
use tower_credential_fallback::coze::Region;
use tower_credential_fallback::coze::simulator::{AccountId, Simulator, WorkspaceId};
use tower_credential_fallback::store::MemoryStore;
use tower_credential_fallback::{FallbackHandle, Order};

struct World {
    coze: Simulator,
    person: AccountId,
    enterprise: AccountId,
    workspace: WorkspaceId,
    bot: String,
    replicas: [String; 2],
    handles: Vec<FallbackHandle>,
    _redis: RedisServer,
}

impl World {
    async fn new() -> Self {
        let (coze, redis) = (Simulator::start().await.unwrap(), RedisServer::start());
        let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
        let workspace = coze.create_workspace(&person);
        let bot = coze.create_bot(&workspace);
        let (personal, company) = (coze.create_web_app(), coze.create_web_app());
        let key = Key::generate();
        let (mut replicas, mut handles) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            if replicas.is_empty() {
                coze.register_redirect_uri(&personal, format!("{url}/callback/personal"));
                coze.register_redirect_uri(&company, format!("{url}/callback/enterprise"));
            }
            let setup = web_backend::Setup {
                region: Region::custom(coze.base_url()).unwrap(),
                public_url: replicas.first().unwrap_or(&url).clone(),
                personal: personal.clone(),
                enterprise: company.clone(),
                key: key.clone(),
                // Each with connections of its own.
                store: web_backend::store_in(&redis.url()).unwrap(),
            };
            let (app, handle) = web_backend::backend(setup).unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            replicas.push(url);
            handles.push(handle);
        }
        let replicas = [replicas.remove(0), replicas.remove(0)];
        Self { coze, person, enterprise, workspace, bot, replicas, handles, _redis: redis }
    }

    fn chat(&self, replica: usize) -> String {
        format!("{}/chat?bot={}&text=how+are+you", self.replicas[replica], self.bot)
    }

    fn set_order(&self, order: Order) {
        self.handles.iter().for_each(|handle| handle.set_order(order));
    }

    /// The account whose consent is asked for; `None`: this is not the consent page.
    fn consents(&self, page: &Response) -> Option<&'static str> {
        if !page.url().as_str().starts_with(&format!("{}/oauth/consent?", self.coze.base_url())) {
            return None;
        }
        // The last that was asked to authorise.
        let asked = self.coze.requests().into_iter().rev().filter(|request| request.status == 302);
        let query =
            asked.filter_map(|request| request.query).find(|query| query.contains("redirect_uri="))?;
        if query.contains("callback%2Fpersonal") { Some("personal") } else { Some("enterprise") }
    }

    fn chats(&self) -> usize {
        self.coze.requests().iter().filter(|request| request.path == "/v3/chat").count()
    }
}

/// A browser: cookies, redirects, and what browsers say of where a request comes from.
struct Browser {
    cookies: Arc<Jar>,
    following: Client,
    stopping: Client,
}

impl Browser {
    fn new() -> Self {
        let cookies = Arc::new(Jar::default());
        let client = || Client::builder().cookie_provider(Arc::clone(&cookies));
        let (following, stopping) =
            (client().build().unwrap(), client().redirect(Policy::none()).build().unwrap());
        Self { cookies, following, stopping }
    }

    /// Types an address, or follows a link.
    async fn open(&self, url: impl reqwest::IntoUrl) -> Response {
        self.following.get(url).header("sec-fetch-site", "none").send().await.unwrap()
    }

    /// As [`open`](Self::open), but not on to where it redirects.
    async fn knock(&self, url: impl reqwest::IntoUrl) -> Response {
        self.stopping.get(url).header("sec-fetch-site", "cross-site").send().await.unwrap()
    }

    /// Submits a form of the page's own site.
    async fn submit(&self, page: &Response, path: &str, form: &[(&str, &str)]) -> Response {
        let request = self.following.post(page.url().join(path).unwrap()).form(form);
        let origin = page.url().origin().ascii_serialization();
        request.header("sec-fetch-site", "same-origin").header("origin", origin).send().await.unwrap()
    }

    async fn enter(&self, page: &Response, user: &str) -> Response {
        assert_eq!(page.url().path(), "/enter");
        self.submit(page, "/enter", &[("user", user)]).await
    }

    /// Presses the button of the chat page.
    async fn ask(&self, page: &Response) -> Response {
        assert_eq!((page.url().path(), page.status()), ("/chat", StatusCode::OK));
        let values: HashMap<_, _> = page.url().query_pairs().into_owned().collect();
        self.submit(page, "/chat", &[("bot", &values["bot"]), ("text", &values["text"])]).await
    }

    /// What the consent page redirects to.
    async fn decide(&self, page: &Response, account: &AccountId, decision: &str) -> String {
        let key = page.url().query_pairs().find(|(name, _)| name == "authorize_key").unwrap().1.into_owned();
        let form = [("authorize_key", key.as_str()), ("account", account.as_str()), ("decision", decision)];
        let page = self.stopping.post(page.url().join("/oauth/consent").unwrap()).form(&form).send().await;
        location(&page.unwrap())
    }

    /// Consents, and comes back.
    async fn allow(&self, page: &Response, account: &AccountId) -> Response {
        self.open(self.decide(page, account, "allow").await).await
    }

    /// Enters and asks, up to the consent page.
    async fn ask_as(&self, world: &World, user: &str) -> Response {
        let page = self.open(&world.chat(0)).await;
        let page = self.enter(&page, user).await;
        let page = self.ask(&page).await;
        assert!(world.consents(&page).is_some(), "{}", page.url());
        page
    }

    /// Its cookie of this name, as it is sent.
    fn cookie(&self, world: &World, name: &str) -> Option<String> {
        let sent = self.cookies.cookies(&world.replicas[0].parse().unwrap())?;
        let mut sent = sent.to_str().unwrap().split("; ");
        sent.find(|cookie| cookie.starts_with(&format!("{name}="))).map(str::to_owned)
    }

    fn plant(&self, world: &World, cookie: &str) {
        self.cookies.add_cookie_str(cookie, &world.replicas[0].parse().unwrap());
    }
}

fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

/// Who answered, if the chat did.
async fn answered_by(response: Response) -> String {
    assert_eq!((response.status(), response.url().path()), (StatusCode::OK, "/chat"));
    let by = response.headers()["x-answered-by"].to_str().unwrap().to_owned();
    let events = response.text().await.unwrap();
    assert!(
        events.contains("event:conversation.message.completed") && events.contains("how are you"),
        "{events}"
    );
    by
}

async fn is_refused(response: Response, because: &str) {
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status == StatusCode::BAD_REQUEST && text.contains(because), "{status} {text}");
}

#[tokio::test]
async fn a_user_logs_in_chats_and_after_the_move_consents_again_on_whichever_replica() {
    let world = World::new().await;
    let alice = Browser::new();
    let page = alice.ask_as(&world, "alice").await;
    assert_eq!(world.consents(&page), Some("personal"));
    let page = alice.allow(&page, &world.person).await;
    assert_eq!(page.url().as_str(), world.chat(0), "back at what was asked");
    assert_eq!(answered_by(alice.ask(&page).await).await, "primary");
    let page = alice.open(&world.chat(1)).await;
    assert_eq!(answered_by(alice.ask(&page).await).await, "primary", "the other replica knows her too");

    world.coze.move_workspace(&world.workspace, &world.enterprise);
    let page = alice.ask(&page).await;
    assert_eq!(world.consents(&page), Some("enterprise"));
    alice.allow(&page, &world.enterprise).await;
    for replica in [0, 1] {
        let page = alice.open(&world.chat(replica)).await;
        assert_eq!(answered_by(alice.ask(&page).await).await, "fallback", "{replica}");
    }
}

#[tokio::test]
async fn after_the_move_a_chat_leads_to_the_login_and_that_one_to_the_authorise_url() {
    let world = World::new().await;
    let alice = Browser::new();
    let page = alice.ask_as(&world, "alice").await;
    alice.allow(&page, &world.person).await;
    world.coze.move_workspace(&world.workspace, &world.enterprise);

    let request = alice.stopping.post(format!("{}/chat", world.replicas[1]));
    let login = request.form(&[("bot", world.bot.as_str()), ("text", "hi")]).send().await.unwrap();
    assert_eq!(
        (login.status(), location(&login)),
        (StatusCode::SEE_OTHER, format!("{}/login/enterprise", world.replicas[0]))
    );
    let authorise = alice.knock(location(&login)).await;
    assert_eq!(authorise.status(), StatusCode::SEE_OTHER);
    let to = Url::parse(&location(&authorise)).unwrap();
    assert_eq!(to.path(), "/api/permission/oauth2/authorize");
    let values: HashMap<_, _> = to.query_pairs().into_owned().collect();
    assert!(values["state"].len() >= 16);
    assert_eq!(values["redirect_uri"], format!("{}/callback/enterprise", world.replicas[0]));
    let cookie = authorise.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains(&values["state"]) && !cookie.contains("alice"), "sealed");
}

#[tokio::test]
async fn a_user_who_does_not_consent_is_told_and_may_try_again() {
    let world = World::new().await;
    let alice = Browser::new();
    let page = alice.ask_as(&world, "alice").await;
    let refused = alice.open(alice.decide(&page, &world.person, "deny").await).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(alice.cookie(&world, "login"), None, "that login is over");
    let page = alice.open(&world.chat(0)).await;
    let page = alice.ask(&page).await;
    let page = alice.allow(&page, &world.person).await;
    assert_eq!(answered_by(alice.ask(&page).await).await, "primary");
}

#[tokio::test]
async fn once_the_old_account_goes_last_or_not_at_all_new_users_are_sent_to_the_enterprise() {
    let world = World::new().await;
    world.coze.move_workspace(&world.workspace, &world.enterprise);
    for order in [Order::FallbackFirst, Order::FallbackOnly] {
        world.set_order(order);
        let user = Browser::new();
        let page = user.ask_as(&world, &format!("{order:?}")).await;
        assert_eq!(world.consents(&page), Some("enterprise"), "{order:?}");
        let page = user.allow(&page, &world.enterprise).await;
        assert_eq!(answered_by(user.ask(&page).await).await, "fallback", "{order:?}");
    }
}

#[tokio::test]
async fn a_user_who_is_refused_with_both_grants_is_offered_the_login_again() {
    let world = World::new().await;
    let alice = Browser::new();
    let page = alice.ask_as(&world, "alice").await;
    alice.allow(&page, &world.person).await;
    world.coze.move_workspace(&world.workspace, &world.enterprise);
    // She consents as the wrong account: not as the enterprise, but as somebody else.
    let page = alice.open(&world.chat(0)).await;
    let page = alice.ask(&page).await;
    let page = alice.allow(&page, &world.coze.create_account()).await;
    // Fallback first, so that the next call does not wait for the cooldown of this one's refusals.
    world.set_order(Order::FallbackFirst);
    let page = alice.ask(&page).await;
    assert_eq!((page.status(), page.url().path()), (StatusCode::FORBIDDEN, "/chat"));
    let link = page.url().join("/login/enterprise").unwrap();
    assert!(page.text().await.unwrap().contains("href=/login/enterprise"));
    let page = alice.open(link).await;
    let page = alice.allow(&page, &world.enterprise).await;
    assert_eq!(page.url().as_str(), world.chat(0));
    assert_eq!(answered_by(alice.ask(&page).await).await, "fallback");
}

#[tokio::test]
async fn nobody_is_logged_in_by_another_browsers_callback_and_nobody_chats_as_another() {
    let world = World::new().await;
    let (alice, mallory) = (Browser::new(), Browser::new());
    // Mallory's consent, up to the callback, whose URL she sends to Alice.
    let page = mallory.ask_as(&world, "mallory").await;
    let callback = mallory.decide(&page, &world.person, "allow").await;

    is_refused(alice.open(&callback).await, "nobody has entered").await;
    alice.ask_as(&world, "alice").await;
    is_refused(alice.open(&callback).await, "`state`").await;
    is_refused(alice.open(&callback).await, "no login was begun").await;
    let page = alice.open(&world.chat(0)).await;
    assert!(world.consents(&alice.ask(&page).await).is_some(), "she still has no grant");

    // A session that somebody made up is none, and neither is another cookie's value.
    for forged in ["mallory", alice.cookie(&world, "login").unwrap().split_once('=').unwrap().1] {
        let other = Browser::new();
        other.plant(&world, &format!("session={forged}; Path=/"));
        assert_eq!(other.open(&world.chat(0)).await.url().path(), "/enter");
    }
}

#[tokio::test]
async fn a_login_that_one_user_has_begun_is_not_finished_for_the_next_at_the_same_browser() {
    let world = World::new().await;
    let browser = Browser::new();
    let page = browser.ask_as(&world, "alice").await;
    let callback = browser.decide(&page, &world.person, "allow").await;
    let alices = browser.cookie(&world, "login").unwrap();
    let page = browser.open(format!("{}/enter", world.replicas[0])).await;
    browser.enter(&page, "bob").await;
    is_refused(browser.open(&callback).await, "no login was begun").await;
    browser.plant(&world, &format!("{alices}; Path=/"));
    is_refused(browser.open(&callback).await, "another user").await;
    let page = browser.open(&world.chat(0)).await;
    assert!(world.consents(&browser.ask(&page).await).is_some(), "bob has no grant");
}

#[tokio::test]
async fn a_login_planted_in_somebodys_browser_is_not_finished_there() {
    let world = World::new().await;
    let (alice, mallory) = (Browser::new(), Browser::new());
    let page = mallory.ask_as(&world, "mallory").await;
    let callback = mallory.decide(&page, &world.person, "allow").await;
    alice.ask_as(&world, "alice").await;
    alice.plant(&world, &format!("{}; Path=/", mallory.cookie(&world, "login").unwrap()));
    is_refused(alice.open(&callback).await, "another user").await;
    let page = alice.open(&world.chat(0)).await;
    assert!(world.consents(&alice.ask(&page).await).is_some(), "she has no grant of Mallory's");
}

#[tokio::test]
async fn a_login_that_was_begun_for_one_account_is_not_finished_for_the_other() {
    let world = World::new().await;
    let alice = Browser::new();
    let page = alice.ask_as(&world, "alice").await;
    let callback = alice.decide(&page, &world.person, "allow").await;
    let moved = callback.replace("/callback/personal", "/callback/enterprise");
    assert_ne!(moved, callback);
    is_refused(alice.open(&moved).await, "another account").await;
    is_refused(alice.open(&callback).await, "no login was begun").await;
    assert_eq!(alice.open(callback.replace("personal", "nobody")).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_login_is_over_whatever_its_callback_comes_to() {
    let world = World::new().await;
    let alice = Browser::new();
    alice.ask_as(&world, "alice").await;
    for query in
        ["", "?state=x&code=y", "?code=y", "?state=x", "?state=x&state=y&code=z", "?error=access_denied"]
    {
        alice.knock(format!("{}/login/personal", world.replicas[0])).await;
        assert!(alice.cookie(&world, "login").is_some());
        let back = alice.knock(format!("{}/callback/personal{query}", world.replicas[0])).await;
        assert!(back.status().is_client_error(), "{query}");
        assert_eq!(alice.cookie(&world, "login"), None, "{query}");
    }
}

#[tokio::test]
async fn another_sites_forms_neither_enter_nor_ask() {
    let world = World::new().await;
    let alice = Browser::new();
    let page = alice.ask_as(&world, "alice").await;
    alice.allow(&page, &world.person).await;
    let session = alice.cookie(&world, "session");
    let chat = [("bot", world.bot.as_str()), ("text", "hi")];
    for (path, form) in [("/enter", &[("user", "mallory")][..]), ("/chat", &chat)] {
        // Browsers of today say where a form comes from; those of yesterday say its origin.
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
        ] {
            let request = alice.stopping.post(format!("{}{path}", world.replicas[0])).form(form);
            let refused = request.header(name, value).send().await.unwrap();
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path} {name}: {value}");
        }
    }
    assert_eq!((alice.cookie(&world, "session"), world.chats()), (session, 0));
}

#[tokio::test]
async fn a_link_asks_nothing_and_what_is_in_it_is_shown_as_text() {
    let world = World::new().await;
    let alice = Browser::new();
    let page = alice.ask_as(&world, "alice").await;
    alice.allow(&page, &world.person).await;
    let link =
        format!("{}/chat?bot={}&text=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", world.replicas[0], world.bot);
    let page = alice.knock(&link).await;
    assert_eq!(page.status(), StatusCode::OK);
    let page = page.text().await.unwrap();
    assert!(page.contains("&quot;&gt;&lt;script&gt;") && !page.contains("<script"), "{page}");
    assert_eq!(world.chats(), 0);
}

/// An application at this URL, without a socket.
async fn at(public_url: &str) -> Router {
    let coze = Simulator::start().await.unwrap();
    let setup = web_backend::Setup {
        region: Region::custom(coze.base_url()).unwrap(),
        public_url: public_url.to_owned(),
        personal: coze.create_web_app(),
        enterprise: coze.create_web_app(),
        key: Key::generate(),
        store: Arc::new(MemoryStore::new()),
    };
    web_backend::backend(setup).unwrap().0
}

async fn answer(app: &Router, request: http::request::Builder, body: &'static str) -> http::Response<Body> {
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    app.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
}

/// The `set-cookie` of an answer.
fn cookie_of(response: &http::Response<Body>) -> &str {
    response.headers()["set-cookie"].to_str().unwrap()
}

#[tokio::test]
async fn over_https_every_cookie_is_this_hosts_alone() {
    let app = at("https://app.example.com").await;
    let entered = answer(&app, Request::post("/enter"), "user=alice").await;
    let asked = answer(&app, Request::get("/chat?bot=1&text=x"), "").await;
    let session = cookie_of(&entered).split(';').next().unwrap();
    let begun = answer(&app, Request::get("/login/personal").header("cookie", session), "").await;
    let login = cookie_of(&begun).split(';').next().unwrap();
    let request = Request::get("/callback/personal").header("cookie", format!("{session}; {login}"));
    let over = answer(&app, request, "").await;
    for (response, name) in [(&entered, "session"), (&asked, "asked"), (&begun, "login"), (&over, "login")] {
        let cookie = cookie_of(response);
        assert!(cookie.starts_with(&format!("__Host-{name}=")), "{cookie}");
        assert!(cookie.contains("; Secure") && cookie.contains("; Path=/"), "{cookie}");
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
    assert!(cookie_of(&over).contains("Max-Age=0"), "{}", cookie_of(&over));
    // Its own forms pass, though a proxy has changed the host; without the prefix, a cookie is nobody's.
    let form = Request::post("/enter").header("host", "10.0.0.7").header("origin", "https://app.example.com");
    assert_eq!(answer(&app, form, "user=alice").await.status(), StatusCode::SEE_OTHER);
    let planted = session.trim_start_matches("__Host-");
    let page = answer(&app, Request::get("/chat?bot=1&text=x").header("cookie", planted), "").await;
    assert_eq!(page.headers()["location"], "/enter");
}

#[tokio::test]
async fn the_way_back_leads_to_this_host_whatever_the_requests_url_says() {
    let app = at("http://127.0.0.1:1").await;
    let asked = answer(&app, Request::get("http://evil.example/chat?bot=1&text=a+b"), "").await;
    let asked = cookie_of(&asked).split(';').next().unwrap();
    let entered = answer(&app, Request::post("/enter").header("cookie", asked), "user=alice").await;
    assert_eq!(entered.headers()["location"], "/chat?bot=1&text=a+b");
}
