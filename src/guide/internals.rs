//! One request's way through the layer.
//!
//! ```text
//! request → service ── preference: which slot first? ──────────────┐
//!    │                                                             ▼
//!    │            provider[slot] → credential  → attempt (head frozen, credential put in)
//!    │                                                             ▼
//!    │            body/replay (kept as it passes) ───→ inner service, attempt 1
//!    │                                                             ▼
//!    │            body/peek (bounded) ← classify: Accept ──→ response to caller
//!    │                                   │ Reject
//!    │                                   ▼
//!    │            request body held → refusal read to its end → provider[other]
//!    │                                   ▼
//!    └──────────  request body taken over → attempt 2 → inner service → classify → response
//! ```
//!
//! # The head
//!
//! Before anybody touches it, the head is written into one buffer, which was used by another call before. Most of these
//! are dropped unread, so nothing is allocated, and only a refusal pays for making headers of it again. Attempt 2 starts
//! from that: what inner layers had added to attempt 1 is not in it, and neither is a credential of any kind.
//!
//! # The request's body
//!
//! A body is polled once, before anything is sent. If it is at its end then, all of it is in hand: the same
//! [`Bytes`](bytes::Bytes) are sent twice, and there is nothing more to do.
//!
//! A stream goes into a place that two attempts can reach: the first sends it and keeps what passes, by reference
//! count; the second may take it over. It is a lock, and nobody waits for it: the taker comes once. A hand-over by
//! messages would need no lock, but hyper does not poll a body while its connection takes no more bytes, and a
//! server that refuses early and reads no further is just that case.
//!
//! From the refusal to the decision, the first attempt is *held*: its body is pending. So it cannot pass the limit
//! while a token is minted, and if the other provider has no credential, it is let go on and the refusal stays
//! whole. The refusal is read to its end first: resetting an HTTP/2 stream discards what was not read of its answer.
//!
//! Taken over, the first body fails, and hyper closes the connection (HTTP/1.1) or resets the stream (HTTP/2). The
//! reason of that reset is found among the causes of the error: feature `http2` puts CANCEL there.
//!
//! As soon as an answer is accepted, the body leaves that place for good, and streams on with neither lock nor copy.
//!
//! # The answer
//!
//! A classifier that wants to see the body gets what has arrived so far, again when there is more, up to the
//! inspect limit. It is told whether that is all ([`BodyPrefix`]). The frames are handed on as they came. It may decide
//! before the end, so most answers that pause are not waited for. None is waited for longer than the classifier's
//! [`patience`](Classify::patience), whatever length was announced. Event streams, encoded bodies, `HEAD`, 204, 304 and
//! upgrades are judged by status alone.
//!
//! An acceptance counts as evidence only if the body neither failed nor ran out of patience first: its code may have been
//! still to come.
//!
//! A refusal is read on, so that its connection can be used again: to its end, to the limit, or for 100 ms.
//!
//! # Readiness
//!
//! The service that was polled ready makes attempt 1: at once, or, if its credential has to be waited for, from within the
//! call, which it moves into. Attempt 2 is made by a clone that is made then, and polled ready; most calls need none. An
//! answer that still holds its connection is given up while the inner service is not ready: it may be what that waits for.
//!
//! # The memory
//!
//! A preference changes only on evidence: one slot was rejected for the resource, then the other one served it. An
//! acceptance at once says nothing of the other slot; it only tells where an unknown resource is. An answer that a redirect
//! has led to on another origin says nothing at all. Evidence has a version, so
//! that a slow second attempt does not overwrite what was learnt after it was sent. Hints (the slot that a caller's retry
//! begins with) and cooldowns (a request that both slots were rejected for) belong to one request, expire, and are used
//! or compared where they matter: a cooldown when the second attempt is due, with both credentials known.
//!
//! Resources that the fallback serves are remembered, and those that were learnt to be the primary's. Until something has
//! moved, or a hint waits for its call, no call looks anything up; after that, a look-up is a read lock on one shard of a
//! [quick_cache](https://docs.rs/quick_cache). Keys are 64-bit hashes, keyed at random for each process: a collision
//! costs a replay, never a wrong answer.
//!
//! # The report
//!
//! Atomic counters, and a lock-free set of the hashes of what the primary has answered for. Where a count stood when a minute
//! began is one `u64` with the minute's number, so that a minute turns without a lock, and only its first calls pay for that.
//! What every call counts in is there sixteen times, as are fixed credentials and cached tokens: two cores that write to one
//! place wait for each other, lock or not.
#[cfg(doc)]
use crate::*;
