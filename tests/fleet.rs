//! A fleet in virtual time: eight replicas act for fifty users whose tokens live two seconds, for a minute.
//!
//! Replicas are killed some 200 times a minute, half of the time in the middle of a refresh. The store they share goes
//! down, falls silent or freezes; it applies operations whose answers are lost. Nothing depends on the machine: one
//! seed gives one run.
//!
//! `FLEET_SEED=7 cargo test --all-features --test fleet -- --nocapture` replays a seed.
//! `fleet/verdict.rs` has the rules that must hold.
#![cfg(feature = "oauth")]

#[path = "fleet/identity.rs"]
mod identity;
#[path = "fleet/record.rs"]
mod record;
#[path = "fleet/replica.rs"]
mod replica;
#[path = "fleet/run.rs"]
mod run;
#[path = "fleet/store.rs"]
mod store;
#[path = "fleet/verdict.rs"]
mod verdict;
#[path = "fleet/world.rs"]
mod world;

use std::thread;
use std::time::Duration;

use run::{Marks, run};
use verdict::Rule;

const REPLICAS: usize = 8;
const USERS: usize = 50;
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);

/// How long replicas are killed and the store fails.
const CHAOS: Duration = Duration::from_secs(60);

/// The time after it. What a killed replica leaves behind is over when its lease and its mark have run out and the user
/// has logged in: calls that begin in the last third are all answered.
const QUIET: Duration = Duration::from_secs(22);

const LEASE: Duration = Duration::from_secs(6);

/// How long a call waits for its token: less than a lease.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

const SEEDS: [u64; 3] = [1, 2, 3];

fn seeds() -> Vec<u64> {
    match std::env::var("FLEET_SEED") {
        Ok(seed) => vec![seed.parse().expect("FLEET_SEED is a number")],
        Err(_) => SEEDS.to_vec(),
    }
}

#[test]
fn a_fleet_keeps_every_rule_and_one_seed_gives_one_run() {
    for seed in seeds() {
        // At the same time: the runs must not depend on what else the machine does.
        let [first, second] = thread::scope(|scope| {
            [(); 2].map(|()| scope.spawn(|| run(seed, Marks::Kept))).map(|run| run.join().unwrap())
        });
        println!("{first}");
        assert_eq!(first.broken, [], "seed {seed}");
        assert_eq!(first.counts, second.counts, "seed {seed}");
        assert_eq!(first.digest, second.digest, "seed {seed}: same counts, other events");
    }
}

#[test]
fn a_fleet_that_ignores_the_marks_sends_tokens_twice() {
    let seed = seeds()[0];
    let verdict = run(seed, Marks::Ignored);
    println!("{verdict}");
    let twice = verdict.broken.iter().filter(|broken| broken.rule == Rule::TokenSentOnce).count();
    assert!(twice >= 10, "seed {seed}: {twice} tokens were seen twice");
}
