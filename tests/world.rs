//! An oracle: a random world drives the layer for 100,000 calls in virtual time, and checks each of them.
//!
//! (doc)
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
#[path = "world/known.rs"]
mod known;
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

use std::time::Instant;

use comfy_table::{Table, presets};
use state::Summary;

/// The worlds of a default run. `WORLD_SEED` names one in their place.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

const CALLS: usize = 100_000 / SEEDS.len();

fn run(seed: u64, calls: usize) -> Summary {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(driver::run(seed, calls))
}

#[test]
fn a_random_world_is_never_contradicted() {
    let seeds = match std::env::var("WORLD_SEED") {
        Ok(seed) => vec![seed.parse().expect("WORLD_SEED is a number")],
        Err(_) => SEEDS.to_vec(),
    };
    for seed in seeds {
        let started = Instant::now();
        let summary = run(seed, CALLS);
        println!("{seed} {summary:?} {:?}", started.elapsed());
    }
    let _ = (Table::new(), presets::ASCII_MARKDOWN);
}
