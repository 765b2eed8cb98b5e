//! [`catch_panic`]: what the user's code does must not undo what is ours.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

/// The future's outcome; `None` if it panicked.
///
/// The panic's message has gone to the panic hook. It is not repeated: nobody vouches that it holds no secret.
pub(crate) async fn catch_panic<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // Unwind safety: after a panic the future is not polled again. What the user's code shares between calls is its
        // own to keep whole, as with any panic in a task.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => None.into(),
        }
    })
    .await
}
