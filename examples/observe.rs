//! What a migration looks like from outside: traces in the terminal, metrics for Prometheus, and the report.
//!
//! ```text
//! cargo run --example observe --features metrics,simulator,tracing
//! curl http://127.0.0.1:9898/metrics        # while it runs
//! ```
//!
//! `observe/dashboard.json` is a dashboard for Grafana over these metrics.

use std::net::SocketAddr;
use std::time::Duration;

use axum::{Router, routing::get};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::{self, OAuthApp, Region, simulator::Simulator};
use tower_credential_fallback::observe::{Metrics, Traces};
use tower_credential_fallback::{BoxError, Report};

const BOTS: usize = 10;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    let address = serve_metrics(install_recorder()?, "127.0.0.1:9898").await?;
    println!("metrics: http://{address}/metrics");
    println!("{}", migrate(Duration::from_millis(100)).await?);
    Ok(())
}

/// The recorder has to be there before [`Metrics`] is made.
pub(crate) fn install_recorder() -> Result<PrometheusHandle, BoxError> {
    let seconds = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
    let added = Matcher::Full("credential_fallback_added_seconds".to_owned());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(added, &seconds)?.install_recorder()?)
}

pub(crate) async fn serve_metrics(handle: PrometheusHandle, address: &str) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/metrics", get(async move || handle.render()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Calls ten bots in turn, twice each, while one after the other moves; then reports.
pub(crate) async fn migrate(pause: Duration) -> Result<Report, BoxError> {
    let simulator = Simulator::start().await?;
    let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
    let app = simulator.create_oauth_app(&person)?;
    simulator.authorise_app(&app, &enterprise);
    let region = Region::custom(simulator.base_url())?;
    let app = OAuthApp::new(region.clone(), &app.client_id, &app.key_id, &app.private_key_pem)?;

    let http = Client::builder(TokioExecutor::new()).build_http();
    let layer = coze::oauth_app(&app, http, person.as_str(), enterprise.as_str())?
        .with_observer(Traces::new())
        .with_observer(Metrics::new());
    let handle = layer.handle();
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http());

    let workspaces: Vec<_> = (0..BOTS).map(|_| simulator.create_workspace(&person)).collect();
    let bots: Vec<_> = workspaces.iter().map(|workspace| simulator.create_bot(workspace)).collect();
    for workspace in &workspaces {
        for bot in bots.iter().chain(&bots) {
            let url = format!("{}/v1/bots/{bot}", region.base_url());
            let response = client.clone().oneshot(Request::get(url).body(Full::<Bytes>::default())?).await?;
            response.into_body().collect().await?;
        }
        simulator.move_workspace(workspace, &enterprise);
        tokio::time::sleep(pause).await;
    }
    Ok(handle.report())
}
