//! The course of the world: phases of traffic, with times of quiet between them in which everything has to fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_credential_fallback::{Order, Slot};

use crate::client::Client;
use crate::known;
use crate::request::Spec;
use crate::server::World;
use crate::state::{State, Summary};

pub(crate) const REPLICAS: usize = 3;
const RESOURCES: usize = 40;

/// Those behind these are asked for less often.
const USUAL: usize = 24;
const CALLERS: usize = 9;

/// Longer than any answer takes, and than the replicas need to tell each other.
const QUIET: Duration = Duration::from_secs(15);

#[derive(Clone, Copy)]
enum Moves {
    None,
    ThereAndBack,
    To(Slot),
}

#[derive(Clone, Copy)]
struct Phase {
    /// The part of all calls, in percent.
    share: usize,
    /// Between two calls of one caller, in milliseconds at the most.
    pause: u64,
    moves: Moves,
    /// Between two moves, in milliseconds at the most.
    move_pause: u64,
    /// How many of 100 answers are not what the truth asks for.
    disturbance: u8,
    /// Outages of providers and of the log, and new tokens.
    has_trouble: bool,
    /// Resources that are sick for a long time.
    has_sick: bool,
    /// Switched between, now and then; none but the first without trouble.
    orders: &'static [Order],
}

const ADAPTIVE: &[Order] = &[Order::Adaptive];
const ALL: &[Order] =
    &[Order::Adaptive, Order::PrimaryFirst, Order::FallbackFirst, Order::PrimaryOnly, Order::FallbackOnly];
const FALLBACK: &[Order] = &[Order::FallbackFirst, Order::FallbackFirst, Order::FallbackOnly];

const TURNS: &[Order] = &[Order::Adaptive, Order::Adaptive, Order::FallbackFirst];

const PHASES: [Phase; 9] = {
    let calm = Phase {
        share: 5,
        pause: 2_000,
        moves: Moves::None,
        move_pause: 2_000,
        disturbance: 1,
        has_trouble: false,
        has_sick: false,
        orders: ADAPTIVE,
    };
    [
        calm,
        Phase {
            share: 25,
            pause: 400,
            moves: Moves::ThereAndBack,
            disturbance: 5,
            has_trouble: true,
            ..calm
        },
        Phase {
            share: 20,
            pause: 8_000,
            moves: Moves::ThereAndBack,
            move_pause: 60_000,
            disturbance: 25,
            ..calm
        },
        Phase {
            share: 15,
            moves: Moves::ThereAndBack,
            has_trouble: true,
            disturbance: 10,
            orders: ALL,
            ..calm
        },
        Phase { share: 10, moves: Moves::To(Slot::Fallback), move_pause: 5_000, disturbance: 5, ..calm },
        Phase { share: 10, pause: 20_000, has_trouble: true, has_sick: true, orders: TURNS, ..calm },
        Phase {
            share: 15,
            pause: 20_000,
            disturbance: 2,
            has_trouble: true,
            has_sick: true,
            orders: FALLBACK,
            ..calm
        },
        Phase { share: 5, pause: 8_000, moves: Moves::To(Slot::Primary), disturbance: 10, ..calm },
        Phase { share: 5, pause: 100, moves: Moves::ThereAndBack, move_pause: 300, ..calm },
    ]
};

/// One world with so many calls.
pub(crate) async fn run(seed: u64, calls: usize) -> Summary {
    // For what the layer itself leaves to chance.
    fastrand::seed(seed);
    let started = Instant::now();
    let world = World::new(State::new(seed, RESOURCES));
    let is_shared = |replica| replica < 2 || seed % 2 == 1;
    let mut clients = Vec::new();
    for replica in 0..REPLICAS {
        clients.push(Client::start(&world, replica, is_shared(replica)).await);
    }
    for (nth, phase) in PHASES.into_iter().enumerate() {
        let seed = seed << 8 | nth as u64;
        pass(&world, &clients, phase, calls * phase.share / 100, seed).await;
        quiet(&world, &clients).await;
        settle(&world, &clients).await;
        // A replica is started anew, and hears from the log.
        let replica = nth % REPLICAS;
        clients[replica] = Client::start(&world, replica, is_shared(replica)).await;
    }
    retire(&world, &clients).await;
    let mut summary = world.lock().summary.clone();
    summary.minutes = started.elapsed().as_secs() / 60;
    summary
}

async fn pass(world: &World, clients: &[Client], phase: Phase, calls: usize, seed: u64) {
    world.lock().disturbance = phase.disturbance;
    clients.iter().for_each(|client| client.handle.set_order(phase.orders[0]));
    let left = Arc::new(AtomicUsize::new(calls));
    let mut tasks = JoinSet::new();
    for nth in 0..CALLERS {
        let rng = Rng::with_seed(seed << 8 | nth as u64);
        tasks.spawn(keep_calling(world.clone(), clients.to_vec(), phase, left.clone(), rng));
    }
    let mut events = JoinSet::new();
    events.spawn(keep_moving(world.clone(), phase, Rng::with_seed(seed << 8 | 100)));
    if phase.has_trouble {
        events.spawn(keep_troubling(world.clone(), clients.to_vec(), phase, Rng::with_seed(seed << 8 | 101)));
    }
    if phase.has_sick {
        events.spawn(keep_sick(world.clone(), Rng::with_seed(seed << 8 | 102)));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    events.shutdown().await;
    let mut state = world.lock();
    state.truth.heal();
    state.log_is_down = false;
    if let Moves::To(slot) = phase.moves {
        state.truth.owners.fill(Some(slot));
    }
}

fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(..=most))
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
        let again = last.take().filter(|_| rng.u8(..10) < 4);
        let pause = if again.is_some() && rng.bool() { 300 } else { phase.pause };
        sleep(millis(&mut rng, pause)).await;
        let spec = match again {
            Some(mut spec) => {
                spec.vary(&mut rng);
                spec
            }
            None => {
                let most = if rng.u8(..12) == 0 { RESOURCES } else { USUAL };
                let resource = (rng.u8(..12) > 0).then(|| rng.usize(..most));
                let replica = rng.usize(..REPLICAS);
                Spec::random(&mut rng, replica, resource)
            }
        };
        clients[spec.replica].call(&world, &spec).await;
        last = Some(spec);
    }
}

async fn keep_moving(world: World, phase: Phase, mut rng: Rng) {
    loop {
        sleep(millis(&mut rng, phase.move_pause)).await;
        let resource = rng.usize(..RESOURCES);
        let owner = world.lock().truth.owners[resource];
        let to = match phase.moves {
            Moves::None => continue,
            Moves::ThereAndBack => owner.map(Slot::other),
            Moves::To(slot) => Some(slot),
        };
        world.lock().summary.moves += u64::from(to != owner);
        if to != owner && rng.bool() {
            world.lock().truth.owners[resource] = None;
            let longest = [50, 3_000][rng.usize(..2)];
            sleep(millis(&mut rng, longest)).await;
        }
        world.lock().truth.owners[resource] = to;
    }
}

/// Now and then a resource has no clear answer for longer than a report looks back.
async fn keep_sick(world: World, mut rng: Rng) {
    loop {
        let resource = rng.usize(..RESOURCES);
        world.lock().truth.sick[resource] = true;
        sleep(millis(&mut rng, 3_000_000)).await;
        world.lock().truth.sick[resource] = rng.bool();
    }
}

async fn keep_troubling(world: World, clients: Vec<Client>, phase: Phase, mut rng: Rng) {
    loop {
        sleep(millis(&mut rng, 10 * phase.pause)).await;
        let slot = if rng.bool() { Slot::Primary } else { Slot::Fallback };
        match rng.u8(..8) {
            0..4 => {
                let user = [None, Some("u0"), Some("u1"), Some("nobody")][rng.usize(..4)];
                world.lock().truth.set_outage(slot, user, Some(rng.bool()));
                sleep(millis(&mut rng, 10 * phase.pause)).await;
                world.lock().truth.set_outage(slot, user, None);
            }
            4 => {
                world.lock().log_is_down = true;
                sleep(millis(&mut rng, 10 * phase.pause)).await;
                world.lock().log_is_down = false;
            }
            5 => world.lock().truth.epochs[slot as usize] += 1,
            _ => {
                let order = phase.orders[rng.usize(..phase.orders.len())];
                clients[rng.usize(..REPLICAS)].handle.set_order(order);
            }
        }
    }
}

/// Nobody calls. All counts have to be right, and the replicas have to agree.
async fn quiet(world: &World, clients: &[Client]) {
    sleep(QUIET).await;
    let mut state = world.lock();
    state.check_bodies();
    for (replica, client) in clients.iter().enumerate() {
        let report = client.handle.report();
        state.check_report(replica, &report);
        state.check_retirement(replica, &report);
        let told = |state: &State, replica: usize| {
            let model = &state.replicas[replica].model;
            let slots = (0..RESOURCES).map(|nth| model.known(nth).preference.unwrap_or(Slot::Primary));
            model.is_shared.then(|| slots.collect::<Vec<_>>())
        };
        state.expect_eq(
            replica,
            "what the others have yet to be told",
            state.replicas[replica].model.untold.len(),
            0,
        );
        if let Some(told) = told(&state, replica) {
            state.expect_eq(replica, "what the replicas know", Some(told), told_of_first(&state));
        }
    }
}

fn told_of_first(state: &State) -> Option<Vec<Slot>> {
    let model = &state.replicas[0].model;
    Some((0..RESOURCES).map(|nth| model.known(nth).preference.unwrap_or(Slot::Primary)).collect())
}

/// Nothing moves, and nothing is wrong: who has had evidence takes one request from then on, and so do the others.
async fn settle(world: &World, clients: &[Client]) {
    let mut found = vec![false; RESOURCES];
    for (resource, found) in found.iter_mut().enumerate() {
        let spec = Spec::calm(0, resource);
        *found = clients[0].cost(world, &spec).await == 2;
        let second = clients[0].cost(world, &spec).await;
        let known = world.lock().replicas[0].model.known(resource).preference;
        if *found || known.is_some() {
            world.lock().expect_eq(0, "requests for what was found before", second, 1);
        }
    }
    sleep(Duration::from_secs(3)).await;
    for (replica, resource) in (1..REPLICAS).flat_map(|replica| (0..RESOURCES).map(move |nth| (replica, nth)))
    {
        let is_told = {
            let state = world.lock();
            let known = |replica: usize| state.replicas[replica].model.known(resource).preference.is_some();
            let is_told = known(replica) || found[resource] && !known::PRIMARY_IS_NOT_TOLD;
            state.replicas[replica].model.is_shared && known(0) && is_told
        };
        if is_told {
            let cost = clients[replica].cost(world, &Spec::calm(replica, resource)).await;
            world.lock().expect_eq(replica, "requests for what another replica has found", cost, 1);
        }
    }
}

/// All has moved, and the fallback serves everything for more than a quarter of an hour.
async fn retire(world: &World, clients: &[Client]) {
    world.lock().truth.owners.fill(Some(Slot::Fallback));
    sleep(Duration::from_secs(1_000)).await;
    for client in clients {
        client.handle.set_order(Order::FallbackFirst);
    }
    for resource in 0..RESOURCES {
        sleep(Duration::from_secs(40)).await;
        for (replica, client) in clients.iter().enumerate() {
            client.call(world, &Spec::calm(replica, resource)).await;
        }
    }
    quiet(world, clients).await;
    let seed = world.lock().seed;
    for client in clients {
        let report = client.handle.report();
        assert_eq!(report.can_retire_primary(), Some(true), "seed {seed}: {report}");
    }
}
