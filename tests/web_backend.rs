//! `examples/web_backend.rs`, as browsers see it: cookies, redirects, forms; two replicas, one Redis.
#![cfg(all(feature = "redis", feature = "simulator"))]

#[path = "support/redis.rs"]
mod servers;
#[allow(dead_code, unreachable_pub, reason = "its `main` is for people")]
#[path = "../examples/web_backend.rs"]
mod web_backend;

use std::collections::HashMap;
use std::sync::Arc;

use axum_extra::extract::cookie::Key;
use reqwest::{Client, Response, StatusCode, Url};
use servers::RedisServer;
use tower_credential_fallback::coze::Region;
use tower_credential_fallback::coze::simulator::{AccountId, Simulator, WorkspaceId};

struct World {
    coze: Simulator,
    person: AccountId,
    enterprise: AccountId,
    workspace: WorkspaceId,
    bot: String,
    replicas: [String; 2],
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
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            // Each with connections of its own.
            let [personal_store, enterprise_store] = web_backend::stores_in(&redis.url()).unwrap();
            let setup = web_backend::Setup {
                region: Region::custom(coze.base_url()).unwrap(),
                public_url: replicas.first().unwrap_or(&url).clone(),
                personal: personal.clone(),
                enterprise: company.clone(),
                key: key.clone(),
                personal_store,
                enterprise_store,
            };
            let app = web_backend::backend(setup).unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            replicas.push(url);
        }
        let replicas = [replicas.remove(0), replicas.remove(0)];
        Self { coze, person, enterprise, workspace, bot, replicas, _redis: redis }
    }

    fn chat(&self, replica: usize) -> String {
        format!("{}/chat?bot={}&text=how+are+you", self.replicas[replica], self.bot)
    }

    fn is_consent_page(&self, url: &Url) -> bool {
        url.as_str().starts_with(&format!("{}/oauth/consent?", self.coze.base_url()))
    }
}

/// A browser with a cookie jar, that follows redirects.
fn browser() -> Client {
    Client::builder().cookie_store(true).build().unwrap()
}

async fn open(browser: &Client, url: impl reqwest::IntoUrl) -> Response {
    browser.get(url).send().await.unwrap()
}

/// Sends the question's form.
async fn ask(browser: &Client, url: impl reqwest::IntoUrl) -> Response {
    browser.post(url).send().await.unwrap()
}

async fn enter(browser: &Client, page: &Response, user: &str) -> Response {
    assert_eq!(page.url().path(), "/enter");
    let page = browser.post(page.url().clone()).form(&[("user", user)]).send().await.unwrap();
    // Back at the question, which is sent again.
    assert_eq!(page.url().path(), "/chat");
    ask(browser, page.url().clone()).await
}

async fn decide(browser: &Client, page: &Response, account: &AccountId, decision: &str) -> Response {
    let key = page.url().query_pairs().find(|(name, _)| name == "authorize_key").unwrap().1.into_owned();
    let form = [("authorize_key", key.as_str()), ("account", account.as_str()), ("decision", decision)];
    browser.post(page.url().join("/oauth/consent").unwrap()).form(&form).send().await.unwrap()
}

fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

/// Who answers, when the question that is led back to after a consent is sent.
async fn answered_after(browser: &Client, page: Response) -> String {
    assert_eq!((page.status(), page.url().path()), (StatusCode::OK, "/chat"), "back at what was asked");
    answered_by(ask(browser, page.url().clone()).await).await
}

/// Who answered, if the chat did.
async fn answered_by(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.url().path(), "/chat", "back at what was asked");
    let by = response.headers()["x-answered-by"].to_str().unwrap().to_owned();
    let events = response.text().await.unwrap();
    assert!(
        events.contains("event:conversation.message.completed") && events.contains("how are you"),
        "{events}"
    );
    by
}

#[tokio::test]
async fn a_user_logs_in_chats_and_after_the_move_consents_again_on_whichever_replica() {
    let world = World::new().await;
    let alice = browser();

    let page = ask(&alice, world.chat(0)).await;
    let page = enter(&alice, &page, "alice").await;
    assert!(world.is_consent_page(page.url()), "{}", page.url());
    assert_eq!(answered_after(&alice, decide(&alice, &page, &world.person, "allow").await).await, "primary");
    assert_eq!(
        answered_by(ask(&alice, world.chat(1)).await).await,
        "primary",
        "the other replica knows her too"
    );

    world.coze.move_workspace(&world.workspace, &world.enterprise);
    let page = ask(&alice, world.chat(1)).await;
    assert!(world.is_consent_page(page.url()), "{}", page.url());
    assert_eq!(
        answered_after(&alice, decide(&alice, &page, &world.enterprise, "allow").await).await,
        "fallback"
    );
    for replica in [0, 1] {
        assert_eq!(answered_by(ask(&alice, world.chat(replica)).await).await, "fallback");
    }
}

#[tokio::test]
async fn after_the_move_a_chat_is_a_302_to_the_login_and_that_one_to_the_authorise_url() {
    let world = World::new().await;
    let jar = Arc::new(reqwest::cookie::Jar::default());
    let alice = Client::builder().cookie_provider(Arc::clone(&jar)).build().unwrap();
    let page = ask(&alice, world.chat(0)).await;
    let page = enter(&alice, &page, "alice").await;
    decide(&alice, &page, &world.person, "allow").await;
    world.coze.move_workspace(&world.workspace, &world.enterprise);

    let still =
        Client::builder().cookie_provider(jar).redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let login = ask(&still, world.chat(1)).await;
    assert_eq!(
        (login.status(), location(&login)),
        (StatusCode::FOUND, format!("{}/login/enterprise", world.replicas[0]))
    );
    let authorise = open(&still, location(&login)).await;
    assert_eq!(authorise.status(), StatusCode::FOUND);
    let to = Url::parse(&location(&authorise)).unwrap();
    assert_eq!(to.path(), "/api/permission/oauth2/authorize");
    let values: HashMap<_, _> = to.query_pairs().into_owned().collect();
    assert!(values["state"].len() >= 16);
    assert_eq!(values["redirect_uri"], format!("{}/callback/enterprise", world.replicas[0]));
    let cookie = authorise.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains(&values["state"]), "sealed");
}

#[tokio::test]
async fn a_user_who_does_not_consent_is_told_and_may_try_again() {
    let world = World::new().await;
    let alice = browser();
    let page = ask(&alice, world.chat(0)).await;
    let page = enter(&alice, &page, "alice").await;
    let refused = decide(&alice, &page, &world.person, "deny").await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let page = ask(&alice, world.chat(0)).await;
    assert!(world.is_consent_page(page.url()));
    assert_eq!(answered_after(&alice, decide(&alice, &page, &world.person, "allow").await).await, "primary");
}

#[tokio::test]
async fn nobody_is_logged_in_by_another_browsers_callback_and_nobody_chats_as_another() {
    let world = World::new().await;
    let (alice, mallory) = (browser(), browser());
    // Mallory's consent, up to the callback, whose URL she sends to Alice.
    let page = ask(&mallory, world.chat(0)).await;
    let page = enter(&mallory, &page, "mallory").await;
    let stopped = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let callback = decide(&stopped, &page, &world.person, "allow").await;
    let callback = location(&callback);

    assert_eq!(open(&alice, &callback).await.status(), StatusCode::BAD_REQUEST, "nobody has entered");
    let page = ask(&alice, world.chat(0)).await;
    let page = enter(&alice, &page, "alice").await;
    assert!(world.is_consent_page(page.url()));
    let response = open(&alice, &callback).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(response.text().await.unwrap().contains("`state`"));
    let page = ask(&alice, world.chat(0)).await;
    assert!(world.is_consent_page(page.url()), "she still has no grant");

    // A session that somebody made up is none.
    let forged = browser();
    let request = forged.post(world.chat(0)).header("cookie", "session=mallory");
    assert_eq!(request.send().await.unwrap().url().path(), "/enter");
}

#[tokio::test]
async fn a_login_is_finished_by_the_user_and_for_the_account_that_began_it_or_not_at_all() {
    let world = World::new().await;
    let browser = browser();
    let jar_stops =
        |_: &Client| Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let page = ask(&browser, world.chat(0)).await;
    let page = enter(&browser, &page, "alice").await;
    let callback = location(&decide(&jar_stops(&browser), &page, &world.person, "allow").await);

    // Bob enters in the same browser, before Alice's consent comes back.
    let form = [("user", "bob")];
    browser.post(format!("{}/enter", world.replicas[0])).form(&form).send().await.unwrap();
    let refused = open(&browser, &callback).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let page = ask(&browser, world.chat(0)).await;
    assert!(world.is_consent_page(page.url()), "Bob has not got Alice's grant");

    // A login that was begun for the personal account ends at the enterprise's callback.
    let callback = location(&decide(&jar_stops(&browser), &page, &world.person, "allow").await);
    let elsewhere = callback.replace("/callback/personal", "/callback/enterprise");
    assert_ne!(elsewhere, callback);
    let refused = open(&browser, &elsewhere).await;
    assert!(refused.text().await.unwrap().contains("another account"));
    // It is over: its own callback comes too late.
    assert_eq!(open(&browser, &callback).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn forms_of_other_sites_neither_enter_nor_ask() {
    let world = World::new().await;
    let browser = browser();
    for path in [format!("{}/enter", world.replicas[0]), world.chat(0)] {
        for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
            let request = browser.post(&path).header(name, value).form(&[("user", "mallory")]);
            assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{path} {name}");
        }
    }
    let page = ask(&browser, world.chat(0)).await;
    assert_eq!(page.url().path(), "/enter", "nobody has entered");
}
