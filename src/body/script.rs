//! [`Script`]: a body for tests, which does as it is told.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

pub(super) type Step = Poll<Result<Frame<Bytes>, io::Error>>;

/// Yields these, then ends. It says its length if that is known.
pub(super) struct Script {
    pub(super) steps: VecDeque<Step>,
    pub(super) length: Option<u64>,
}

impl Script {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), length: None }
    }

    pub(super) fn with_length(mut self) -> Self {
        let data = self.steps.iter().filter_map(|step| match step {
            Poll::Ready(Ok(frame)) => frame.data_ref(),
            _ => None,
        });
        self.length = Some(data.map(|data| data.len() as u64).sum());
        self
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.steps.pop_front() {
            Some(Poll::Ready(step)) => {
                if let (Ok(frame), Some(length)) = (&step, &mut self.length) {
                    *length -= frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(Some(step))
            }
            Some(Poll::Pending) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(super) fn data(text: &'static str) -> Step {
    Poll::Ready(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
}
