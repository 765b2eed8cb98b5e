//! Heap allocations of one call, which do not depend on the machine.
#![cfg(feature = "json")]

#[path = "../benches/common/mod.rs"]
mod common;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::{Answer, CASES, Case, Way, request, run};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower_credential_fallback::{AuthProvider, Credential, ReplayBody, TokenCache};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// Blocks and bytes that `work` takes from the heap.
fn allocated<T>(work: impl FnOnce() -> T) -> (u64, u64, T) {
    let before = dhat::HeapStats::get();
    let result = work();
    let after = dhat::HeapStats::get();
    (after.total_blocks - before.total_blocks, after.total_bytes - before.total_bytes, result)
}

/// Of a client that has been used before.
fn of_a_call(way: Way, case: Case) -> (u64, u64) {
    let mut run = run(way, case);
    (0..3).for_each(|_| run(request(case)));
    let request = request(case);
    let (blocks, bytes, ()) = allocated(|| run(request));
    (blocks, bytes)
}

/// One test: the heap is one.
#[test]
fn the_hot_path_keeps_to_its_budget_of_allocations() {
    let _profiler = dhat::Profiler::builder().testing().build();

    println!(
        "{:32} {}",
        "allocations of one call",
        Way::ALL.map(|way| format!("{:>14}", way.name())).concat()
    );
    for case in CASES {
        let counts = Way::ALL.map(|way| of_a_call(way, case));
        println!("{:32} {}", case.name, counts.map(|(blocks, _)| format!("{blocks:>14}")).concat());
        let [bare, ours, ..] = counts;
        if !matches!(case.answer, Answer::Moved | Answer::Refused) {
            assert!(ours.0 <= bare.0 + 1, "{}: {ours:?}, and {bare:?} without the layer", case.name);
        }
    }
    // Bytes of the body copied: none, however large it is.
    let added = |case| of_a_call(Way::Ours, case).1 - of_a_call(Way::Bare, case).1;
    assert_eq!(added(CASES[1]), added(CASES[2]), "4 KiB and 1 MiB cost the same");
    assert!(added(CASES[2]) < 1024);

    a_stream_is_not_copied_either();
    a_cached_token_costs_nothing();
}

fn a_stream_is_not_copied_either() {
    let read = |pieces: usize, is_replayed: bool| {
        let pieces: Vec<_> = (0..pieces).map(|_| Bytes::from(vec![1; 16 * 1024])).collect();
        let clones = pieces.clone();
        let stream =
            futures::stream::iter(pieces.into_iter().map(|data| Ok::<_, std::io::Error>(Frame::data(data))));
        let (_, bytes, ()) = allocated(|| {
            let (first, rewind) = ReplayBody::new(StreamBody::new(stream)).rewindable(64 * 1024 * 1024);
            read_to_end(first);
            if is_replayed {
                read_to_end(rewind.rewind().unwrap());
            }
        });
        drop(clones);
        bytes
    };
    for is_replayed in [false, true] {
        for pieces in [1, 16, 1_000] {
            // 32 bytes to know of each piece, and the queue that holds them doubles.
            let allowed = 2_048 + 3 * 32 * pieces as u64;
            let bytes = read(pieces, is_replayed);
            assert!(bytes <= allowed, "{pieces} pieces: {bytes} bytes");
        }
    }
}

fn read_to_end(mut body: impl http_body::Body<Error: std::fmt::Debug> + Unpin) {
    while let Some(frame) = futures::executor::block_on(body.frame()) {
        frame.unwrap();
    }
}

fn a_cached_token_costs_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cache = TokenCache::new(|| async {
        Ok(Credential::bearer("token").unwrap().with_expiry(SystemTime::now() + Duration::from_secs(3_600)))
    });
    runtime.block_on(cache.get()).unwrap();
    let head = http::Request::new(()).into_parts().0;
    let (blocks, _, credential) = allocated(|| futures::executor::block_on(cache.credential(&head)));
    credential.unwrap();
    assert_eq!(blocks, 0);
}
