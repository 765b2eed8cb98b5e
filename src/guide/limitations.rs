//! What it cannot do, and what to do about it.
//!
//! **Requests**
//!
//! - At most two attempts. For retries of overloads and broken connections, put a retry layer around or inside.
//! - A stream that was refused after more than
//!   [`with_replay_limit`](CredentialFallbackLayer::with_replay_limit) had been sent is not replayed. The caller's own
//!   retry (same method, URI, headers, resource and user) begins with the other credential. Raise the limit, or buffer the body.
//! - An HTTP/1.1 server that refuses an upload and closes the connection at once may be seen as a broken
//!   connection, if the upload is in full flow: hyper may fail to write before it reads the answer. That is an error
//!   of the transport, and never a reason for the other credential.
//! - A server that refuses an upload, reads nothing more and keeps the connection open keeps it open. On HTTP/1.1 the
//!   second attempt is sent on another connection and not held up. On HTTP/2 it shares the first one's connection: if the
//!   first upload has used up the connection's window, the second waits until the server reads on or drops the first. Put
//!   a timeout around the layer.
//! - What is kept of a stream may hold on to more memory than the limit says: a slice keeps the buffer that it was cut
//!   from. Sources that cut small pieces from large buffers should copy them.
//! - Bodies have to be `Unpin`, in both directions. Box those that are not.
//! - The second attempt is made by a clone of the inner service: what clones of it do not share, that attempt does not have.
//! - A `CONNECT` in authority form is spoken to a proxy, and gets no credential.
//!
//! **Answers**
//!
//! - What is behind the inspect limit (8 KiB by default) is not seen. A code after a large `data` needs a larger
//!   [`with_inspect_limit`](CredentialFallbackLayer::with_inspect_limit).
//! - Content-encoded answers are judged by their status: put decompression inside the layer.
//! - A rate limit or another failure that is told with 200 and a body is an acceptance for [`StatusClassifier`]. Say
//!   [`Decision::Inconclusive`] in a classifier of your own; `JsonCodeClassifier` does, for every code that is not listed.
//! - An answer that stalls before its code has come is passed on when [`Classify::patience`] is over. A rejection that comes
//!   after that is not seen. Such an answer teaches nothing, so a resource that always answers like this costs its
//!   rejection each time.
//! - A resource that moves between a call's two attempts may reject both. Most likely that is one that was never seen, in the
//!   middle of a migration. The caller's retry is served once the cooldown is over.
//! - In a Tokio runtime without its timer, and in other executors, nothing is waited for: the answer is judged by what is
//!   there. Tokio tells that its timer is missing by a panic, which is caught once for each runtime and thread; the panic
//!   hook sees it, and with `panic = "abort"` the process ends. Enable the timer there.
//! - A refusal inside of an event stream (an `error` event after a 200) is not seen.
//!
//! **Credentials**
//!
//! - URIs in origin form (`/path`) name no host, so neither the plaintext guard nor
//!   [`with_origins`](CredentialFallbackLayer::with_origins) can vouch for them: the guard lets them pass, the list does
//!   not.
//! - Redirects that an inner layer follows are known only if it says so: tower-http's with feature
//!   `follow-redirect` (0.6 or 0.7, but not one inside of another of the same version: the outer overwrites what the inner
//!   says), reqwest's through the module `reqwest`, any other by [`FinalUri`]. Custom credential headers follow a redirect
//!   wherever the follower takes them.
//! - If the providers use different headers and are not fixed, the caller's own value under the other one's header
//!   goes out with attempt 1.
//! - Heads of requests are kept in memory that is used again, a few for each thread: heads of a call that is over stay
//!   there until another call's are written over them. If a header was marked sensitive, all of the head is overwritten: at
//!   the second attempt, or when the call ends. A dump of the process shows the rest.
//! - A user's refresh that is cut off by the death of its process costs that user a new login: see the guide's page on
//!   tokens on a user's behalf. So does a Redis that loses writes.
//!
//! **Resources**
//!
//! - What a streaming body names is not seen: such a request has no resource, unless its URI names one.
//! - The memory holds 10,000 moved resources, and is lost with the process, unless
//!   [shared](SharedPreferences): each costs one replay again. What is left behind is never shared.
//! - The report counts some 10,000 resources that have not moved; beyond that, it says that there are more.
#[cfg(doc)]
use crate::*;
