//! No secret in any log, error or `Debug`: everything is captured at trace level, and searched.
#![cfg(all(feature = "simulator", feature = "tracing"))]

mod support;

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
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
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

    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
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
