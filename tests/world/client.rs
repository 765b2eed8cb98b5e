//! A replica's client, and one call with it.

use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt};
use tower_credential_fallback::{
    AuthProvider, CredentialFallback, CredentialFallbackLayer, FallbackHandle, JsonCodeClassifier, PeekBody,
    RejectionKind, SharedPreferences, Slot,
};

use crate::answer::ScriptBody;
use crate::log::Log;
use crate::model::Model;
use crate::report::Counts;
use crate::request::{REPLAY_LIMIT, Spec, resource};
use crate::server::{Server, World, provider, reply_content};
use crate::state::Replica;

/// A report is looked at behind every so many calls.
const CALLS_PER_REPORT: usize = 4;

type Provider = Arc<dyn AuthProvider>;

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) handle: FallbackHandle,
    service: CredentialFallback<Server, Provider, Provider>,
}

impl Client {
    /// Starts a replica, in place of the one of this number if there is one.
    pub(crate) async fn start(world: &World, replica: usize, is_shared: bool) -> Self {
        let fresh = Replica { model: Model::new(is_shared), counts: Counts::new() };
        {
            let mut state = world.lock();
            if replica < state.replicas.len() {
                state.replicas[replica] = fresh;
            } else {
                state.replicas.push(fresh);
            }
        }
        let [primary, fallback] = [Slot::Primary, Slot::Fallback].map(|slot| provider(world, replica, slot));
        let classifier = JsonCodeClassifier::new("code")
            .reject(4100, RejectionKind::Unauthenticated)
            .reject(4101, RejectionKind::Forbidden)
            .reject(4200, RejectionKind::NotFound);
        let mut layer = CredentialFallbackLayer::new(primary, fallback)
            .unwrap()
            .with_classifier(classifier)
            .with_resource_key(resource)
            .with_replay_limit(REPLAY_LIMIT);
        if is_shared {
            let log = Log { world: world.clone(), replica };
            layer = layer.with_shared_preferences(&SharedPreferences::open(log).await.unwrap());
        }
        Self { handle: layer.handle(), service: layer.layer(Server { world: world.clone() }) }
    }

    /// Makes a call, and checks it.
    pub(crate) async fn call(&self, world: &World, spec: &Spec) {
        let mut service = self.service.clone();
        let service = service.ready().await.unwrap();
        // From here on nobody else runs, until the layer has chosen the slot.
        let number = world.lock().begin(spec, self.handle.order());
        let future = service.call(spec.request(number));
        let got = match spec.patience {
            Some(patience) => timeout(patience, future).await.ok(),
            None => Some(future.await),
        };
        let expected = {
            let mut state = world.lock();
            state.end(number, got.as_ref());
            if number.is_multiple_of(CALLS_PER_REPORT) {
                let report = self.handle.report();
                state.check_moved(spec.replica, &report);
                state.check_retirement(spec.replica, &report);
            }
            state.calls[&number].exchanges.last().map(reply_content)
        };
        // Some callers do not read what they get.
        if let Some(Ok(response)) = got
            && !number.is_multiple_of(4)
        {
            let found = collect(response.into_body()).await;
            world.lock().expect(number, Some(&found) == expected.as_ref(), || {
                format!(
                    "the answer's body has {} bytes, expected {:?}",
                    found.len(),
                    expected.as_ref().map(Vec::len)
                )
            });
        }
    }

    /// How many requests a call takes, whatever else there is.
    pub(crate) async fn cost(&self, world: &World, spec: &Spec) -> u64 {
        let before = world.lock().summary.requests;
        self.call(world, spec).await;
        world.lock().summary.requests - before
    }
}

/// What comes before the end, or an error.
async fn collect(mut body: PeekBody<ScriptBody>) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        content.extend_from_slice(&frame.into_data().expect("there are no trailers"));
    }
    content
}
