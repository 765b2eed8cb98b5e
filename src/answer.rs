//! [`Answer`]: a response while it is looked at, and read on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Response, response};
use http_body::Body;
use tokio::time::{Sleep, sleep};

use crate::body::PeekBody;
use crate::classify::Decision;
use crate::policy::Policy;

/// How long an answer of unknown length is looked at. A stream that is not marked as one must not keep its head
/// from the caller; an answer that is only slow has begun by then.
const PEEK_PATIENCE: Duration = Duration::from_secs(1);

/// How long a refused answer that is slow to come is read on, so that its connection can be used again.
/// A new connection costs about as much; waiting longer than that gains nothing.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// A response whose body may have been looked at.
pub(crate) struct Answer<RB: Body> {
    pub(crate) head: response::Parts,
    pub(crate) body: PeekBody<RB>,
}

/// How far the look at an answer has come.
#[derive(Default)]
pub(crate) struct Peeking {
    /// How much the classifier has seen, and whether it was told that this is all.
    asked_at: (usize, bool),
    patience: Patience,
}

impl<RB: Body> Answer<RB> {
    pub(crate) fn new(response: Response<RB>) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body: PeekBody::new(body) }
    }

    pub(crate) fn into_response(self) -> Response<PeekBody<RB>> {
        Response::from_parts(self.head, self.body)
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
        peeking: &mut Peeking,
    ) -> Poll<Decision> {
        let progress = self.body.poll_peek(cx, policy.inspect_limit).map(|()| Decision::Inspect);
        let prefix = self.body.prefix(policy.inspect_limit);
        let is_whole = self.body.is_all_of(prefix);
        if !prefix.is_empty() && (prefix.len(), is_whole) != peeking.asked_at {
            peeking.asked_at = (prefix.len(), is_whole);
            let decision = if is_whole {
                policy.classifier.whole(&self.head, prefix)
            } else {
                policy.classifier.body(&self.head, prefix)
            };
            match decision {
                Decision::Inspect => {}
                decided => return Poll::Ready(decided),
            }
        }
        if progress.is_pending() && self.body.size_hint().exact().is_none() && has_timer(&peeking.patience) {
            ready!(poll_patience(&mut peeking.patience, PEEK_PATIENCE, cx));
            return Poll::Ready(Decision::Inspect);
        }
        progress
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
    // Without a timer, in another executor, there is nothing to trust in, so no wait.
    if body.poll_peek(cx, limit).is_ready() || !has_timer(patience) {
        return Poll::Ready(());
    }
    poll_patience(patience, DRAIN_PATIENCE, cx)
}

/// Waits as it is told when it is first asked.
type Patience = Option<Pin<Box<Sleep>>>;

fn has_timer(patience: &Patience) -> bool {
    patience.is_some() || tokio::runtime::Handle::try_current().is_ok()
}

fn poll_patience(patience: &mut Patience, time: Duration, cx: &mut Context<'_>) -> Poll<()> {
    patience.get_or_insert_with(|| Box::pin(sleep(time))).as_mut().poll(cx)
}
