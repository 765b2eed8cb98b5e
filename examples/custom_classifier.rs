//! A rejection that no preset knows: a gateway in front of the API answers 200 with a sign-in page.
//!
//! `cargo run --example custom_classifier --features simulator`

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, response};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::classify::{BodyPrefix, Classify, Decision, Rejection, RejectionKind};
use tower_credential_fallback::coze::simulator::{Fault, Simulator};
use tower_credential_fallback::coze::{self, CozeClassifier, Region};
use tower_credential_fallback::{BoxError, Outcome};

/// Rejects the page. Everything else is the preset's.
#[derive(Default)]
struct WithSignInPage {
    coze: CozeClassifier,
}

impl Classify for WithSignInPage {
    fn head(&self, head: &response::Parts) -> Decision {
        if is_page(head) { Decision::Inspect } else { self.coze.head(head) }
    }

    fn body(&self, head: &response::Parts, prefix: BodyPrefix<'_>) -> Decision {
        const TITLE: &[u8] = b"<title>Sign in</title>";
        if !is_page(head) {
            return self.coze.body(head, prefix);
        }
        if prefix.bytes().windows(TITLE.len()).any(|window| window == TITLE) {
            return Decision::Reject(Rejection::new(RejectionKind::Unauthenticated, head.status));
        }
        if !prefix.is_last() {
            return Decision::Inspect;
        }
        // `Accept` means that this credential served the request. A page that was cut may still be the sign-in page.
        if head.status.is_success() && prefix.is_complete() {
            Decision::Accept
        } else {
            Decision::Inconclusive
        }
    }
}

fn is_page(head: &response::Parts) -> bool {
    head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let simulator = Simulator::start().await?;
    let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
    let bot = simulator.create_bot(&simulator.create_workspace(&enterprise));
    let region = Region::custom(simulator.base_url())?;
    let (old, new) = (simulator.create_token(&person), simulator.create_token(&enterprise));

    let client = ServiceBuilder::new()
        .layer(coze::tokens(&region, old, new)?.with_classifier(WithSignInPage::default()))
        .service(Client::builder(TokioExecutor::new()).build_http());

    // The gateway stops the first request and lets the second pass.
    let page = "<html><head><title>Sign in</title></head></html>";
    simulator.inject(Fault::raw(200, "text/html; charset=utf-8", page).times(1));
    let request =
        Request::get(format!("{}/v1/bots/{bot}", region.base_url())).body(Full::<Bytes>::default())?;
    let response = client.oneshot(request).await?;
    println!("{}", Outcome::of(&response));
    println!("  {}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    Ok(())
}
