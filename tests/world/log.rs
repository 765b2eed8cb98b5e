//! The log that replicas share. What is appended has to be what the model has learnt; what is read, it learns.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::{
    BoxError, Credential, CredentialFallbackLayer, Learnt, LogFuture, Order, PreferenceLog, ReplayBody,
    SharedPreferences, Slot,
};

use crate::answer::ScriptBody;
use crate::request::{Spec, resource};
use crate::server::{World, fixed_token};
use crate::state::State;

#[derive(Clone, Copy)]
pub(crate) enum LogOutage {
    /// One replica cannot write.
    Writes,
    Whole,
}

#[derive(Default)]
pub(crate) struct Entries {
    seed: Option<u64>,
    learnt: Vec<Learnt>,
    /// The resource that each hash stands for.
    pub(crate) names: BTreeMap<u64, usize>,
}

/// Keeps what is appended, and nothing else.
struct Scratch(Arc<Mutex<Vec<Learnt>>>, u64);

impl PreferenceLog for Scratch {
    fn seed(&self, _: u64) -> LogFuture<'_, u64> {
        Box::pin(ready(Ok(self.1)))
    }

    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
        self.0.lock().unwrap().extend_from_slice(learnt);
        Box::pin(ready(Ok(())))
    }

    fn read<'a>(&'a self, _: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
        Box::pin(ready(Ok((Vec::new(), None))))
    }
}

/// What resources of these numbers are called in a log with this seed.
pub(crate) async fn name(resources: usize, seed: u64) -> Entries {
    let told = Arc::<Mutex<Vec<Learnt>>>::default();
    let shared = SharedPreferences::open(Scratch(told.clone(), seed)).await.unwrap();
    let [primary, fallback] =
        [Slot::Primary, Slot::Fallback].map(|slot| Credential::bearer(fixed_token(slot)).unwrap());
    let server = tower::service_fn(|request: Request<ReplayBody<ScriptBody>>| {
        let is_new = request.headers()["authorization"].as_bytes().starts_with(b"Bearer new");
        let response = Response::builder().status(if is_new { 200 } else { 403 });
        ready(Ok::<_, BoxError>(response.body(Empty::<Bytes>::new()).unwrap()))
    });
    let layer = CredentialFallbackLayer::new(primary, fallback).unwrap();
    let layer =
        layer.with_resource_key(resource).with_order(Order::PrimaryFirst).with_shared_preferences(&shared);
    for resource in 0..resources {
        layer.layer(server).oneshot(Spec::calm(0, resource).request(0)).await.unwrap();
    }
    sleep(Duration::from_secs(3)).await;
    let told = told.lock().unwrap();
    Entries {
        seed: Some(seed),
        learnt: Vec::new(),
        names: told.iter().enumerate().map(|(nth, entry)| (entry.resource, nth)).collect(),
    }
}

pub(crate) struct Log {
    pub(crate) world: World,
    pub(crate) replica: usize,
}

impl Log {
    fn ask<T>(&self, is_write: bool, answer: impl FnOnce(&mut State) -> T) -> LogFuture<'static, T>
    where
        T: Send + 'static,
    {
        let mut state = self.world.lock();
        let is_down = match state.log_outage {
            None => false,
            Some(LogOutage::Writes) => is_write && self.replica == 0,
            Some(LogOutage::Whole) => true,
        };
        let answer = if is_down { Err("the log is down".into()) } else { Ok(answer(&mut state)) };
        Box::pin(std::future::ready(answer))
    }
}

impl PreferenceLog for Log {
    fn seed(&self, proposed: u64) -> LogFuture<'_, u64> {
        self.ask(false, |state| *state.log.seed.get_or_insert(proposed))
    }

    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
        self.ask(true, |state| {
            for entry in learnt {
                let name = state.log.names[&entry.resource];
                let due = state.replicas[self.replica].model.untold.pop_front();
                state.expect_eq(self.replica, "what it tells the others", Some((name, entry.slot)), due);
            }
            state.log.learnt.extend_from_slice(learnt);
        })
    }

    fn read<'a>(&'a self, after: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
        self.ask(false, |state| {
            let from = after.map_or(0, |after| after.parse().unwrap());
            // In pieces, as a real one.
            let found: Vec<Learnt> = state.log.learnt.iter().skip(from).take(5).copied().collect();
            for entry in &found {
                let (resource, now) = (state.log.names[&entry.resource], state.next_seq());
                let model = &mut state.replicas[self.replica].model;
                let before = model.known(resource).preference;
                model.adopt(resource, entry.slot, now);
                state.summary.adopted += u64::from(before != model.known(resource).preference);
            }
            let after = (!found.is_empty()).then(|| (from + found.len()).to_string());
            (found, after)
        })
    }
}
