//! One process of the application. It tells its parent what it does, a line for each thing.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tower::{ServiceBuilder, ServiceExt};
use tower_credential_fallback::oauth::Grant;
use tower_credential_fallback::store::{Lease, RedisStore, StoreFuture, Stored, TokenStore, Version};
use tower_credential_fallback::{BoxError, CredentialError, Error, Outcome, Slot, coze, provider_fn};

use crate::{HANG, Setup, support, user};

/// Milliseconds, by the clock that all processes share.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// One write, so that a line is whole even if the next thing is the end.
fn tell(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Makes calls for every user until its input ends.
pub(crate) async fn run(setup: Setup) {
    let tokens = setup.tokens(Arc::new(Telling(setup.store())));
    let nobody = provider_fn(|_| async { Err(CredentialError::new("there is no fallback here")) });
    let layer = coze::layer(&setup.region(), tokens.clone(), nobody).unwrap();
    let client = ServiceBuilder::new().layer(layer).service(support::hyper_client(support::Protocol::Http1));
    let calls: Vec<JoinHandle<()>> = setup
        .bots
        .iter()
        .enumerate()
        .map(|(n, bot)| {
            let (client, url) = (client.clone(), format!("{}/v1/bots/{bot}", setup.coze));
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(100..700))).await;
                    let request =
                        Request::get(&url).extension(user(n)).body(Full::<Bytes>::default()).unwrap();
                    let from = now();
                    let ended = match tokio::time::timeout(HANG, client.clone().oneshot(request)).await {
                        Ok(answered) => ending(answered).await,
                        Err(_) => "HANGS".to_owned(),
                    };
                    tell(&format!("call {n} {from} {} {ended}", now()));
                }
            })
        })
        .collect();
    let mut input = Vec::new();
    let _ = tokio::io::stdin().read_to_end(&mut input).await;
    for call in calls {
        call.abort();
        let _ = call.await;
    }
    tokens.settle().await;
    tell("settled");
}

pub(crate) const TOLD_TO_AUTHORIZE: &str = "told to authorize";

/// What a call ended in, without what differs between users.
async fn ending(
    answered: Result<http::Response<impl http_body::Body<Error: Into<BoxError>>>, BoxError>,
) -> String {
    let response = match answered {
        Ok(response) => response,
        Err(error) => {
            // The primary's reason; the fallback's is always the same.
            let ours = error.downcast_ref::<Error>();
            let cause = ours.and_then(|error| error.credential_error(Slot::Primary));
            return match cause {
                None => format!("ERROR {error}"),
                Some(cause) if cause.authorize_url().is_some() => TOLD_TO_AUTHORIZE.to_owned(),
                Some(cause) => format!("no token: {cause}"),
            };
        }
    };
    let is_refused = Outcome::of(&response).is_refused();
    match response.into_body().collect().await {
        Ok(body) => {
            let answer: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            let verb = if is_refused { "refused" } else { "answered" };
            format!("{verb}: code {}", answer["code"])
        }
        Err(error) => format!("ERROR {}", error.into()),
    }
}

/// Tells how far each refresh is, always before it goes on: what is told last has happened at the most.
struct Telling(RedisStore);

pub(crate) fn is_marked(grant: &Grant) -> bool {
    serde_json::from_slice::<Value>(&grant.to_bytes()).unwrap().get("being_spent_by").is_some()
}

impl TokenStore for Telling {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>> {
        self.0.load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        Box::pin(async move {
            let is_mark = is_marked(grant);
            tell(&format!("{} {key}", if is_mark { "mark" } else { "answer" }));
            let saved = self.0.save(key, grant, expected).await;
            if !is_mark && saved.is_ok() {
                tell(&format!("safe {key}"));
            }
            saved
        })
    }

    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            tell(&format!("lease {key}"));
            let lease = self.0.lease(key, time).await;
            if let Ok(None) = lease {
                tell(&format!("released {key}"));
            }
            lease
        })
    }

    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let released = self.0.release(key, lease).await;
            if released.is_ok() {
                tell(&format!("released {key}"));
            }
            released
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            // Whoever listens looks in the store, then, and if nothing more is told: it may be done.
            tell(&format!("deleting {key} {}", now()));
            let deleted = self.0.delete(key, expected).await;
            tell(&format!("deletion-over {key}"));
            deleted
        })
    }
}
