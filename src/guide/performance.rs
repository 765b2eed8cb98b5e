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
//! | calls | 65,919 | 51,623 |
//! | failed calls | 0 | 8 |
//! | requests per call, before the move | 1.000 | 1.000 |
//! | … during the move | 1.061 | 1.403 |
//! | … after the move | 1.001 | 1.800 |
//! | … during the move back | 1.062 | 1.318 |
//! | … after the move back | 1.004 | 1.000 |
//! | … all in all | 1.030 | 1.335 |
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
//! By construction, for a request whose body is in memory and whose first credential is accepted: one buffer for the
//! frozen head, no copy of the body, no lock unless something has moved, a handful of relaxed atomic additions,
//! one reading of the clock. With an observer: a box for each observer, and clock readings for each attempt.
//!
//! A streaming body pays one allocation for the place that both attempts can reach, one for what is kept, and an
//! uncontended lock for each frame until the answer is accepted; then nothing.
#[cfg(doc)]
use crate::*;
