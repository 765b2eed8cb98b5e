//! Instructions of one call, counted by callgrind: the same on a noisy machine.

#![allow(missing_docs, reason = "the macros make items of their own")]

mod common;

use bytes::Bytes;
use common::{CASES, Way, request, run};
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::Request;
use http_body_util::Full;

/// A client that has been used before, and the request that it is going to send.
type Prepared = (Box<dyn FnMut(Request<Full<Bytes>>)>, Request<Full<Bytes>>);

fn prepare(way: Way, case: usize) -> Prepared {
    let case = CASES[case];
    let mut run = run(way, case);
    (0..3).for_each(|_| run(request(case)));
    (Box::new(run), request(case))
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
#[benches::bare(args = [0, 1, 2, 3, 4, 5], setup = bare)]
#[benches::ours(args = [0, 1, 2, 3, 4, 5], setup = ours)]
#[benches::retry(args = [0, 1, 2, 3, 4, 5], setup = retry)]
#[benches::recipe(args = [0, 1, 2, 3, 4, 5], setup = recipe)]
fn call((mut client, request): Prepared) -> Box<dyn FnMut(Request<Full<Bytes>>)> {
    client(request);
    client
}

library_benchmark_group!(name = calls; benchmarks = call);
main!(library_benchmark_groups = calls);
