//! [`Answer`]: a response while it is looked at, and read on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Response, response};
use http_body::Body;
use tokio::time::{Sleep, sleep};

use crate::body::{PeekBody, Progress};
use crate::classify::Decision;
use crate::policy::Policy;

/// How long a refused answer that is slow to come is read on, so that its connection can be used again.
/// A new connection costs about as much; waiting longer than that gains nothing.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// A response whose body may have been looked at.
pub(crate) struct Answer<RB: Body> {
    pub(crate) head: response::Parts,
    pub(crate) body: PeekBody<RB>,
}

impl<RB: Body> Answer<RB> {
    pub(crate) fn new(response: Response<RB>) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body: PeekBody::new(body) }
    }
}

impl<RB: Body + Unpin> Answer<RB> {
    /// Reads and asks until there is a decision, or nothing more to look at (`Inspect`).
    ///
    /// The classifier is asked when no more is at hand, rather than at every frame: a body that comes byte
    /// by byte is not searched once a byte, and one that pauses is not waited for without need.
    pub(crate) fn poll_decision(
        &mut self,
        cx: &mut Context<'_>,
        policy: &Policy,
        asked_at: &mut usize,
    ) -> Poll<Decision> {
        let progress = loop {
            match self.body.poll_peek(cx, policy.inspect_limit) {
                Poll::Ready(Progress::More) => {}
                Poll::Ready(Progress::Done) => break Poll::Ready(Decision::Inspect),
                Poll::Pending => break Poll::Pending,
            }
        };
        let prefix = self.body.prefix(policy.inspect_limit);
        if prefix.len() == *asked_at {
            return progress;
        }
        *asked_at = prefix.len();
        match policy.classifier.body(&self.head, prefix) {
            Decision::Inspect => progress,
            decided => Poll::Ready(decided),
        }
    }
}

/// Reads a refused answer on, so that its connection can be used again: until its end, the limit, or the end
/// of our patience.
pub(crate) fn poll_drain<RB: Body + Unpin>(
    body: &mut PeekBody<RB>,
    patience: &mut Option<Pin<Box<Sleep>>>,
    limit: usize,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while let Poll::Ready(progress) = body.poll_peek(cx, limit) {
        if progress == Progress::Done {
            return Poll::Ready(());
        }
    }
    if patience.is_none() && tokio::runtime::Handle::try_current().is_err() {
        // Another executor: no timer to trust in, so no wait.
        return Poll::Ready(());
    }
    patience.get_or_insert_with(|| Box::pin(sleep(DRAIN_PATIENCE))).as_mut().poll(cx)
}
