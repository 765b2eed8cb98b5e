//! A streaming body: read to its end once, and read to its end twice.

mod common;

use std::convert::Infallible;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use futures::executor::block_on;
use futures::stream::{self, Iter};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use shared_http_body::SharedBodyExt;
use tower_credential_fallback::ReplayBody;

const FRAME: usize = 4 * 1024;

type Stream = StreamBody<Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn body(frames: usize) -> Stream {
    let data = Bytes::from(vec![1; FRAME]);
    let frames: Vec<_> = (0..frames).map(|_| Ok(Frame::data(data.clone()))).collect();
    StreamBody::new(stream::iter(frames))
}

fn read<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    while let Some(Ok(frame)) = block_on(body.frame()) {
        std::hint::black_box(frame);
    }
}

fn replay(criterion: &mut Criterion) {
    for frames in [1, 16, 1_000] {
        let mut group = criterion.benchmark_group(format!("replay/{frames} frames"));
        group.throughput(Throughput::Bytes((frames * FRAME) as u64));
        let mut bench = |name: &str, work: fn(Stream)| {
            group.bench_function(name, |bencher| {
                bencher.iter_batched(|| body(frames), work, BatchSize::SmallInput)
            });
        };
        bench("once: bare", read);
        bench("once: ours, accepted at once", |body| {
            let (body, rewind) = ReplayBody::new(body).rewindable(usize::MAX);
            rewind.release();
            read(body);
        });
        bench("once: ours, kept", |body| {
            let (body, rewind) = ReplayBody::new(body).rewindable(usize::MAX);
            read(body);
            drop(rewind);
        });
        bench("once: shared_http_body", |body| {
            let body = body.into_shared();
            let kept = body.clone();
            read(body);
            drop(kept);
        });
        bench("twice: ours", |body| {
            let (body, rewind) = ReplayBody::new(body).rewindable(usize::MAX);
            read(body);
            read(rewind.rewind().expect("within the limit"));
        });
        bench("twice: shared_http_body", |body| {
            let body = body.into_shared();
            let kept = body.clone();
            read(body);
            read(kept);
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = common::criterion();
    replay(&mut criterion);
    criterion.final_summary();
}
