//! What happens to the world while callers call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;
use tower_credential_fallback::Slot;

use crate::client::Client;
use crate::driver::{REPLICAS, RESOURCES, any_resource};
use crate::log::LogOutage;
use crate::phase::{Moves, Phase, Trouble};
use crate::request::Spec;
use crate::server::World;

pub(crate) fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(..=most))
}

/// Moves resources; in half of all moves there is a gap in which neither slot serves the resource.
pub(crate) async fn keep_moving(world: World, phase: Phase, left: Arc<AtomicUsize>, mut rng: Rng) {
    while left.load(Ordering::Relaxed) > 0 {
        sleep(millis(&mut rng, phase.move_pause)).await;
        let resource = any_resource(phase, &mut rng);
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

/// Makes trouble, of one kind at a time.
pub(crate) async fn keep_troubling(
    world: World,
    clients: Vec<Client>,
    phase: Phase,
    left: Arc<AtomicUsize>,
    mut rng: Rng,
) {
    while left.load(Ordering::Relaxed) > 0 {
        sleep(millis(&mut rng, 10 * phase.pause)).await;
        let slot = if rng.bool() { Slot::Primary } else { Slot::Fallback };
        let lasts = millis(&mut rng, 10 * phase.pause);
        match phase.troubles[rng.usize(..phase.troubles.len())] {
            Trouble::Outage => {
                let user = [None, Some("u0"), Some("u1"), Some("nobody")][rng.usize(..4)];
                world.lock().truth.set_outage(slot, user, Some(rng.bool()));
                sleep(lasts).await;
                world.lock().truth.set_outage(slot, user, None);
            }
            Trouble::HintedOutage => hinted_outage(&world, &clients, &mut rng).await,
            Trouble::LogOutage => {
                let outage = if rng.bool() { LogOutage::Whole } else { LogOutage::Writes };
                world.lock().log_outage = Some(outage);
                // Replicas look into it once a second.
                sleep(lasts + Duration::from_secs(4)).await;
                world.lock().log_outage = None;
            }
            Trouble::NewTokens => world.lock().truth.epochs[slot as usize] += 1,
            Trouble::NewOrder => {
                let order = phase.orders[rng.usize(..phase.orders.len())];
                clients[rng.usize(..REPLICAS)].handle.set_order(order);
            }
        }
    }
}

/// A call that a hint is for, while the hint's slot has no credential and the other serves the resource.
async fn hinted_outage(world: &World, clients: &[Client], rng: &mut Rng) {
    let replica = rng.usize(..2);
    let hinted: Option<(Spec, Slot)> = world.lock().replicas[replica].model.any_hint(rng);
    let Some((mut spec, slot)) = hinted else { return };
    let Some(target) = spec.target else { return };
    let owner = world.lock().truth.owners[target];
    let set = |owner, outage| {
        let mut state = world.lock();
        state.truth.owners[target] = owner;
        state.truth.set_outage(slot, None, outage);
    };
    (spec.choice, spec.patience) = (None, None);
    set(Some(slot.other()), Some(false));
    clients[replica].call(world, &spec).await;
    set(owner, None);
    clients[replica].call(world, &spec).await;
}

/// Some resources that are seldom asked for have no clear answer.
pub(crate) fn make_sick(world: &World, phase: Phase, rng: &mut Rng) {
    let mut state = world.lock();
    state.truth.is_primary_sick = phase.is_primary_sick;
    for _ in 0..phase.sick {
        state.truth.sick[rng.usize(phase.often_asked..RESOURCES)] = true;
    }
}
