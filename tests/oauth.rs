//! `OAuthClient` against the simulator's authorisation pages, and, for what depends on timing, against a script.
#![cfg(feature = "simulator")]

mod support;
#[path = "support/oauth.rs"]
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_credential_fallback::ErrorKind;
use tower_credential_fallback::coze::simulator::{AccountId, Settings, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{
    Grant, Login, OAuthClient, OAuthConfig, OAuthErrorKind, RefreshToken,
};
use users::{
    CALLBACK, Scripted, TestClock, consent, error, http_client, log_in, scripted_config, secret_of, web_app,
};

/// The `code` that the simulator answers when this grant's user asks for the bot.
async fn asks_for(coze: &Simulator, grant: &Grant, bot: &str) -> Value {
    let request = Request::get(format!("{}/v1/bots/{bot}", coze.base_url()))
        .header("authorization", format!("Bearer {}", secret_of(&grant.credential().unwrap())))
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let answer =
        http_client().oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice::<Value>(&answer).unwrap()["code"].clone()
}

fn a_bot_of(coze: &Simulator, account: &AccountId) -> String {
    coze.create_bot(&coze.create_workspace(account))
}

fn query_of(url: &str) -> std::collections::HashMap<String, String> {
    reqwest::Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

#[tokio::test]
async fn a_login_in_a_browser_ends_in_a_grant_for_that_users_account() {
    let coze = Simulator::start().await.unwrap();
    let (alice, bob) = (coze.create_account(), coze.create_account());
    let client = web_app(&coze, &TestClock::default());
    let (url, login) = client.authorize().unwrap();
    let query = query_of(&url);
    assert_eq!(query["response_type"], "code");
    assert_eq!(query["redirect_uri"], CALLBACK);
    assert!(query["state"].len() >= 16 && !query.contains_key("code_challenge"), "{query:?}");

    // As a session keeps it.
    let login: Login = serde_json::from_str(&serde_json::to_string(&login).unwrap()).unwrap();
    let back = consent(&url, &alice, true).await;
    let grant = client.finish(login, &back.state, &back.code.unwrap()).await.unwrap();
    assert_eq!(asks_for(&coze, &grant, &a_bot_of(&coze, &alice)).await, 0);
    assert_ne!(asks_for(&coze, &grant, &a_bot_of(&coze, &bob)).await, 0);
    let left = grant.expires_at().unwrap().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left.as_secs().abs_diff(15 * 60) < 30, "{left:?}");
}

#[tokio::test]
async fn an_app_without_a_secret_proves_its_login_with_pkce() {
    let coze = Simulator::start().await.unwrap();
    let alice = coze.create_account();
    let app = coze.create_public_app();
    coze.register_redirect_uri(&app, CALLBACK);
    let config =
        coze::user_app(&Region::custom(coze.base_url()).unwrap(), app.client_id).with_redirect_uri(CALLBACK);
    let client = OAuthClient::new(http_client(), config).unwrap();
    let (url, login) = client.authorize().unwrap();
    assert_eq!(query_of(&url)["code_challenge_method"], "S256");
    let back = consent(&url, &alice, true).await;
    let grant = client.finish(login, &back.state, &back.code.unwrap()).await.unwrap();
    assert_eq!(asks_for(&coze, &grant, &a_bot_of(&coze, &alice)).await, 0);

    // Whoever caught the code on its way has another verifier.
    let (url, login) = client.authorize().unwrap();
    let back = consent(&url, &alice, true).await;
    let mut stolen = serde_json::to_value(client.authorize().unwrap().1).unwrap();
    stolen["state"] = back.state.as_str().into();
    let thief: Login = serde_json::from_value(stolen).unwrap();
    let refused = client.finish(thief, &back.state, back.code.as_ref().unwrap()).await.unwrap_err();
    assert_eq!(refused.kind(), OAuthErrorKind::InvalidGrant);
    drop(login);
}

#[tokio::test]
async fn a_callback_of_another_login_is_refused_before_anything_is_sent() {
    let coze = Simulator::start().await.unwrap();
    let alice = coze.create_account();
    let client = web_app(&coze, &TestClock::default());
    let (attackers_url, _) = client.authorize().unwrap();
    let attackers = consent(&attackers_url, &alice, true).await;
    let code = attackers.code.unwrap();
    let sent = coze.request_count();
    for state in [attackers.state.as_str(), "", "x"] {
        let (_, login) = client.authorize().unwrap();
        let error = client.finish(login, state, &code).await.unwrap_err();
        assert_eq!(error.kind(), OAuthErrorKind::StateMismatch);
        assert!(error.to_string().contains("`state`"), "{error}");
    }
    assert_eq!(coze.request_count(), sent);
}

#[tokio::test]
async fn a_user_who_says_no_comes_back_with_an_error_and_no_code() {
    let coze = Simulator::start().await.unwrap();
    let client = web_app(&coze, &TestClock::default());
    let (url, login) = client.authorize().unwrap();
    let back = consent(&url, &coze.create_account(), false).await;
    assert_eq!((back.code, back.error.as_deref()), (None, Some("access_denied")));
    assert_eq!(query_of(&url)["state"], back.state);
    drop(login);
}

#[tokio::test]
async fn a_code_is_good_once() {
    let coze = Simulator::start().await.unwrap();
    let client = web_app(&coze, &TestClock::default());
    let (url, login) = client.authorize().unwrap();
    let kept = serde_json::to_string(&login).unwrap();
    let back = consent(&url, &coze.create_account(), true).await;
    let code = back.code.unwrap();
    client.finish(login, &back.state, &code).await.unwrap();
    let again = serde_json::from_str(&kept).unwrap();
    let error = client.finish(again, &back.state, &code).await.unwrap_err();
    assert_eq!(error.kind(), OAuthErrorKind::InvalidGrant);
    assert!(!format!("{error} {error:?}").contains(&code));
}

#[tokio::test]
async fn one_workspace_alone_can_be_asked_for_in_a_browser_and_on_a_device() {
    let coze = Simulator::start_with(Settings::default().with_device_interval(1)).await.unwrap();
    let alice = coze.create_account();
    let workspace = coze.create_workspace(&alice);
    let app = coze.create_public_app();
    coze.register_redirect_uri(&app, CALLBACK);
    let region = Region::custom(coze.base_url()).unwrap();
    let config = coze::workspace_user_app(&region, &app.client_id, &workspace.to_string()).unwrap();
    let client = OAuthClient::new(http_client(), config.with_redirect_uri(CALLBACK)).unwrap();
    let (url, _) = client.authorize().unwrap();
    assert!(url.contains(&format!("/oauth2/workspace_id/{}/authorize?", workspace)), "{url}");
    let bot = coze.create_bot(&workspace);
    assert_eq!(asks_for(&coze, &log_in(&client, &alice).await, &bot).await, 0);

    let device = client.start_device().await.unwrap();
    assert!(coze.enter_device_code(device.user_code(), &alice, true));
    assert_eq!(asks_for(&coze, &client.poll_device(&device).await.unwrap(), &bot).await, 0);
    assert!(
        coze.requests()
            .iter()
            .any(|request| request.path.contains("/workspace_id/") && request.path.ends_with("device/code"))
    );

    for id in ["", "12a", "1/2"] {
        let error = coze::workspace_user_app(&region, &app.client_id, id).unwrap_err();
        assert_eq!(error.field(), Some("workspace_id"));
    }
}

#[tokio::test]
async fn a_device_gets_its_grant_once_its_code_was_entered() {
    let coze = Simulator::start_with(Settings::default().with_device_interval(1)).await.unwrap();
    let alice = coze.create_account();
    let region = Region::custom(coze.base_url()).unwrap();
    let config = coze::user_app(&region, coze.create_public_app().client_id);
    let client = OAuthClient::new(http_client(), config).unwrap();
    for allow in [true, false] {
        let device = client.start_device().await.unwrap();
        assert!(
            device.verification_uri().starts_with(coze.base_url())
                && device.time_left() > Duration::from_secs(290)
        );
        let polled = coze.request_count();
        let (answer, ()) = tokio::join!(client.poll_device(&device), async {
            // Not before it has been asked, and told to wait.
            while coze.request_count() == polled {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(coze.enter_device_code(device.user_code(), &alice, allow));
        });
        match (allow, answer) {
            (true, Ok(grant)) => assert_eq!(asks_for(&coze, &grant, &a_bot_of(&coze, &alice)).await, 0),
            (false, Err(error)) => assert_eq!(error.kind(), OAuthErrorKind::Denied),
            (_, other) => panic!("{other:?}"),
        }
    }
}

/// A client whose device endpoint gives a code for `lifetime` seconds, and whose token endpoint answers one of `script`
/// after the other, the last for ever.
fn device(server: &Scripted, lifetime: u64, script: Vec<users::Script>) -> OAuthClient {
    let next = Arc::new(AtomicUsize::new(0));
    server.client(scripted_config(), move |posted: Value| {
        let (script, next) = (script.clone(), Arc::clone(&next));
        async move {
            if posted.get("grant_type").is_none() {
                return code_for(lifetime, 5);
            }
            script[next.fetch_add(1, Ordering::SeqCst).min(script.len() - 1)].clone()
        }
    })
}

fn code_for(lifetime: u64, interval: u64) -> users::Script {
    Some((
        200,
        json!({ "device_code": "device-s3cret", "user_code": "AB-CD", "verification_uri": "https://v.example",
            "expires_in": lifetime, "interval": interval }),
    ))
}

fn granted() -> users::Script {
    Some((200, json!({ "access_token": "a", "refresh_token": "r", "expires_in": 900 })))
}

#[tokio::test(start_paused = true)]
async fn a_device_asks_as_slowly_as_it_is_told() {
    let server = Scripted::default();
    let script =
        vec![error("authorization_pending"), error("slow_down"), error("authorization_pending"), granted()];
    let client = device(&server, 300, script);
    let login = client.start_device().await.unwrap();
    client.poll_device(&login).await.unwrap();
    assert_eq!(server.times(), [0, 5, 10, 20, 30]);
    assert!(!format!("{login:?}").contains("s3cret"));
}

#[tokio::test(start_paused = true)]
async fn a_device_asks_less_often_when_the_server_cannot_be_reached_or_is_busy() {
    let server = Scripted::default();
    let client = device(&server, 300, vec![None, Some((503, json!({}))), Some((429, json!({}))), granted()]);
    let login = client.start_device().await.unwrap();
    client.poll_device(&login).await.unwrap();
    assert_eq!(server.times(), [0, 5, 15, 35, 75]);
}

#[tokio::test(start_paused = true)]
async fn a_code_that_nobody_enters_ends_in_an_error_when_it_runs_out() {
    let server = Scripted::default();
    let client = device(&server, 12, vec![error("authorization_pending")]);
    let started = tokio::time::Instant::now();
    let login = client.start_device().await.unwrap();
    let error = client.poll_device(&login).await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed().as_secs()), (OAuthErrorKind::Expired, 12));
    assert_eq!(server.times(), [0, 5, 10]);

    // Or when the server says so.
    let server = Scripted::default();
    let client = device(&server, 300, vec![users::error("expired_token")]);
    let login = client.start_device().await.unwrap();
    assert_eq!(client.poll_device(&login).await.unwrap_err().kind(), OAuthErrorKind::Expired);
    assert_eq!(server.times(), [0, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_code_is_asked_for_a_last_time_just_before_its_end_and_that_answer_is_waited_for() {
    // The second question would come at 10, half a second after the end by the server's count.
    let server = Scripted::default();
    let client = server.client(scripted_config(), |posted: Value| async move {
        if posted.get("grant_type").is_none() {
            return code_for(9, 5);
        }
        // Longer than the code lives.
        tokio::time::sleep(Duration::from_secs(3)).await;
        if posted["device_code"] == "device-s3cret" { granted() } else { None }
    });
    let login = client.start_device().await.unwrap();
    client.poll_device(&login).await.unwrap();

    let server = Scripted::default();
    let client = device(&server, 9, vec![error("authorization_pending"), granted()]);
    let login = client.start_device().await.unwrap();
    client.poll_device(&login).await.unwrap();
    assert_eq!(server.times(), [0, 5, 8]);
    let server = Scripted::default();
    let client = device(&server, 9, vec![error("authorization_pending")]);
    let login = client.start_device().await.unwrap();
    assert_eq!(client.poll_device(&login).await.unwrap_err().kind(), OAuthErrorKind::Expired);
    assert_eq!(server.times(), [0, 5, 8], "and no more");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_told_an_interval_of_nothing_still_pauses() {
    let server = Scripted::default();
    let client = server.client(scripted_config(), |posted: Value| async move {
        if posted.get("grant_type").is_none() { code_for(4, 0) } else { error("authorization_pending") }
    });
    let login = client.start_device().await.unwrap();
    assert_eq!(client.poll_device(&login).await.unwrap_err().kind(), OAuthErrorKind::Expired);
    assert_eq!(server.times(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_with_a_status_of_success_is_a_refusal() {
    let with_success = |code: &str| Some((200, json!({ "error_code": code, "error_message": "no" })));
    let server = Scripted::default();
    let script = vec![with_success("authorization_pending"), with_success("slow_down"), granted()];
    let client = device(&server, 300, script);
    let login = client.start_device().await.unwrap();
    client.poll_device(&login).await.unwrap();
    assert_eq!(server.times(), [0, 5, 10, 20]);

    let server = Scripted::default();
    let client = server.client(scripted_config(), move |_| async move { with_success("invalid_grant") });
    let error = client.refresh(&RefreshToken::new("r1".to_owned())).await.unwrap_err();
    assert_eq!(error.kind(), OAuthErrorKind::InvalidGrant, "{error}");
    let error = client.start_device().await.unwrap_err();
    assert_eq!(error.kind(), OAuthErrorKind::InvalidGrant, "{error}");
    let (login, state) = begun(&client);
    let error = client.finish(login, &state, "code").await.unwrap_err();
    assert_eq!(error.kind(), OAuthErrorKind::InvalidGrant, "{error}");

    // Where 0, or nothing, means that all is well.
    for fine in [json!(0), json!(""), Value::Null, json!("0")] {
        let answer = json!({ "access_token": "a", "error_code": fine, "error": fine });
        let client = Scripted::default().client(scripted_config(), move |_| {
            let answer = answer.clone();
            async move { Some((200, answer)) }
        });
        client.refresh(&RefreshToken::new("r1".to_owned())).await.unwrap();
    }
}

/// A login that was begun, and its state.
fn begun(client: &OAuthClient) -> (Login, String) {
    let (url, login) = client.authorize().unwrap();
    let state = query_of(&url)["state"].clone();
    (login, state)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_holds_nobody_up_for_longer_than_the_time_limit() {
    for (config, limit) in
        [(scripted_config(), 30), (scripted_config().with_time_limit(Duration::from_secs(7)), 7)]
    {
        let client = Scripted::default().client(config, |_| std::future::pending());
        let started = tokio::time::Instant::now();
        let (login, state) = begun(&client);
        let errors = [
            client.finish(login, &state, "code").await.unwrap_err(),
            client.refresh(&RefreshToken::new("r1".to_owned())).await.unwrap_err(),
            client.start_device().await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), OAuthErrorKind::Unavailable);
            assert!(error.to_string().contains("time limit"), "{error}");
        }
        assert_eq!(started.elapsed().as_secs(), 3 * limit);
    }
}

#[tokio::test]
async fn a_login_whose_answer_cannot_be_used_says_why() {
    for (answer, why) in [
        (json!({ "access_token": "a", "expires_in": 99_999_999_999_u64 }), "expires_in"),
        (json!({ "refresh_token": "r" }), "access_token"),
        (json!("text"), "JSON object"),
    ] {
        let client = Scripted::default().client(scripted_config(), move |_| {
            let answer = answer.clone();
            async move { Some((200, answer)) }
        });
        let (login, state) = begun(&client);
        let error = client.finish(login, &state, "code").await.unwrap_err();
        assert!(error.kind() == OAuthErrorKind::UnusableAnswer && error.to_string().contains(why), "{error}");
    }
    // A token that does not say when it ends is a token.
    let client = Scripted::default()
        .client(scripted_config(), |_| async { Some((200, json!({ "access_token": "a" }))) });
    let (login, state) = begun(&client);
    assert_eq!(client.finish(login, &state, "code").await.unwrap().expires_at(), None);
}

#[tokio::test]
async fn a_device_login_that_the_config_has_no_url_for_is_a_mistake_in_the_config() {
    let client = OAuthClient::new(http_client(), OAuthConfig::new("client-1", "https://id.example/token"));
    let error = client.unwrap().start_device().await.unwrap_err();
    assert!(
        error.kind() == OAuthErrorKind::InvalidConfig && error.to_string().contains("device_url"),
        "{error}"
    );
}

#[test]
fn logins_are_proved_with_pkce_unless_the_config_or_coze_says_otherwise() {
    let proves = |config: OAuthConfig| {
        let config = config.with_authorize_url("https://id.example/authorize").with_redirect_uri(CALLBACK);
        let (url, _) = OAuthClient::new(http_client(), config).unwrap().authorize().unwrap();
        query_of(&url).contains_key("code_challenge")
    };
    let general = || OAuthConfig::new("client-1", "https://id.example/token");
    let coze = || coze::user_app(&Region::Cn, "client-1");
    assert!(proves(general()) && proves(general().with_client_secret("s")));
    assert!(!proves(general().with_pkce(false)));
    assert!(proves(coze()) && !proves(coze().with_client_secret("s")));
    assert!(proves(coze().with_client_secret("s").with_pkce(true)));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_dropped_asks_no_more_and_may_go_on_later() {
    let server = Scripted::default();
    let script = vec![error("authorization_pending"), error("authorization_pending"), granted()];
    let client = device(&server, 300, script);
    let login = client.start_device().await.unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(11), client.poll_device(&login)).await;
    assert!(cut.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(server.times(), [0, 5, 10], "nobody asks on");
    client.poll_device(&login).await.unwrap();
}

#[tokio::test]
async fn a_refresh_token_is_spent_by_its_use_and_replaced() {
    let coze = Simulator::start().await.unwrap();
    let alice = coze.create_account();
    let client = web_app(&coze, &TestClock::default());
    let first = log_in(&client, &alice).await;
    let token = users::refresh_token_of(&first).unwrap();
    let spend = async |token: &str| client.refresh(&RefreshToken::new(token.to_owned())).await;
    let second = spend(&token).await.unwrap();
    assert_ne!(users::refresh_token_of(&second).unwrap(), token);
    assert_eq!(asks_for(&coze, &second, &a_bot_of(&coze, &alice)).await, 0);
    assert_eq!(coze.refresh_tokens_seen_again(), 0);
    let error = spend(&token).await.unwrap_err();
    assert_eq!(error.kind(), OAuthErrorKind::InvalidGrant);
    assert!(!format!("{error} {error:?}").contains(&token));
    assert_eq!((coze.refresh_tokens_seen_again(), coze.refreshes(&alice)), (1, 1));
}

#[tokio::test]
async fn a_server_that_does_not_rotate_refresh_tokens_leaves_us_the_old_one() {
    let server = Scripted::default();
    let client = server.client(scripted_config(), |_| async {
        Some((200, json!({ "access_token": "a2", "expires_in": 900 })))
    });
    let grant = client.refresh(&RefreshToken::new("r1".to_owned())).await.unwrap();
    assert_eq!(users::refresh_token_of(&grant).as_deref(), Some("r1"));
    let posted = json!({ "grant_type": "refresh_token", "client_id": "client-1", "refresh_token": "r1" });
    assert_eq!(server.posted(), [posted]);
}

#[test]
fn a_config_that_cannot_work_is_refused_with_the_name_of_its_field() {
    let client = |config: OAuthConfig| OAuthClient::new(http_client(), config);
    let good = || OAuthConfig::new("client-1", "https://id.example/token");
    assert!(client(good()).is_ok());
    let cases = [
        (OAuthConfig::new("", "https://id.example/token"), "client_id"),
        (OAuthConfig::new("client-1", "id.example/token"), "token_url"),
        (OAuthConfig::new("client-1", "http://id.example/token"), "token_url"),
        (good().with_authorize_url("http://id.example/authorize"), "authorize_url"),
        (good().with_device_url("ftp://id.example/"), "device_url"),
        (good().with_redirect_uri("not a URL"), "redirect_uri"),
        (good().with_redirect_uri("http://app.example/callback"), "redirect_uri"),
        (good().with_redirect_uri("myapp:/callback"), "redirect_uri"),
        (good().with_redirect_uri("com.example.app:callback"), "redirect_uri"),
        (good().with_redirect_uri("com.example.app:/callback#x"), "redirect_uri"),
        (good().with_redirect_uri("com.example.app:/call back"), "redirect_uri"),
        (good().with_redirect_uri("1.example:/callback"), "redirect_uri"),
        (good().with_time_limit(Duration::ZERO), "time_limit"),
        (good().with_time_limit(Duration::from_secs(7200)), "time_limit"),
        (good().with_client_secret("two words"), "client_secret"),
    ];
    for (config, field) in cases {
        let error = client(config).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some(field)), "{error}");
        assert!(
            error.to_string().contains("expected") && !error.to_string().contains("two words"),
            "{error}"
        );
    }
    for uri in [
        "com.example.app:/callback",
        "com.example.app://host/callback?x=1",
        "http://127.0.0.1:1234/callback",
        "http://localhost/",
        CALLBACK,
    ] {
        assert!(client(good().with_redirect_uri(uri)).is_ok(), "{uri}");
    }
    let plain = good().with_redirect_uri("http://app.example/callback").with_plaintext_allowed(true);
    assert!(client(plain).is_ok());
    // What a login in a browser needs is asked for when one is begun.
    for (config, field) in [
        (good().with_redirect_uri(CALLBACK), "authorize_url"),
        (good().with_authorize_url("https://id.example/authorize"), "redirect_uri"),
    ] {
        assert_eq!(client(config).unwrap().authorize().unwrap_err().field(), Some(field));
    }
}

#[test]
fn nothing_of_a_config_a_login_or_a_grant_shows_a_secret() {
    let config = OAuthConfig::new("client-1", "https://id.example/token")
        .with_authorize_url("https://id.example/authorize?tenant=1")
        .with_redirect_uri(CALLBACK)
        .with_pkce(true)
        .with_client_secret("s3cret");
    let client = OAuthClient::new(http_client(), config.clone()).unwrap();
    let (url, login) = client.authorize().unwrap();
    assert!(url.starts_with("https://id.example/authorize?tenant=1&response_type=code&"), "{url}");
    let grant = Grant::new("a-s3cret", None, Some("r-s3cret".to_owned())).unwrap();
    let shown = format!("{config:?} {client:?} {login:?} {grant:?}");
    let state = &query_of(&url)["state"];
    assert!(!shown.contains("s3cret") && !shown.contains(state.as_str()), "{shown}");
    for bad in ["", "two words", "line\nbreak"] {
        let error = Grant::new(bad, None, None).unwrap_err();
        assert_eq!(error.field(), Some("access_token"));
        let error = Grant::new("a", None, Some(bad.to_owned())).unwrap_err();
        assert_eq!(error.field(), Some("refresh_token"));
    }
}
