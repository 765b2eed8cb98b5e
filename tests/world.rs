//! An oracle: a random world drives the layer for 100,000 calls in virtual time, and every call is checked.
//!
//! The world: resources move between two accounts, there and back, at times with a gap in which neither serves them. Answers
//! are successes, redirects, errors, rate limits, rejections by status and by a JSON code, slow, cut off, or none. Callers have
//! users, stream uploads that are too large to replay or break off, choose slots, give up, and ask the same again. Providers,
//! tokens and the log that replicas share fail for a while. Replicas start anew. Each world is made from a seed: the same seed
//! gives the same counts.
//!
//! What is checked, and where:
//!
//! - `state.rs`, as a request arrives: there are at most two, with different slots; method, URI and headers are the caller's
//!   but for one credential; a request that is cooling down is not replayed.
//! - `check.rs`, as a call ends: its first slot is one that the model allows (`model.rs`); the outcome, the answer and the error
//!   are those of the server's record; a call is replayed if and only if it was rejected, unless the reason that the outcome
//!   gives is true in the world.
//! - `log.rs`: replicas tell each other evidence, and nothing else.
//! - `report.rs`, as calls end: nobody is told to retire a primary that is needed, or may be; `moved` is right. In times of
//!   quiet: every count is the world's own.
//! - `quiet.rs`, when nothing moves: all bodies have arrived; what a replica has found costs one request from then on, there
//!   and at the other replicas; in the end the primary can be retired.
//!
//! A failure names its seed: `WORLD_SEED=3` runs that world alone.
#![cfg(feature = "oauth")]

#[path = "world/answer.rs"]
mod answer;
#[path = "world/check.rs"]
mod check;
#[path = "world/client.rs"]
mod client;
#[path = "world/driver.rs"]
mod driver;
#[path = "world/events.rs"]
mod events;
#[path = "world/log.rs"]
mod log;
#[path = "world/model.rs"]
mod model;
#[path = "world/phase.rs"]
mod phase;
#[path = "world/quiet.rs"]
mod quiet;
#[path = "world/report.rs"]
mod report;
#[path = "world/request.rs"]
mod request;
#[path = "world/server.rs"]
mod server;
#[path = "world/state.rs"]
mod state;
#[path = "world/summary.rs"]
mod summary;

use std::future::Future;
use std::panic::resume_unwind;
use std::thread;

use comfy_table::{Table, presets};
use summary::Summary;

/// The worlds of a default run.
const SEEDS: [u64; 4] = [1, 2, 3, 6];

const CALLS: usize = 100_000 / SEEDS.len();

/// Runs a world on this thread, in virtual time.
fn in_virtual_time<T>(world: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(world)
}

#[test]
fn a_random_world_is_never_contradicted_in_100_000_calls() {
    let seeds = match std::env::var("WORLD_SEED") {
        Ok(seed) => vec![seed.parse().expect("WORLD_SEED is a number")],
        Err(_) => SEEDS.to_vec(),
    };
    // Each has a thread of its own, and shares nothing.
    let threads =
        seeds.iter().copied().map(|seed| thread::spawn(move || in_virtual_time(driver::run(seed, CALLS))));
    let threads: Vec<_> = threads.collect();
    let worlds = threads.into_iter().map(|world| world.join().unwrap_or_else(|failed| resume_unwind(failed)));
    let worlds: Vec<_> = worlds.collect();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(
        ["world"].into_iter().map(str::to_owned).chain(seeds.iter().map(|seed| format!("seed {seed}"))),
    );
    for (nth, (name, _)) in worlds[0].rows().into_iter().enumerate() {
        let counts = worlds.iter().map(|world| world.rows()[nth].1.to_string());
        table.add_row([name.to_owned()].into_iter().chain(counts));
    }
    println!("{table}");
}

#[test]
fn the_same_seed_gives_the_same_counts() {
    let run = |seed| in_virtual_time(driver::run(seed, 2_000));
    let (first, again): (Summary, Summary) = (run(7), run(7));
    assert_eq!(first, again);
    assert_ne!(first, run(8));
}

#[test]
fn after_the_move_what_was_never_seen_costs_one_request() {
    assert_eq!(in_virtual_time(quiet::cost_of_the_unknown(1)), [1.0; driver::REPLICAS]);
}
