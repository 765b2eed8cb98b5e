//! One call, whichever way: see `common`.

mod common;

use common::{CASES, Way, request, run};
use criterion::{BatchSize, Criterion};

fn hot_path(criterion: &mut Criterion) {
    for case in CASES {
        let mut group = criterion.benchmark_group(format!("hot_path/{}", case.name));
        for way in Way::ALL {
            let mut run = run(way, case);
            group.bench_function(way.name(), |bencher| {
                bencher.iter_batched(|| request(case), &mut run, BatchSize::SmallInput);
            });
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = common::criterion();
    hot_path(&mut criterion);
    criterion.final_summary();
}
