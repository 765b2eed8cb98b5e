//! Instructions of calls, counted by callgrind: the same on a noisy machine.
//!
//! They are counted over calls in a row, each with a request that was made for it, as a client's in use. The allocator tidies
//! up once in a while: a call that is counted by itself gets much of that, or none, by chance. What it costs to make a
//! request is the same in every way.

#![allow(missing_docs, reason = "the macros make items of their own")]

mod common;

use bytes::Bytes;
use common::{CALLS, CASES, Case, Way, request, run};
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::Request;
use http_body_util::Full;

type Client = Box<dyn FnMut(Request<Full<Bytes>>)>;

/// A client that has been used before, and what it is going to send.
type Prepared = (Client, Case);

fn prepare(way: Way, case: usize) -> Prepared {
    let case = CASES[case];
    let mut run = run(way, case);
    (0..3).for_each(|_| run(request(case)));
    (Box::new(run), case)
}

fn bare(case: usize) -> Prepared {
    prepare(Way::Bare, case)
}

fn ours(case: usize) -> Prepared {
    prepare(Way::Ours, case)
}

fn retry(case: usize) -> Prepared {
    prepare(Way::Retry, case)
}

fn recipe(case: usize) -> Prepared {
    prepare(Way::Recipe, case)
}

// The arguments are indices of `CASES`.
#[library_benchmark]
#[benches::bare(args = [0, 1, 2, 3, 4, 5, 6], setup = bare)]
#[benches::ours(args = [0, 1, 2, 3, 4, 5, 6], setup = ours)]
#[benches::retry(args = [0, 1, 2, 3, 4, 5, 6], setup = retry)]
#[benches::recipe(args = [0, 1, 2, 3, 4, 5, 6], setup = recipe)]
fn call((mut client, case): Prepared) -> Client {
    (0..CALLS).for_each(|_| client(request(case)));
    client
}

library_benchmark_group!(name = calls; benchmarks = call);
main!(library_benchmark_groups = calls);
