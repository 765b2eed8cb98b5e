//! reqwest with retries and the fallback in one stack: each attempt is retried by itself, and the caller sees one
//! answer.
//!
//! `cargo run --example reqwest_middleware --features reqwest,simulator`

use std::time::Duration;

use reqwest::multipart::{Form, Part};
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use tower_credential_fallback::coze::simulator::{Fault, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::reqwest::FallbackMiddleware;
use tower_credential_fallback::{BoxError, CredentialChoice, Outcome, Slot};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In place of the real Coze: `Region::Cn` or `Region::Com`, and your own tokens.
    let simulator = Simulator::start().await?;
    let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
    let workspace = simulator.create_workspace(&person);
    let bot = simulator.create_bot(&workspace);
    let region = Region::custom(simulator.base_url())?;
    let (old, new) = (simulator.create_token(&person), simulator.create_token(&enterprise));

    let backoff = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(10), Duration::from_millis(100))
        .build_with_max_retries(3);
    let http = reqwest::Client::new();
    let fallback = FallbackMiddleware::new(coze::tokens(&region, old, new)?);
    let client = ClientBuilder::new(http.clone())
        .with(fallback.clone())
        .with(RetryTransientMiddleware::new_with_policy(backoff))
        .build();
    // reqwest-retry fails a call whose body is a stream, so uploads go without it.
    let uploads = ClientBuilder::new(http).with(fallback).build();

    for when in ["before the move", "at the move, on a bad day", "after the move"] {
        let response = client.get(format!("{}/v1/bots/{bot}", region.base_url())).send().await?;
        println!("{when}: {}", Outcome::of_extensions(response.extensions()));
        println!("  {}", response.text().await?);
        if when == "before the move" {
            simulator.move_workspace(&workspace, &enterprise);
            simulator.inject(Fault::status(503).times(2));
        }
    }

    // An upload names no bot. That it is for one that has moved is for the caller to know.
    let form = Form::new().part("file", Part::stream("the content").file_name("a.txt"));
    let response = uploads
        .post(format!("{}/v1/files/upload", region.base_url()))
        .multipart(form)
        .with_extension(CredentialChoice::Only(Slot::Fallback))
        .send()
        .await?;
    println!("upload: {}", Outcome::of_extensions(response.extensions()));
    println!("  {}", response.text().await?);
    Ok(())
}
