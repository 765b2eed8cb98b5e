//! Times in which nobody else calls: all counts have to be right, and all knowledge has to be true.

use std::time::Duration;

use tokio::time::sleep;
use tower_credential_fallback::{Order, RECENT, Slot};

use crate::client::Client;
use crate::driver::{REPLICAS, RESOURCES};
use crate::request::Spec;
use crate::server::World;
use crate::state::State;

/// Longer than any answer takes, and than the replicas need to tell each other.
const QUIET: Duration = Duration::from_secs(15);

/// The replicas have told each other by then.
const TOLD: Duration = Duration::from_secs(3);

/// All bodies have arrived, all counts are right, and the replicas agree.
pub(crate) async fn quiet(world: &World, clients: &[Client]) {
    sleep(QUIET).await;
    let mut state = world.lock();
    state.check_bodies();
    for (replica, client) in clients.iter().enumerate() {
        let report = client.handle.report();
        state.check_report(replica, &report);
        state.check_retirement(replica, &report);
        let model = &state.replicas[replica].model;
        state.expect_eq(replica, "what the others have yet to be told", model.untold.len(), 0);
        for resource in (0..RESOURCES).filter(|_| model.is_shared) {
            let [ours, theirs] = [replica, 0].map(|nth| state.replicas[nth].model.known(resource).preference);
            state.expect_eq(replica, &format!("what it knows of resource {resource}"), ours, theirs);
        }
    }
}

fn preference(world: &World, replica: usize, resource: usize) -> Option<Slot> {
    world.lock().replicas[replica].model.known(resource).preference
}

/// Nothing moves, and nothing is wrong: what had evidence takes one request from then on, at the other replicas as well.
pub(crate) async fn settle(world: &World, clients: &[Client]) {
    let cost = async |replica: usize, resource| {
        clients[replica].handle.set_order(Order::Adaptive);
        clients[replica].cost(world, &Spec::calm(replica, resource)).await
    };
    // The last one has never been seen, and is with the primary.
    world.lock().truth.owners.push(Some(Slot::Primary));
    world.lock().truth.sick.push(false);
    let newborn = world.lock().truth.owners.len() - 1;
    let resources = || (0..RESOURCES).chain([newborn]);
    let mut found = Vec::new();
    for resource in resources() {
        let is_found = cost(0, resource).await == 2;
        found.push(is_found);
        let again = cost(0, resource).await;
        if is_found || preference(world, 0, resource).is_some() {
            world.lock().expect_eq(0, "requests for what was found before", again, 1);
        }
    }
    sleep(TOLD).await;
    for replica in (1..REPLICAS).filter(|replica| world.lock().replicas[*replica].model.is_shared) {
        for (resource, is_found) in resources().zip(&found) {
            if *is_found || preference(world, replica, resource).is_some() {
                let requests = cost(replica, resource).await;
                let what = format!("requests for resource {resource}, which another replica has found");
                world.lock().expect_eq(replica, &what, requests, 1);
            }
        }
    }
}

/// All has moved, and the fallback serves everything for as long as a report looks back.
pub(crate) async fn retire(world: &World, clients: &[Client]) {
    world.lock().truth.owners.fill(Some(Slot::Fallback));
    sleep(RECENT).await;
    clients.iter().for_each(|client| client.handle.set_order(Order::FallbackFirst));
    for resource in 0..RESOURCES {
        sleep(RECENT / RESOURCES as u32 + Duration::from_secs(1)).await;
        for (replica, client) in clients.iter().enumerate() {
            client.call(world, &Spec::calm(replica, resource)).await;
        }
    }
    quiet(world, clients).await;
    let state = world.lock();
    for (replica, client) in clients.iter().enumerate() {
        let told = client.handle.report().can_retire_primary();
        state.expect_eq(replica, "whether the primary can be retired", told, Some(true));
    }
}

/// All resources have moved, and many were found: how many requests one costs that was never seen, for each replica.
pub(crate) async fn cost_of_the_unknown(seed: u64) -> Vec<f64> {
    const FOUND: usize = 100;
    fastrand::seed(seed);
    let world = World::new(State::new(seed, 2 * FOUND));
    world.lock().truth.owners.fill(Some(Slot::Fallback));
    let mut costs = Vec::new();
    for replica in 0..REPLICAS {
        let client = Client::start(&world, replica, false).await;
        for resource in 0..FOUND {
            client.call(&world, &Spec::calm(replica, resource)).await;
        }
        let mut requests = 0;
        for resource in FOUND..2 * FOUND {
            requests += client.cost(&world, &Spec::calm(replica, resource)).await;
        }
        costs.push(requests as f64 / FOUND as f64);
    }
    costs
}
