//! hyper's client with minted tokens: a chat whose answer streams in, and an upload that streams out, while the
//! workspace moves.
//!
//! `cargo run --example hyper_client --features simulator`

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::coze::simulator::{Fault, Simulator};
use tower_credential_fallback::coze::{self, OAuthApp, Region};
use tower_credential_fallback::{BoxError, Outcome};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In place of the real Coze: `Region::Cn` or `Region::Com`, and your own OAuth app.
    let simulator = Simulator::start().await?;
    let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
    let workspace = simulator.create_workspace(&person);
    let bot = simulator.create_bot(&workspace);
    let app = simulator.create_oauth_app(&person)?;
    simulator.authorise_app(&app, &enterprise);
    let region = Region::custom(simulator.base_url())?;

    // One client mints the tokens, the other carries the calls. Bodies are boxed, so that one client sends all
    // kinds of them.
    let mints = Client::builder(TokioExecutor::new()).build_http();
    let app = OAuthApp::new(region.clone(), &app.client_id, &app.key_id, &app.private_key_pem)?;
    let client = ServiceBuilder::new()
        .layer(coze::oauth_app(&app, mints, person.as_str(), enterprise.as_str())?)
        .service(Client::builder(TokioExecutor::new()).build_http());

    for when in ["before", "after"] {
        let question = format!(
            r#"{{"bot_id":"{bot}","user_id":"u","stream":true,"additional_messages":
               [{{"role":"user","content":"How do you do?","content_type":"text"}}]}}"#
        );
        let request = Request::post(format!("{}/v3/chat", region.base_url()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(question).map_err(|never| match never {}).boxed_unsync())?;
        let response = client.clone().oneshot(request).await?;
        println!("chat, {when} the move: {}", Outcome::of(&response));
        print_events(response).await?;
        simulator.move_workspace(&workspace, &enterprise);
    }

    // The person's token ends, and the server says so before it has read the upload. The enterprise's token
    // takes over what was sent, and sends the rest.
    simulator.revoke_minted_tokens(&person);
    simulator.inject(Fault::refuse_before_upload());
    let response = client.oneshot(upload(&region)?).await?;
    println!("upload: {}", Outcome::of(&response));
    println!("  {}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    Ok(())
}

/// Prints each piece of the answer as it arrives.
async fn print_events<B>(response: Response<B>) -> Result<(), BoxError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Into::into)?.into_data() {
            let text = String::from_utf8_lossy(&data);
            text.lines().filter(|line| line.starts_with("event:")).for_each(|line| println!("  {line}"));
        }
    }
    Ok(())
}

/// A recording of 8 MiB that is never in memory as a whole. It comes slowly, as recordings do.
fn upload(region: &Region) -> Result<Request<UnsyncBoxBody<Bytes, io::Error>>, BoxError> {
    const PIECES: usize = 128;
    const PIECE: usize = 64 * 1024;
    let start = "--cut\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n";
    let end = "\r\n--cut--\r\n";
    let pieces = std::iter::once(Bytes::from(start))
        .chain((0..PIECES).map(|nth| Bytes::from(vec![nth as u8; PIECE])))
        .chain([Bytes::from(end)]);
    let stream = futures::stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(Frame::data(piece))
    });
    Ok(Request::post(format!("{}/v1/files/upload", region.base_url()))
        .header(CONTENT_TYPE, "multipart/form-data; boundary=cut")
        .header(CONTENT_LENGTH, start.len() + PIECES * PIECE + end.len())
        .body(StreamBody::new(stream).boxed_unsync())?)
}
