//! What observers are told: spans and events, a scrape by Prometheus, and that none of it is a secret.
#![cfg(all(feature = "metrics", feature = "simulator", feature = "tracing"))]

mod support;

#[allow(dead_code, unreachable_pub, reason = "the example's own `main` is not called")]
#[path = "../examples/observe.rs"]
mod example;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use serde_json::Value;
use support::{Protocol, Server, hyper_client, json, token_of};
use tower::{BoxError, Layer, ServiceExt};
use tower_credential_fallback::observe::{Metrics, Traces};
use tower_credential_fallback::store::StoreError;
use tower_credential_fallback::{
    Credential, CredentialError, CredentialFallbackLayer, Order, Outcome, ReplayBody, StatusClassifier,
    TokenCache, provider_fn,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Everything that a subscriber can see: spans with their fields, events with theirs and their span.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<SeenAll>>);

#[derive(Default)]
struct SeenAll {
    spans: BTreeMap<u64, (String, Fields)>,
    events: Vec<(String, Fields, Option<String>)>,
}

type Fields = BTreeMap<String, String>;

struct Collect<'f>(&'f mut Fields);

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> tracing_subscriber::Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Collect(&mut fields));
        let name = attributes.metadata().name().to_owned();
        self.0.lock().unwrap().spans.insert(id.into_u64(), (name, fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some((_, fields)) = self.0.lock().unwrap().spans.get_mut(&id.into_u64()) {
            values.record(&mut Collect(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Collect(&mut fields));
        let span = context.event_span(event).map(|span| span.name().to_owned());
        self.0.lock().unwrap().events.push((event.metadata().level().to_string(), fields, span));
    }
}

impl Seen {
    fn calls(&self) -> Vec<Fields> {
        let seen = self.0.lock().unwrap();
        seen.spans
            .values()
            .filter(|(name, _)| name == "credential_fallback")
            .map(|(_, fields)| fields.clone())
            .collect()
    }

    fn events(&self, message: &str) -> Vec<(String, Fields, Option<String>)> {
        let seen = self.0.lock().unwrap();
        seen.events.iter().filter(|(_, fields, _)| fields["message"] == message).cloned().collect()
    }
}

fn token(text: &str) -> Credential {
    Credential::bearer(text).unwrap()
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_call_is_a_span_with_opentelemetrys_names_and_the_inner_service_runs_within_it() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::start(|request| async move {
        json(if token_of(&request) == "s3cret-old" { 403 } else { 200 }, "{}")
    })
    .await;
    let inner = tower::service_fn({
        let client = hyper_client::<ReplayBody<Full<Bytes>>>(Protocol::Http1);
        move |request| {
            tracing::trace!("called");
            let call = client.clone().oneshot(request);
            async move {
                tracing::trace!("polled");
                call.await
            }
        }
    });
    let layer = CredentialFallbackLayer::new(token("s3cret-old"), token("s3cret-new"))
        .unwrap()
        .with_order(Order::PrimaryFirst)
        .with_observer(Traces::new());
    let request =
        Request::post(server.url("/s3cret-path?s3cret=query")).body(Full::from("s3cret-body")).unwrap();
    layer.layer(inner).oneshot(request).await.unwrap();

    let port = server.address.port().to_string();
    let expected = fields(&[
        ("http.request.method", "POST"),
        ("url.scheme", "http"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("http.request.resend_count", "1"),
        ("http.response.status_code", "200"),
        ("credential.slot", "fallback"),
        ("credential.ending", "accepted"),
    ]);
    assert_eq!(seen.calls(), [expected]);
    let within = Some("credential_fallback".to_owned());
    for message in ["called", "polled"] {
        let spans: Vec<_> = seen.events(message).into_iter().map(|(_, _, span)| span).collect();
        assert_eq!(spans, [within.clone(), within.clone()], "{message}");
    }
    let refused = seen.events("credential refused");
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].0.as_str(), &refused[0].2), ("INFO", &within));
    assert_eq!(refused[0].1["reason"], "forbidden");
    let all = seen.0.lock().unwrap();
    let shown = format!("{:?} {:?}", all.spans, all.events);
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn what_somebody_should_look_at_is_a_warning() {
    let seen = Seen::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(seen.clone()));
    let none =
        provider_fn(|_: &http::request::Parts| std::future::ready(Err(CredentialError::new("sealed"))));
    let inner = tower::service_fn(|_: Request<ReplayBody<Empty<Bytes>>>| async {
        Ok::<_, BoxError>(Response::builder().status(401).body(Empty::<Bytes>::new()).unwrap())
    });
    let mint_fails = TokenCache::new(|| async { Err(CredentialError::new("identity server down")) });
    let layer = CredentialFallbackLayer::new(mint_fails, token("new"))
        .unwrap()
        .with_classifier(StatusClassifier::new())
        .with_observer(Traces::new());
    let call = |uri: &str| Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
    layer.layer(inner).oneshot(call("https://a.example/")).await.unwrap();
    let layer = CredentialFallbackLayer::new(token("old"), none).unwrap().with_observer(Traces::new());
    let inner = tower::service_fn(|_: Request<ReplayBody<Empty<Bytes>>>| async {
        Err::<Response<Empty<Bytes>>, _>(BoxError::from("reset"))
    });
    assert!(layer.layer(inner).oneshot(call("https://b.example/")).await.is_err());

    for (message, key, value) in [
        ("no token could be minted", "error", "identity server down"),
        ("no credential", "credential.slot", "primary"),
        ("a refused request is not sent again", "cause", "provider_unavailable"),
    ] {
        let events = seen.events(message);
        assert_eq!(events.len(), 1, "{message}");
        assert_eq!((events[0].0.as_str(), events[0].1[key].as_str()), ("WARN", value), "{message}");
    }
    let calls = seen.calls();
    assert_eq!(
        (calls[0]["error.type"].as_str(), calls[0]["credential.slot"].as_str()),
        ("refused", "fallback")
    );
    assert_eq!(
        (calls[1]["error.type"].as_str(), calls[1]["server.address"].as_str()),
        ("failed", "b.example")
    );
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An error of somebody else's, which shows its text as it is.
struct Raw(&'static str);

impl std::fmt::Display for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Raw {}

const FORGED: &str =
    "no\r\n2026-01-01T00:00:00Z  INFO forged\u{85}forged\u{2028}forged\u{2029}\u{1b}[2K\u{202e}degrof";

fn is_clean(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}'))
}

#[tokio::test]
async fn a_line_end_in_a_providers_error_text_forges_no_log_line() {
    let (seen, log) = (Seen::default(), Log::default());
    let writer = log.clone();
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let _guard =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(seen.clone()).with(lines));

    let cause = CredentialError::new(FORGED).with_source(Raw(FORGED));
    let stored = StoreError::unavailable(Raw(FORGED));
    let mut shown = vec![format!("{cause} {cause:?}"), format!("{stored} {stored:?}")];
    // Of an observer: a call without a credential, and a token that is not minted.
    let failing = || {
        let cause = cause.clone();
        provider_fn(move |_: &http::request::Parts| std::future::ready(Err(cause.clone())))
    };
    let accepting = tower::service_fn(|_: Request<ReplayBody<Empty<Bytes>>>| async {
        Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
    });
    let refusing = tower::service_fn(|_: Request<ReplayBody<Empty<Bytes>>>| async {
        Ok::<_, BoxError>(Response::builder().status(401).body(Empty::<Bytes>::new()).unwrap())
    });
    let call = || Request::get("https://a.example/").body(Empty::<Bytes>::new()).unwrap();
    let layer = CredentialFallbackLayer::new(failing(), token("new")).unwrap().with_observer(Traces::new());
    let response = layer.layer(accepting).oneshot(call()).await.unwrap();
    shown.push(format!("{} {:?}", Outcome::of(&response), Outcome::of(&response)));
    let layer = CredentialFallbackLayer::new(token("old"), failing()).unwrap().with_observer(Traces::new());
    let response = layer.layer(refusing).oneshot(call()).await.unwrap();
    let outcome = Outcome::of(&response);
    shown.push(format!("{outcome} {outcome:?} {:?}", outcome.no_replay()));
    shown.push(layer.handle().report().to_string().replace('\n', " "));
    let layer = CredentialFallbackLayer::new(failing(), failing()).unwrap().with_observer(Traces::new());
    let error = layer.layer(accepting).oneshot(call()).await.unwrap_err();
    shown.push(format!("{error} {error:?}"));
    let cache = TokenCache::new(move || std::future::ready(Err(cause.clone())));
    let layer =
        CredentialFallbackLayer::new(cache.clone(), token("new")).unwrap().with_observer(Traces::new());
    shown.push(format!("{:?}", cache.get().await));
    drop(layer);

    for text in &shown {
        assert!(is_clean(text), "{text:?}");
    }
    assert!(shown[0].starts_with("no\\r\\n2026-01-01T00:00:00Z  INFO forged\\u{85}"), "{}", shown[0]);
    let (errors, events) = {
        let seen = seen.0.lock().unwrap();
        let errors: Vec<_> =
            seen.events.iter().filter_map(|(_, fields, _)| fields.get("error").cloned()).collect();
        (errors, seen.events.len())
    };
    assert_eq!(errors.len(), 5);
    assert!(errors.iter().all(|error| is_clean(error)), "{errors:?}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.lines().all(is_clean), "{log}");
    assert_eq!(log.lines().count(), events, "{log}");
}

/// The numbers of a scrape, by series.
fn parse(scrape: &str) -> BTreeMap<String, f64> {
    let series =
        scrape.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    series.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The one test with the recorder, which is one for the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_of_the_example_tells_the_same_as_its_report_and_feeds_the_dashboard() {
    let address = example::serve_metrics(example::install_recorder().unwrap(), "127.0.0.1:0").await.unwrap();
    let report = example::migrate(Duration::ZERO).await.unwrap();

    let client = hyper_client::<Empty<Bytes>>(Protocol::Http1);
    let request = Request::get(format!("http://{address}/metrics")).body(Empty::new()).unwrap();
    let scrape = client.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let scrape = String::from_utf8(scrape.to_vec()).unwrap();
    let series = parse(&scrape);
    let count = |name: &str| series[&format!("credential_fallback_{name}")] as u64;

    assert_eq!(count(r#"calls_total{ending="accepted",slot="primary"}"#), report.primary.accepted);
    assert_eq!(count(r#"calls_total{ending="accepted",slot="fallback"}"#), report.fallback.accepted);
    assert_eq!(count(r#"replays_total{slot="fallback"}"#), report.replays);
    assert_eq!(
        (report.replays, report.moved, report.not_moved),
        (9, 9, 1),
        "the last to move is not called again"
    );
    let refused = r#"attempts_total{slot="primary",verdict="refused",reason="forbidden"}"#;
    assert_eq!(count(refused), report.primary.refused_in_all());
    for slot in ["primary", "fallback"] {
        assert_eq!(count(&format!(r#"tokens_total{{slot="{slot}",event="minted"}}"#)), 1);
    }
    assert_eq!(count(r#"added_seconds_count{replayed="true"}"#), 9);
    assert_eq!(count(r#"added_seconds_count{replayed="false"}"#), report.since_start().calls() - 9);
    for never in
        [r#"calls_total{ending="abandoned",slot="none"}"#, r#"not_replayed_total{cause="body_too_large"}"#]
    {
        assert_eq!(count(never), 0, "there from the start");
    }

    let dashboard: Value = serde_json::from_str(include_str!("../examples/observe/dashboard.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let names = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for name in names.filter(|name| name.starts_with("credential_fallback_")) {
                let is_known = series.keys().any(|known| known.split('{').next() == Some(name));
                assert!(is_known, "{}: nobody counts {name}", panel["title"]);
            }
        }
    }
}

#[tokio::test]
async fn an_overloaded_server_an_abandoned_attempt_and_a_needed_credential_have_names_of_their_own() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let metrics = metrics::with_local_recorder(&recorder, Metrics::new);
    let inner = tower::service_fn(|request: Request<ReplayBody<Empty<Bytes>>>| async move {
        let status = match request.uri().path() {
            "/overloaded" => 503,
            "/hangs" => std::future::pending().await,
            _ if request.headers()["authorization"] == "Bearer old" => 403,
            _ => 200,
        };
        Ok::<_, BoxError>(Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap())
    });
    let token = |text| Credential::bearer(text).unwrap();
    let layer = CredentialFallbackLayer::new(token("old"), token("new")).unwrap().with_observer(metrics);
    let client = layer.layer(inner);
    let call = |path: &str| {
        let request = Request::get(format!("https://api.example{path}")).body(Empty::new()).unwrap();
        client.clone().oneshot(request)
    };
    call("/overloaded").await.unwrap();
    assert!(futures::future::poll_immediate(call("/hangs")).await.is_none());
    call("/").await.unwrap();

    let series = parse(&handle.render());
    let count = |name: &str| series[&format!("credential_fallback_{name}")] as u64;
    let attempts = |slot: &str, verdict: &str| {
        count(&format!(r#"attempts_total{{slot="{slot}",verdict="{verdict}",reason="none"}}"#))
    };
    assert_eq!(attempts("primary", "inconclusive"), 1);
    assert_eq!(attempts("primary", "abandoned"), 1);
    assert_eq!(attempts("primary", "accepted"), 0);
    assert_eq!(attempts("fallback", "accepted"), 1);
    assert_eq!(count(r#"calls_total{ending="inconclusive",slot="primary"}"#), 1);
    assert_eq!(count(r#"calls_total{ending="abandoned",slot="none"}"#), 1);
    assert_eq!(count(r#"needed_total{slot="fallback"}"#), 1);
    assert_eq!(count(r#"needed_total{slot="primary"}"#), 0);
}
