//! No secret in any log, error or `Debug`: everything is captured at trace level, and searched.
#![cfg(all(feature = "simulator", feature = "tracing"))]

#[cfg(feature = "redis")]
#[path = "support/redis.rs"]
mod servers;
mod support;
#[cfg(feature = "redis")]
#[path = "support/oauth.rs"]
mod users;

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use support::{HyperClient, PROTOCOLS, hyper_client};
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::coze::simulator::{Fault, Settings, Simulator};
use tower_credential_fallback::coze::{self, OAuthApp, Region};
use tower_credential_fallback::observe::Traces;
use tower_credential_fallback::{AuthProvider, BoxError, Outcome, ReplayBody};
use tower_http::trace::{DefaultMakeSpan, DefaultOnRequest, TraceLayer};

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Everything, at trace level, while the guard lives.
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn chain(error: &BoxError) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn no_secret_is_in_any_log_error_or_debug_output_at_trace_level() {
    let log = Log::default();
    let _guard = log.capture();
    let mut shown = String::new();
    let mut secrets = Vec::new();

    for protocol in PROTOCOLS {
        let coze = Simulator::start_with(Settings::default()).await.unwrap();
        let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
        let workspace = coze.create_workspace(&person);
        let bot = coze.create_bot(&workspace);
        let app = coze.create_oauth_app(&person).unwrap();
        let region = Region::custom(coze.base_url()).unwrap();
        let ours = OAuthApp::new(region.clone(), &app.client_id, &app.key_id, &app.private_key_pem).unwrap();
        let exchange: HyperClient<Full<Bytes>> = hyper_client(protocol);
        let key_line = app.private_key_pem.lines().nth(3).unwrap().to_owned();
        let (old, new) = (coze.create_token(&person), coze.create_token(&enterprise));
        secrets.extend([key_line, old.clone(), new.clone(), "callers-own-s3cret".to_owned()]);
        coze.move_workspace(&workspace, &enterprise);

        let minting = coze::oauth_app(&ours, exchange.clone(), person.as_str(), enterprise.as_str()).unwrap();
        let fixed = coze::tokens(&region, &old, &new).unwrap();
        let (minting, fixed) = (minting.with_observer(Traces::new()), fixed.with_observer(Traces::new()));
        let handle = fixed.handle();
        shown += &format!("{ours:?} {app:?} {minting:#?} {fixed:#?} {coze:?}");
        let personal =
            tower_credential_fallback::JwtBearer::new(exchange, ours.account_grant(person.as_str()).unwrap());
        let personal = personal.unwrap();

        let steps = [
            None,
            Some(Fault::raw(
                200,
                "application/json",
                r#"{"access_token":"czs_s3cret_in_answer","expires_in":"x"}"#,
            )),
            Some(Fault::raw(
                401,
                "application/json",
                r#"{"error_code":"invalid_client","error_message":"bad jwt eyJhbGciOiJSUzI1NiJ9.s3cret_in_message_is_long"}"#,
            )),
        ];
        secrets.extend(["czs_s3cret_in_answer".to_owned(), "s3cret_in_message_is_long".to_owned()]);
        for fault in steps {
            coze.clear_faults();
            // Errors of both providers, and then of none.
            if let Some(fault) = fault {
                coze.inject(fault.on("/api/permission"));
            }
            let request = || {
                let request = Request::get(format!("{}/v1/bots/{bot}", coze.base_url()));
                request
                    .header("authorization", "Bearer callers-own-s3cret")
                    .body(Full::<Bytes>::default())
                    .unwrap()
            };
            // Inside, where the credential is in the headers, and with all of them shown.
            let spans = DefaultMakeSpan::new().level(tracing::Level::TRACE).include_headers(true);
            let trace = TraceLayer::new_for_http()
                .make_span_with(spans)
                .on_request(DefaultOnRequest::new().level(tracing::Level::INFO));
            let client = hyper_client::<ReplayBody<Full<Bytes>>>(protocol);
            let app_layer = coze::oauth_app(
                &ours,
                hyper_client::<Full<Bytes>>(protocol),
                person.as_str(),
                enterprise.as_str(),
            );
            let app_layer = app_layer.unwrap().with_observer(Traces::new());
            let minted = ServiceBuilder::new().layer(app_layer).layer(trace).service(client.clone());
            shown += &match minted.clone().oneshot(request()).await {
                Ok(response) => format!("{:?} {:?} {0}", Outcome::of(&response), response.headers()),
                Err(error) => chain(&error),
            };
            let response =
                ServiceBuilder::new().layer(fixed.clone()).service(client).oneshot(request()).await.unwrap();
            shown += &format!("{response:?} {:?}", Outcome::of(&response));
            response.into_body().collect().await.unwrap();

            let head = Request::new(()).into_parts().0;
            shown += &match personal.credential(&head).await {
                Ok(credential) => {
                    let mut headers = http::HeaderMap::new();
                    credential.apply(&mut headers);
                    secrets.push(
                        headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned(),
                    );
                    format!("{credential:?} {headers:?} {personal:?}")
                }
                Err(error) => chain(&error.into()),
            };
        }
        shown += &format!("{handle:?} {:?} {}", handle.report(), handle.report());
    }

    let logged = log.text();
    assert!(logged.len() > 1_000, "nothing was captured");
    assert!(
        shown.contains("invalid_client")
            && shown.contains("czs_") == secrets.iter().any(|secret| shown.contains(secret))
    );
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} in Debug or an error: {shown}");
        assert!(!logged.contains(&secret), "{secret} in the log");
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn no_secret_of_a_user_is_in_any_log_error_or_debug_output_at_trace_level() {
    use std::time::Duration;

    use tower_credential_fallback::oauth::{Login, OAuthClient, UserId};
    use tower_credential_fallback::store::{RedisStore, TokenStore};
    use users::{TestClock, consent, refresh_token_of, secret_of};

    let log = Log::default();
    let _guard = log.capture();
    let (mut shown, mut secrets) = (String::new(), vec!["redis-p4ssword".to_owned()]);
    let mut show = |text: String| shown += &text;

    let coze = Simulator::start_with(Settings::default().with_device_interval(1)).await.unwrap();
    let account = coze.create_account();
    let (app, clock) = (coze.create_web_app(), TestClock::default());
    coze.register_redirect_uri(&app, users::CALLBACK);
    secrets.push(app.client_secret.clone().unwrap());
    let config = coze::user_app(&Region::custom(coze.base_url()).unwrap(), &app.client_id)
        .with_client_secret(app.client_secret.clone().unwrap())
        .with_redirect_uri(users::CALLBACK)
        .with_pkce(true)
        .with_clock(clock.clone());
    show(format!("{app:?} {config:?}"));
    let client = OAuthClient::new(users::http_client(), config).unwrap();

    // A login, and one that is refused.
    let (url, login) = client.authorize().unwrap();
    let back = consent(&url, &account, true).await;
    let code = back.code.unwrap();
    secrets.extend([back.state.clone(), code.clone()]);
    let kept = serde_json::to_value(&login).unwrap();
    secrets.push(kept["verifier"].as_str().unwrap().to_owned());
    show(format!("{login:?} {client:#?}"));
    let grant = client.finish(login, &back.state, &code).await.unwrap();
    show(format!("{grant:#?}"));
    secrets.push(refresh_token_of(&grant).unwrap());
    secrets.push(secret_of(&grant.credential().unwrap()));
    for state in [back.state.as_str(), "another"] {
        let login: Login = serde_json::from_value(kept.clone()).unwrap();
        show(chain(&client.finish(login, state, &code).await.unwrap_err().into()));
    }

    // A device.
    let device = client.start_device().await.unwrap();
    coze.enter_device_code(device.user_code(), &account, false);
    show(format!("{device:?} {}", chain(&client.poll_device(&device).await.unwrap_err().into())));

    // Refreshes: one that works, one that is refused, one after which the store is gone.
    let mut server = servers::RedisServer::start_with(&["--requirepass", "redis-p4ssword"]);
    let url = format!("redis://:redis-p4ssword@127.0.0.1:{}/", server.port);
    let store = RedisStore::new(&url).unwrap().with_encryption_key(b"an encryption key of 32 letters!");
    secrets.push("encryption key".to_owned());
    let store = Arc::new(store);
    let tokens = users::users(&client, &store);
    let observer: Arc<dyn tower_credential_fallback::observe::Observe> = Arc::new(Traces::new());
    tokens.observed_by(tower_credential_fallback::Slot::Fallback, &observer);
    let alice = UserId::new("alice");
    tokens.sign_in(&alice, &grant).await.unwrap();
    clock.advance(Duration::from_secs(16 * 60));
    let credential = tokens.get(&alice).await.unwrap();
    secrets.push(secret_of(&credential));
    let key = tokens.store_key(&alice);
    let stored = store.load(&key).await.unwrap().unwrap();
    secrets.push(refresh_token_of(&stored.grant).unwrap());
    show(format!("{credential:?} {stored:?} {tokens:?} {store:?}"));
    coze.revoke_refresh_tokens(&account);
    clock.advance(Duration::from_secs(16 * 60));
    show(chain(&tokens.get(&alice).await.unwrap_err().into()));
    let wrong = RedisStore::new(&url.replace("p4ssword", "p4sswordX")).unwrap();
    secrets.push("p4ssword".to_owned());
    show(chain(&wrong.load(&key).await.unwrap_err().into()));
    // Answers that cannot be used, and what cannot be opened.
    for answer in [
        r#"{"refresh_token":"r3fresh_s3cret","access_token":["acc3ss_s3cret"],"expires_in":"x"}"#,
        r#"["acc3ss_s3cret"]"#,
        r#"{"error_code":"invalid_request","error_message":"bad token r3fresh_s3cret_that_is_long_enough"}"#,
    ] {
        tokens.sign_in(&alice, &grant).await.unwrap();
        clock.advance(Duration::from_secs(16 * 60));
        coze.clear_faults();
        coze.inject(tower_credential_fallback::coze::simulator::Fault::raw(200, "application/json", answer));
        show(chain(&tokens.get(&alice).await.unwrap_err().into()));
    }
    secrets.extend(["acc3ss_s3cret".to_owned(), "r3fresh_s3cret".to_owned()]);
    coze.clear_faults();
    tokens.sign_in(&alice, &grant).await.unwrap();
    let other_key = RedisStore::new(&url).unwrap().with_encryption_key(b"another encryption key of 32 let");
    let unreadable = users::users(&client, &Arc::new(other_key));
    unreadable.observed_by(tower_credential_fallback::Slot::Fallback, &observer);
    show(chain(&unreadable.get(&alice).await.unwrap_err().into()));
    show(format!("{unreadable:?}"));
    server.kill();
    show(chain(&tokens.get(&alice).await.unwrap_err().into()));
    show(chain(&store.save(&key, &grant, stored.version).await.unwrap_err().into()));

    assert!(
        shown.contains("the user has to authorise again") && shown.contains("cannot be reached"),
        "{shown}"
    );
    let logged = log.text();
    assert!(logged.contains("fallback") || logged.contains("Fallback"), "nothing was captured: {logged}");
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} in Debug or an error: {shown}");
        assert!(!logged.contains(&secret), "{secret} in the log: {logged}");
    }
}
