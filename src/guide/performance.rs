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
//! | calls | 60,210 | 49,840 |
//! | failed calls | 0 | 3 |
//! | requests per call, before the move | 1.000 | 1.000 |
//! | … during the move | 1.113 | 1.365 |
//! | … after the move | 1.000 | 1.667 |
//! | … during the move back | 1.117 | 1.268 |
//! | … after the move back | 1.000 | 1.000 |
//! | … all in all | 1.055 | 1.288 |
//!
//! The recipe is given this crate's token cache, and a server that refuses with the one code that it is sure to
//! know. (Its failed calls raced with a move back: refused by the old account, then by the new one. The layer asks
//! the account that answered last, and then the other.) Lists and uploads are accepted by either account. Conversations and
//! chats are created and polled. Each bot is asked once before it moves, and once when the move is over: what stands behind
//! "after" is the cost from the second call on.
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
//! | instructions added | 3,149 | 8,287 | 24,309 |
//! | … in the allocator | 119 | 5,818 | 12,056 |
//! | bytes of the body copied | 0 | 0 | 0 |
//!
//! The one allocation is `bytes`' own: a `Bytes` that was made of a `Vec` takes a reference count when it is cloned for
//! the first time. What is spent on: a fifth on freezing the head into a buffer that was used before, a quarter on looking
//! for the code in the answer (with the code before the data, it is 2,893 in all), the rest on moving heads and bodies about
//! and on counting. That is 0.38 of what `tower::retry` adds, where 0.4 is the goal, and 0.13 of what the recipe adds (which
//! includes the decoding of the answer; with the others, that is left to the caller). What the allocator takes depends on
//! what lies where: other builds of nearly the same code had some 400 more there, and 0.43 of `tower::retry`'s. Without the
//! allocator, ours adds 23 % more than `tower::retry`, which does not look into the answer.
//!
//! The code of an answer is looked for in two ways. If every code in it, at whatever level, is a success code, its structure
//! does not matter: a search finds that out. Else it is read from its front. Reading alone takes 1,324 instructions for
//! that answer, and 19,415 for a list of 4 KiB with the code behind it.
//!
//! Times differ too much from run to run to be quoted: about those of `tower::retry`, and less than the recipe's.
//!
//! The one call that is refused and replayed pays for it: 22,292 instructions and 20 allocations more than a bare call that
//! is refused and ends so; `tower::retry`, which has cloned every request before, 11,033 and 21. After it, the resource is
//! asked with the right credential at once, for 4,332 and 3 more.
//!
//! Over loopback, with 16 callers on two cores that they share with the server, the layer keeps 0.96 of the bare hyper
//! client's calls per second (standard error 0.003; 0.97 is the goal), and makes 2.2 times the recipe's after the move. With
//! one credential, set by a layer, and a clone of the body that is kept until the answer comes, it is 0.99:
//! a part of the price is that the body lives longer. In reqwest-middleware, the layer keeps 0.86 of
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
//! uncontended lock for each frame until the answer is accepted; then nothing. Kept, a stream of 1,000 frames is read in 0.40
//! of the time that `shared_http_body` takes.
#[cfg(doc)]
use crate::*;
