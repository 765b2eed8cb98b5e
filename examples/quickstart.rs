//! Two personal access tokens, one client. The workspace moves; the calls go on.
//!
//! `cargo run --example quickstart --features simulator`

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::coze::{self, Region, simulator::Simulator};
use tower_credential_fallback::{BoxError, Outcome};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In place of the real Coze: `Region::Cn` or `Region::Com`, and your own tokens.
    let simulator = Simulator::start().await?;
    let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
    let workspace = simulator.create_workspace(&person);
    let bot = simulator.create_bot(&workspace);
    let region = Region::custom(simulator.base_url())?;

    let (old, new) = (simulator.create_token(&person), simulator.create_token(&enterprise));
    let client = ServiceBuilder::new()
        .layer(coze::tokens(&region, old, new)?)
        .service(Client::builder(TokioExecutor::new()).build_http());

    for when in ["before the move", "at the move", "after the move"] {
        let request =
            Request::get(format!("{}/v1/bots/{bot}", region.base_url())).body(Full::<Bytes>::default())?;
        let response = client.clone().oneshot(request).await?;
        println!("{when}: {}", Outcome::of(&response));
        println!("  {}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
        simulator.move_workspace(&workspace, &enterprise);
    }
    Ok(())
}
