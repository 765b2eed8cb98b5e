//! The local Coze as apps that act for users see it, and what it refuses them.
#![cfg(feature = "simulator")]

mod support;
#[path = "support/oauth.rs"]
mod users;

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect};
use serde_json::{Value, json};
use tower_credential_fallback::coze::simulator::{AccountId, Settings, Simulator, UserApp, WorkspaceId};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{Grant, OAuthClient, RefreshToken};
use users::{CALLBACK, TestClock, consent, http_client, log_in, refresh_token_of, secret_of, web_app};

fn browser() -> Client {
    Client::builder().redirect(redirect::Policy::none()).build().unwrap()
}

/// What the authorise page says to a query.
async fn authorize(coze: &Simulator, path: &str, query: &[(&str, &str)]) -> (StatusCode, String) {
    let url = format!("{}/api/permission/oauth2{path}/authorize", coze.base_url());
    let url = reqwest::Url::parse_with_params(&url, query).unwrap();
    let page = browser().get(url).send().await.unwrap();
    (page.status(), page.text().await.unwrap())
}

fn query<'a>(app: &'a UserApp, redirect_uri: &'a str) -> Vec<(&'a str, &'a str)> {
    let client_id = app.client_id.as_str();
    vec![("response_type", "code"), ("client_id", client_id), ("redirect_uri", redirect_uri), ("state", "s")]
}

#[tokio::test]
async fn an_app_sends_its_users_back_to_its_registered_uris_alone() {
    let coze = Simulator::start().await.unwrap();
    let (app, other) = (coze.create_web_app(), coze.create_web_app());
    coze.register_redirect_uri(&app, CALLBACK);
    coze.register_redirect_uri(&other, "https://evil.example/callback");
    assert_eq!(authorize(&coze, "", &query(&app, CALLBACK)).await.0, StatusCode::FOUND);
    let near = [format!("{CALLBACK}/"), format!("{CALLBACK}?next=/"), CALLBACK.replace("https", "http")];
    for uri in near.iter().map(String::as_str).chain(["https://evil.example/callback", ""]) {
        let (status, page) = authorize(&coze, "", &query(&app, uri)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        assert!(page.contains("redirect_uri"), "{page}");
    }
}

#[tokio::test]
async fn an_app_without_a_secret_has_to_send_a_challenge_and_nobody_sends_one_of_an_unknown_method() {
    let coze = Simulator::start().await.unwrap();
    let (public, web) = (coze.create_public_app(), coze.create_web_app());
    for app in [&public, &web] {
        coze.register_redirect_uri(app, CALLBACK);
        for (method, is_known) in
            [(Some("S256"), true), (Some("plain"), true), (None, true), (Some("s256"), false)]
        {
            let mut query = query(app, CALLBACK);
            query.push(("code_challenge", "challenge"));
            query.extend(method.map(|method| ("code_challenge_method", method)));
            let (status, page) = authorize(&coze, "", &query).await;
            assert_eq!(status == StatusCode::FOUND, is_known, "{method:?} {page}");
        }
    }
    let (status, page) = authorize(&coze, "", &query(&public, CALLBACK)).await;
    assert!(status == StatusCode::BAD_REQUEST && page.contains("code_challenge"), "{status} {page}");
    assert_eq!(authorize(&coze, "", &query(&web, CALLBACK)).await.0, StatusCode::FOUND);
}

/// The code that the API answers with.
async fn code_of(coze: &Simulator, grant: &Grant, path: &str) -> Value {
    let token = secret_of(&grant.credential().unwrap());
    let request = browser().get(format!("{}{path}", coze.base_url()));
    let answer = request.header("authorization", format!("Bearer {token}")).send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

/// A client of a public app, for one workspace.
fn workspace_client(coze: &Simulator, workspace: &WorkspaceId) -> OAuthClient {
    let app = coze.create_public_app();
    coze.register_redirect_uri(&app, CALLBACK);
    let region = Region::custom(coze.base_url()).unwrap();
    let config = coze::workspace_user_app(&region, app.client_id, &workspace.to_string()).unwrap();
    OAuthClient::new(http_client(), config.with_redirect_uri(CALLBACK)).unwrap()
}

async fn log_in_on_a_device(coze: &Simulator, client: &OAuthClient, account: &AccountId) -> Grant {
    let device = client.start_device().await.unwrap();
    assert!(coze.enter_device_code(device.user_code(), account, true));
    client.poll_device(&device).await.unwrap()
}

#[tokio::test]
async fn a_grant_for_one_workspace_opens_that_one_alone_and_so_does_what_replaces_it() {
    let coze = Simulator::start_with(Settings::default().with_device_interval(1)).await.unwrap();
    let alice = coze.create_account();
    let (this, other) = (coze.create_workspace(&alice), coze.create_workspace(&alice));
    let (bot, other_bot) = (coze.create_bot(&this), coze.create_bot(&other));
    let client = workspace_client(&coze, &this);
    let browsers = log_in(&client, &alice).await;
    let refreshed = client.refresh(&RefreshToken::new(refresh_token_of(&browsers).unwrap())).await.unwrap();
    for grant in [browsers, refreshed, log_in_on_a_device(&coze, &client, &alice).await] {
        assert_eq!(code_of(&coze, &grant, &format!("/v1/bots/{bot}")).await["code"], 0);
        assert_eq!(code_of(&coze, &grant, &format!("/v1/bots/{other_bot}")).await["code"], 4101);
        assert_eq!(code_of(&coze, &grant, "/v1/workspaces").await["data"]["total_count"], 1);
    }
}

#[tokio::test]
async fn nobody_grants_access_to_a_workspace_of_others_or_to_one_that_is_not_there() {
    let coze = Simulator::start().await.unwrap();
    let (alice, bob) = (coze.create_account(), coze.create_account());
    let workspace = coze.create_workspace(&alice);
    let client = workspace_client(&coze, &workspace);
    let back = consent(&client.authorize().unwrap().0, &bob, true).await;
    assert_eq!((back.code, back.error.as_deref()), (None, Some("access_denied")));
    let device = client.start_device().await.unwrap();
    assert!(!coze.enter_device_code(device.user_code(), &bob, true));
    assert!(coze.enter_device_code(device.user_code(), &alice, true), "bob's try has changed nothing");

    let app = coze.create_web_app();
    coze.register_redirect_uri(&app, CALLBACK);
    let (status, page) = authorize(&coze, "/workspace_id/1", &query(&app, CALLBACK)).await;
    assert!(status == StatusCode::BAD_REQUEST && page.contains("workspace"), "{status} {page}");
}

#[tokio::test]
async fn a_dead_refresh_token_is_refused_as_the_settings_say() {
    let settings = Settings::default().with_oauth_error_status(401).with_dead_refresh_token("access_deny");
    for (settings, status, code) in
        [(Settings::default(), 400, "invalid_grant"), (settings, 401, "access_deny")]
    {
        let coze = Simulator::start_with(settings).await.unwrap();
        let alice = coze.create_account();
        let client = web_app(&coze, &TestClock::default());
        let token = refresh_token_of(&log_in(&client, &alice).await).unwrap();
        coze.revoke_refresh_tokens(&alice);
        let error = client.refresh(&RefreshToken::new(token)).await.unwrap_err();
        assert!(error.to_string().contains(code), "{error}");
        let last = coze.requests().pop().unwrap();
        assert_eq!((last.path.as_str(), last.status), ("/api/permission/oauth2/token", status));
        // Every other error of these endpoints has that status too.
        let url = format!("{}/api/permission/oauth2/device/code", coze.base_url());
        let answer = browser().post(url).body(json!({ "client_id": "x" }).to_string()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
    }
}

#[tokio::test]
async fn a_device_names_a_page_of_the_simulators_where_its_code_can_be_entered() {
    let coze = Simulator::start_with(Settings::default().with_device_interval(1)).await.unwrap();
    let alice = coze.create_account();
    let region = Region::custom(coze.base_url()).unwrap();
    let client =
        OAuthClient::new(http_client(), coze::user_app(&region, coze.create_public_app().client_id)).unwrap();
    let device = client.start_device().await.unwrap();
    assert!(device.time_left() > Duration::from_secs(290));
    let page = browser().get(device.verification_uri()).send().await.unwrap();
    assert_eq!((page.url().host_str(), page.status()), (Some("127.0.0.1"), StatusCode::OK));
    assert!(page.text().await.unwrap().contains("name=user_code"));

    let enter = async |code: &str, decision: &str| {
        let form = [("user_code", code), ("account", alice.as_str()), ("decision", decision)];
        browser().post(device.verification_uri()).form(&form).send().await.unwrap().status()
    };
    assert_eq!(enter("0000-0000", "allow").await, StatusCode::BAD_REQUEST);
    assert_eq!(enter(device.user_code(), "allow").await, StatusCode::OK);
    client.poll_device(&device).await.unwrap();
}
