//! The course of a world: phases of traffic, with times of quiet between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_credential_fallback::{CredentialChoice, RECENT, Slot};

use crate::client::Client;
use crate::events::{keep_moving, keep_troubling, make_sick, millis};
use crate::log;
use crate::phase::{Moves, PHASES, Phase};
use crate::quiet::{quiet, retire, settle};
use crate::request::Spec;
use crate::server::World;
use crate::state::State;
use crate::summary::Summary;

pub(crate) const REPLICAS: usize = 3;
pub(crate) const RESOURCES: usize = 40;

const CALLERS: usize = 9;

/// One world with so many calls, and some more in times of quiet.
pub(crate) async fn run(seed: u64, calls: usize) -> Summary {
    // For what the layer itself leaves to chance.
    fastrand::seed(seed);
    let started = Instant::now();
    let world = World::new(State::new(seed, RESOURCES));
    let log = log::name(2 * RESOURCES, seed).await;
    world.lock().log = log;
    // In every second world, the replica with fixed credentials learns alone.
    let is_shared = |replica| replica < 2 || seed % 2 == 1;
    let mut clients = Vec::new();
    for replica in 0..REPLICAS {
        clients.push(Client::start(&world, replica, is_shared(replica)).await);
    }
    for (nth, phase) in PHASES.into_iter().enumerate() {
        if phase.starts_anew {
            sleep(2 * RECENT).await;
        }
        for (replica, client) in clients.iter_mut().enumerate() {
            if phase.starts_anew || nth % REPLICAS == replica {
                *client = Client::start(&world, replica, is_shared(replica)).await;
            }
        }
        pass(&world, &clients, phase, calls * phase.share / 100, seed << 8 | nth as u64).await;
        quiet(&world, &clients).await;
        settle(&world, &clients).await;
    }
    retire(&world, &clients).await;
    let mut summary = world.lock().summary.clone();
    summary.minutes = started.elapsed().as_secs() / 60;
    summary
}

async fn pass(world: &World, clients: &[Client], phase: Phase, calls: usize, seed: u64) {
    let rng = |nth: usize| Rng::with_seed(seed << 8 | nth as u64);
    world.lock().disturbance = phase.disturbance;
    make_sick(world, phase, &mut rng(CALLERS));
    clients.iter().for_each(|client| client.handle.set_order(phase.orders[0]));
    let left = Arc::new(AtomicUsize::new(calls));
    let mut tasks = JoinSet::new();
    for nth in 0..CALLERS {
        tasks.spawn(keep_calling(world.clone(), clients.to_vec(), phase, left.clone(), rng(nth)));
    }
    tasks.spawn(keep_moving(world.clone(), phase, left.clone(), rng(CALLERS + 1)));
    if !phase.troubles.is_empty() {
        tasks.spawn(keep_troubling(world.clone(), clients.to_vec(), phase, left, rng(CALLERS + 2)));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    let mut state = world.lock();
    state.truth.heal();
    state.log_outage = None;
    if let Moves::To(slot) = phase.moves {
        state.truth.owners.fill(Some(slot));
    }
}

async fn keep_calling(
    world: World,
    clients: Vec<Client>,
    phase: Phase,
    left: Arc<AtomicUsize>,
    mut rng: Rng,
) {
    let mut last: Option<Spec> = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        // Many ask the same again: at once, or after a while.
        let again = last.take().filter(|_| !phase.is_plain && rng.u8(..10) < 4);
        let pause = if again.is_some() && rng.bool() { 300 } else { phase.pause };
        sleep(millis(&mut rng, pause)).await;
        let spec = match again {
            Some(mut spec) => {
                spec.vary(&mut rng);
                spec
            }
            None => new_call(phase, &mut rng),
        };
        clients[spec.replica].call(&world, &spec).await;
        last = Some(spec);
    }
}

fn new_call(phase: Phase, rng: &mut Rng) -> Spec {
    let (replica, resource) = (rng.usize(..REPLICAS), any_resource(phase, rng));
    if phase.is_plain {
        let is_pinned = phase.is_primary_sick && rng.u8(..40) == 0;
        let choice = is_pinned.then_some(CredentialChoice::First(Slot::Primary));
        return Spec { choice, is_calm: false, ..Spec::calm(replica, resource) };
    }
    let is_about_one = rng.u8(..12) > 0;
    Spec::random(rng, replica, is_about_one.then_some(resource))
}

pub(crate) fn any_resource(phase: Phase, rng: &mut Rng) -> usize {
    let most = if rng.u8(..12) == 0 { RESOURCES } else { phase.often_asked };
    rng.usize(..most)
}
