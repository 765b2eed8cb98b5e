//! A login in a terminal, which has no browser: a code to enter in one elsewhere, and then calls on the user's behalf.
//!
//! `cargo run --example device_login --features simulator`

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::coze::simulator::{Settings, Simulator};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::oauth::{OAuthClient, UserId, UserTokens};
use tower_credential_fallback::store::MemoryStore;
use tower_credential_fallback::{BoxError, NoReplay, Outcome};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In place of the real Coze: `Region::Cn` or `Region::Com`, and the ID of your own app.
    let simulator = Simulator::start_with(Settings::default().with_device_interval(1)).await?;
    let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
    let workspace = simulator.create_workspace(&person);
    let bot = simulator.create_bot(&workspace);
    let region = Region::custom(simulator.base_url())?;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let app = |client_id| OAuthClient::new(http.clone(), coze::user_app(&region, client_id));
    let (old, new) =
        (app(simulator.create_public_app().client_id)?, app(simulator.create_public_app().client_id)?);

    // One store for both: what two accounts grant is kept apart by the apps' IDs.
    let store = Arc::new(MemoryStore::new());
    let tokens = |client: &OAuthClient| {
        UserTokens::new(client.clone(), store.clone(), |_: &UserId| "run me again".to_owned())
    };
    let (old_tokens, new_tokens) = (tokens(&old), tokens(&new));
    let client = ServiceBuilder::new()
        .layer(coze::layer(&region, old_tokens.clone(), new_tokens.clone())?)
        .service(Client::builder(TokioExecutor::new()).build_http());
    let user = UserId::new("me");

    for (client_of, tokens, account) in [(&old, &old_tokens, &person), (&new, &new_tokens, &enterprise)] {
        let login = client_of.start_device().await?;
        println!("Enter {} at {} as {account}", login.user_code(), login.verification_uri());
        // What the user does meanwhile, at the other end of the room. (The page is there: be faster.)
        let enters = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            simulator.enter_device_code(login.user_code(), account, true);
        };
        let (grant, _) = tokio::join!(client_of.poll_device(&login), enters);
        tokens.sign_in(&user, &grant?).await?;

        for when in ["now", "after the move"] {
            let request = Request::get(format!("{}/v1/bots/{bot}", region.base_url()))
                .extension(user.clone())
                .body(Full::<Bytes>::default())?;
            let response = client.clone().oneshot(request).await?;
            println!("  the bot, {when}: {}", Outcome::of(&response));
            let needs_login =
                matches!(Outcome::of(&response).no_replay(), Some(NoReplay::InteractionRequired { .. }));
            response.into_body().collect().await?;
            if needs_login {
                println!("  the workspace has moved, and the enterprise has to be asked:");
            }
            simulator.move_workspace(&workspace, &enterprise);
        }
    }
    Ok(())
}
