//! What it costs, with the conditions.
//!
//! All figures are counts, or ratios of one run; times on another machine are other times.
//!
//! # Upstream requests
//!
//! `cargo run --example migration --features simulator` (1,000 bots, each moved there and back while 16 callers keep
//! calling, 24 s each, debug build, two cores, one machine):
//!
//! | | through the layer | two clients and an `if` |
//! | --- | --- | --- |
//! | calls | 65,396 | 51,011 |
//! | failed calls | 0 | 8 |
//! | requests per call, before the move | 1.000 | 1.000 |
//! | … during the move | 1.061 | 1.406 |
//! | … after the move | 1.002 | 1.800 |
//! | … during the move back | 1.063 | 1.323 |
//! | … after the move back | 1.004 | 1.000 |
//! | … all in all | 1.031 | 1.337 |
//!
//! The recipe is given this crate's token cache, and a server that refuses with the one code that it is sure to
//! know. (Its failed calls raced with a move back: refused by the old account, then by the new one. The layer asks
//! the account that answered last, and then the other.) A tenth of the calls are lists and a tenth uploads, which
//! either account accepts.
//!
//! # Uploads
//!
//! `cargo test --all-features --test upload -- --nocapture` (64 MiB from a slow stream, refused at its first
//! bytes by a server that answers before it reads, limit 1 MiB): at most 1.2 MiB of heap more than before the call, in
//! each of hyper and reqwest on HTTP/1.1 and HTTP/2; the first upload was given up 0.3 to 1.2 ms after the refusal
//! had been written.
//!
//! # What a call pays
//!
//! `benches/run` measures everything side by side and writes `benches/README.md`, with the conditions and what each peer
//! does not do. For a call with 4 KiB in memory, 7 headers made at run time and a JSON answer that is inspected, beside
//! the same call with one header set by tower-http's `SetRequestHeaderLayer`:
//!
//! | | ours | `tower::retry`, by status alone | the recipe |
//! | --- | --- | --- | --- |
//! | heap allocations added | 1 | 17 | 36 |
//! | instructions added | 2,684 | 8,161 | 23,683 |
//! | … in the allocator | 183 | 5,692 | 11,438 |
//! | bytes of the body copied | 0 | 0 | 0 |
//!
//! The one allocation is `bytes`' own: a `Bytes` that was made of a `Vec` takes a reference count when it is cloned for
//! the first time. What is spent on: a quarter on freezing the head into a buffer that was used before, a seventh on looking
//! for the code in the answer (with the code before the data, it is 2,504 in all), the rest on moving heads and bodies about
//! and on counting. That is 0.33 of what `tower::retry` adds, where 0.4 is the goal, and 0.11 of what the recipe adds (which
//! includes the decoding of the answer; with the others, that is left to the caller). What the allocator takes depends on
//! what lies where: other builds of the same code had up to 450 there, and 0.40 of `tower::retry`'s. Without the allocator,
//! ours adds as many as `tower::retry`, which does not look into the answer.
//!
//! Times differ too much from run to run to be quoted: about those of `tower::retry`, and less than the recipe's.
//!
//! The one call that is refused and replayed pays for it: 20,322 instructions and 26 allocations more than a bare call that
//! is refused and ends so; `tower::retry`, which has cloned every request before, 10,838 and 21. After it, the resource is
//! asked with the right credential at once, for 3,627 and 3 more.
//!
//! Over loopback, with 16 callers on two cores that they share with the server, the layer keeps 0.96 of the bare hyper
//! client's calls per second (standard error 0.006; 0.97 is the goal), and makes 2.1 times the recipe's after the move. With
//! one credential, set by a layer, and a clone of the body that is kept until the answer comes, it is 0.99 (0.98 after the move):
//! a part of the price is that the body lives longer. In reqwest-middleware, the layer keeps 0.87 of
//! bare reqwest's; reqwest-chain, which does less, 0.92. hyper moves a request more than a dozen times on its way, and an answer
//! some times: with the layer, neither body is larger than without.
//!
//! A cached token is read without a lock and without an allocation, in the same time by 64 tasks as by 1; by a single task,
//! an uncontended `RwLock` would take a fifth of that time. A thousand calls on a cold cache mint once, and none waits 3 ms
//! longer than the mint itself.
//!
//! With an observer, a call pays a box for each observer and clock readings for each attempt.
//!
//! A streaming body pays one allocation for the place that both attempts can reach, one or more for what is kept, and an
//! uncontended lock for each frame until the answer is accepted; then nothing. Kept, a stream of 1,000 frames is read in 0.41
//! of the time that `shared_http_body` takes.
#[cfg(doc)]
use crate::*;
