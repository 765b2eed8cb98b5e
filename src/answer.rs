//! [`Answer`]: a response while it is inspected, and drained.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Response, response};
use http_body::Body;
use tokio::runtime::{self, Handle};
use tokio::time::{Sleep, sleep};

use crate::body::PeekBody;
use crate::classify::{BodyPrefix, Decision};
use crate::outcome::Verdict;
use crate::policy::Policy;

/// How long a rejected answer that is slow to come is read on, so that its connection can be used again.
/// A new connection costs about as much; waiting longer than that gains nothing.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// A response whose body may have been looked at.
pub(crate) struct Answer<RB: Body> {
    pub(crate) head: response::Parts,
    pub(crate) body: PeekBody<RB>,
}

/// How far the inspection of an answer has come.
#[derive(Default)]
pub(crate) struct Inspection {
    /// How many bytes the classifier has seen.
    asked_at: usize,
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

    /// The verdict on an answer whose body cannot be inspected.
    pub(crate) fn judge_by_head(&self, policy: &Policy, decision: Decision) -> Verdict {
        let decision = match decision {
            Decision::Inspect => policy.classifier.body(&self.head, BodyPrefix::cut(b"")),
            decided => decided,
        };
        verdict(decision, true)
    }
}

impl<RB: Body + Unpin> Answer<RB> {
    /// Reads and asks until there is a decision. It ends with the body, at the inspect limit, or when the classifier's
    /// patience is over, whatever length was announced.
    ///
    /// The classifier is asked when no more has arrived, rather than at every frame: a body that comes byte
    /// by byte is not searched once a byte.
    pub(crate) fn poll_verdict(
        &mut self,
        cx: &mut Context<'_>,
        policy: &Policy,
        inspection: &mut Inspection,
    ) -> Poll<Verdict> {
        let is_read = self.body.poll_peek(cx, policy.inspect_limit).is_ready();
        let bytes = self.body.prefix(policy.inspect_limit);
        let ask = |prefix| policy.classifier.body(&self.head, prefix);
        if self.body.is_all_of(bytes) {
            return Poll::Ready(verdict(ask(BodyPrefix::complete(bytes)), true));
        }
        if is_read && !self.body.has_failed() {
            return Poll::Ready(verdict(ask(BodyPrefix::cut(bytes)), true));
        }
        // The body has failed, or more is to come. A code that has arrived decides, whatever follows it.
        if bytes.len() > inspection.asked_at {
            inspection.asked_at = bytes.len();
            match ask(BodyPrefix::partial(bytes)) {
                Decision::Inspect => {}
                decided => return Poll::Ready(verdict(decided, true)),
            }
        }
        if !is_read {
            ready!(poll_patience(&mut inspection.patience, policy.classifier.patience(), cx));
        }
        // A body that failed, or is slow, is no proof that the request was served: its code may have been still to come.
        Poll::Ready(verdict(ask(BodyPrefix::cut(bytes)), false))
    }
}

/// Turns the last decision into a verdict. Without `is_proof`, an acceptance is inconclusive.
fn verdict(decision: Decision, is_proof: bool) -> Verdict {
    match decision {
        Decision::Accept if is_proof => Verdict::Accepted,
        Decision::Reject(rejection) => Verdict::Rejected(rejection),
        Decision::Accept | Decision::Inconclusive | Decision::Inspect => Verdict::Inconclusive,
    }
}

/// Reads a rejected answer on, so that its connection can be used again: until its end, the limit, or the end
/// of our patience.
pub(crate) fn poll_drain<RB: Body + Unpin>(
    body: &mut PeekBody<RB>,
    patience: &mut Patience,
    limit: usize,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if body.poll_peek(cx, limit).is_ready() {
        return Poll::Ready(());
    }
    poll_patience(patience, DRAIN_PATIENCE, cx)
}

/// A wait that begins when it is first polled.
pub(crate) type Patience = Option<Pin<Box<Sleep>>>;

/// Without a timer there is no wait: it is over at once.
fn poll_patience(patience: &mut Patience, time: Duration, cx: &mut Context<'_>) -> Poll<()> {
    if patience.is_none() {
        *patience = start_timer(time);
    }
    match patience {
        Some(sleep) => sleep.as_mut().poll(cx),
        None => Poll::Ready(()),
    }
}

thread_local! {
    /// The last few runtimes on this thread that were found to have no timer.
    static WITHOUT_TIMER: Cell<[Option<runtime::Id>; 4]> = const { Cell::new([None; 4]) };
}

/// `None` outside of a tokio runtime, and in one whose timer is not enabled.
fn start_timer(time: Duration) -> Option<Pin<Box<Sleep>>> {
    let runtime = Handle::try_current().ok()?.id();
    let mut known = WITHOUT_TIMER.get();
    if known.contains(&Some(runtime)) {
        return None;
    }
    // Tokio panics where its timer is not enabled, and tells it in no other way.
    let started = catch_unwind(AssertUnwindSafe(|| Box::pin(sleep(time)))).ok();
    if started.is_none() {
        known.rotate_right(1);
        known[0] = Some(runtime);
        WITHOUT_TIMER.set(known);
    }
    started
}
