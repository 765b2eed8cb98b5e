//! [`Tee`]: a streaming body on its way to the first attempt, in a place from which the second can take it.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::kept::Kept;
use super::source::Source;
use crate::error::BoxError;

/// The body belongs to whoever holds the lock, which is one attempt at a time: nobody ever waits for it, but
/// for a take-over that comes while the first attempt reads a frame.
///
/// Handing the body over by the first attempt's own doing would need no lock. But an attempt whose connection
/// takes no more bytes does not look at its body again, so it would never hear that it is to let go.
pub(super) struct Tee<B> {
    source: Option<Box<Source<B>>>,
    kept: Kept,
    /// Bytes.
    limit: usize,
    state: State,
    /// Of the task that sends the first attempt, while that waits.
    sender: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// What passes is kept.
    Keeping,
    /// Nothing passes until it is known who goes on.
    Held,
    /// Nothing is kept any more: the first attempt goes on alone.
    LetGo(Option<CannotRewind>),
    /// The second attempt goes on; the first has been told if there was anything left to send.
    Taken,
}

/// Why a body cannot be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CannotRewind {
    /// More of it has passed than the limit allows to keep.
    TooLarge,
    /// It failed, or panicked, while it was sent: there is nothing whole to send.
    Failed,
    /// Another [`Rewind`](crate::Rewind) takes it over, or has done so.
    AlreadyRewindable,
    /// A frame has passed that is neither data nor trailers, and so could not be kept.
    UnknownFrame,
}

impl fmt::Display for CannotRewind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "more of the body has been sent than is kept",
            Self::Failed => "the body failed while it was sent",
            Self::AlreadyRewindable => "the body is somebody else's to take over",
            Self::UnknownFrame => "the body has a frame that is neither data nor trailers",
        })
    }
}

impl std::error::Error for CannotRewind {}

/// The first attempt's end of a [`Tee`].
pub(super) struct Sender<B> {
    tee: Arc<Mutex<Tee<B>>>,
    /// Kept here since it is asked after every frame, and nobody else changes it.
    is_end_stream: bool,
}

/// What the first attempt gets when it asks for a frame.
pub(super) enum Passed<B> {
    Frame(Poll<Option<Result<Frame<Bytes>, BoxError>>>),
    /// The body is the first attempt's alone from now on.
    LetGo(Box<Source<B>>),
    Taken,
}

/// The other end: it can take the body back.
pub(super) struct Taker<B>(Arc<Mutex<Tee<B>>>);

pub(super) fn tee<B: Body>(source: Box<Source<B>>, limit: usize) -> (Sender<B>, Taker<B>) {
    let is_end_stream = source.is_end_stream();
    let tee = Tee { source: Some(source), kept: Kept::default(), limit, state: State::Keeping, sender: None };
    let tee = Arc::new(Mutex::new(tee));
    (Sender { tee: Arc::clone(&tee), is_end_stream }, Taker(tee))
}

fn lock<B>(tee: &Mutex<Tee<B>>) -> MutexGuard<'_, Tee<B>> {
    tee.lock().unwrap_or_else(|poisoned| {
        // The body panicked when it was polled. What is left of it is not to be trusted.
        tee.clear_poison();
        let mut tee = poisoned.into_inner();
        tee.let_go(Some(CannotRewind::Failed));
        tee.source = Some(Box::new(Source::failed("the request's body panicked".into())));
        tee
    })
}

impl<B> Tee<B> {
    fn let_go(&mut self, because: Option<CannotRewind>) {
        self.kept = Kept::default();
        self.state = State::LetGo(because);
    }

    fn hold(&mut self) -> Result<(), CannotRewind> {
        match self.state {
            State::Keeping => self.state = State::Held,
            State::LetGo(Some(because)) => return Err(because),
            // Only the taker brings these about, and but for `Held` that is its end.
            State::Held | State::LetGo(None) | State::Taken => {}
        }
        Ok(())
    }
}

impl<B> Tee<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_keeping(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let polled = source.poll_frame(cx);
        let is_short = source.is_short();
        match &polled {
            Poll::Pending => self.wait(cx),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    if data.len() > self.limit - self.kept.len() {
                        self.let_go(Some(CannotRewind::TooLarge));
                    } else {
                        self.kept.push(data.clone());
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.kept.push_trailers(trailers.clone());
                } else {
                    self.let_go(Some(CannotRewind::UnknownFrame));
                }
            }
            Poll::Ready(Some(Err(_))) => self.let_go(Some(CannotRewind::Failed)),
            Poll::Ready(None) => {}
        }
        if is_short && self.state == State::Keeping {
            // Whoever sends it fails; it must not be sent again as a whole one.
            self.let_go(Some(CannotRewind::Failed));
        }
        polled
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.sender {
            Some(sender) => sender.clone_from(cx.waker()),
            None => self.sender = Some(cx.waker().clone()),
        }
    }
}

impl<B> Sender<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Passed<B> {
        let mut tee = lock(&self.tee);
        match tee.state {
            State::Keeping => {
                let polled = tee.poll_keeping(cx);
                self.is_end_stream = tee.source.as_deref().is_none_or(Source::is_end_stream);
                Passed::Frame(polled)
            }
            State::Held => {
                tee.wait(cx);
                Passed::Frame(Poll::Pending)
            }
            State::LetGo(_) => tee.source.take().map_or(Passed::Taken, Passed::LetGo),
            State::Taken => Passed::Taken,
        }
    }
}

impl<B: Body> Sender<B> {
    pub(super) fn is_end_stream(&self) -> bool {
        self.is_end_stream
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        lock(&self.tee).source.as_deref().map_or_else(SizeHint::default, Source::size_hint)
    }
}

impl<B> Taker<B> {
    pub(super) fn hold(&self) -> Result<(), CannotRewind> {
        lock(&self.0).hold()
    }

    /// All of the body: what has passed, and what is to come.
    pub(super) fn take(self) -> Result<Box<Source<B>>, CannotRewind> {
        let mut tee = lock(&self.0);
        tee.hold()?;
        let passed = mem::take(&mut tee.kept);
        let source = tee.source.take();
        hand_over(tee, State::Taken);
        let mut source = source.ok_or(CannotRewind::Failed)?;
        source.put_before(passed);
        Ok(source)
    }

    /// Lets the first attempt go on alone.
    pub(super) fn release(self) {
        let mut tee = lock(&self.0);
        if matches!(tee.state, State::Keeping | State::Held) {
            tee.kept = Kept::default();
            hand_over(tee, State::LetGo(None));
        }
    }
}

impl<B> Drop for Taker<B> {
    /// Nobody is going to send it again. An attempt that was held for that has been given up with it.
    fn drop(&mut self) {
        let mut tee = lock(&self.0);
        match tee.state {
            State::Keeping => tee.let_go(None),
            State::Held => {
                // Dropped once the lock is free: what a body does then is its own affair.
                let _given_up = (tee.source.take(), mem::take(&mut tee.kept));
                hand_over(tee, State::Taken);
            }
            State::LetGo(_) | State::Taken => {}
        }
    }
}

/// Changes the state and wakes the first attempt, which may have been waiting for that.
fn hand_over<B>(mut tee: MutexGuard<'_, Tee<B>>, state: State) {
    tee.state = state;
    let sender = tee.sender.take();
    drop(tee);
    if let Some(sender) = sender {
        sender.wake();
    }
}
