//! [`Seen`]: an answer's body of which several frames were looked at, or an end that is no plain one.

use std::collections::VecDeque;
use std::iter;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::source::{into_bytes_frame, take_frame};

/// So many empty frames are read before others have their turn: a body of them would be read for ever.
const EMPTY_FRAMES_AT_ONCE: usize = 256;

/// Any that is not one frame and nothing else.
pub(super) struct Seen<B: Body> {
    /// The first frame taken off and not yet handed on; empty if there is none.
    first: Bytes,
    /// Those behind it.
    pub(super) queue: VecDeque<Bytes>,
    /// All of these in one piece, if they are more than one: at most the inspect limit is copied.
    pub(super) joined: Vec<u8>,
    /// Bytes seen while peeking.
    pub(super) len: usize,
    /// What was seen after them and is no data: trailers, or the error that it failed with.
    tail: Option<Result<Frame<Bytes>, B::Error>>,
    /// `None` once it was read to its end, so that its connection is released at once.
    pub(super) rest: Option<B>,
}

impl<B: Body> Seen<B> {
    /// The first frame of a body, and the rest of it.
    pub(super) fn new(first: Bytes, rest: B) -> Self {
        let (len, queue, joined) = (first.len(), VecDeque::new(), Vec::new());
        Self { first, queue, joined, len, tail: None, rest: Some(rest) }
    }

    /// Whether it was seen to its end, and the connection behind it is free.
    pub(super) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// Whether it ended in an error, which is not yet handed on.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.tail, Some(Err(_)))
    }

    /// Whether this is all of the data, up to an end that was seen.
    pub(super) fn is_all_of(&self, prefix: &[u8]) -> bool {
        self.is_whole() && prefix.len() == self.len && !self.has_failed()
    }

    /// What was seen, in one piece; what is beyond the limit may be left out.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.first } else { &self.joined }
    }

    /// The content, if it is one frame and nothing else.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        let is_whole = self.is_whole() && self.queue.is_empty() && self.tail.is_none();
        is_whole.then(|| mem::take(&mut self.first))
    }

    pub(super) fn keep(&mut self, frame: Result<Frame<Bytes>, B::Error>, limit: usize) {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => self.keep_data(data, limit),
            Ok(Err(other)) => {
                // Nothing may follow trailers (RFC 9110, 6.5); something may follow a frame of a kind that
                // nobody has thought of yet.
                if other.is_trailers() {
                    self.rest = None;
                }
                self.tail = Some(Ok(other));
            }
            Err(error) => {
                self.rest = None;
                self.tail = Some(Err(error));
            }
        }
    }

    fn keep_data(&mut self, data: Bytes, limit: usize) {
        if data.is_empty() {
            return;
        }
        self.len = self.len.saturating_add(data.len());
        if self.first.is_empty() {
            // Nobody looks once something was handed on.
            debug_assert!(self.queue.is_empty(), "the first frame comes first");
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first[..self.first.len().min(limit)]);
        }
        let room = limit.saturating_sub(self.joined.len());
        self.joined.extend_from_slice(&data[..data.len().min(room)]);
        self.queue.push_back(data);
    }

    /// The next frame that is held here.
    pub(super) fn pop(&mut self) -> Option<Result<Frame<Bytes>, B::Error>> {
        self.joined = Vec::new();
        let data = take_frame(&mut self.first).or_else(|| self.queue.pop_front().map(Frame::data));
        if data.is_none() {
            // Its memory goes: what is still to come may take long.
            self.queue = VecDeque::new();
        }
        data.map(Ok).or_else(|| self.tail.take())
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let is_none_held = self.first.is_empty() && self.queue.is_empty() && self.tail.is_none();
        is_none_held && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let held = iter::once(&self.first).chain(&self.queue).map(|data| data.len() as u64).sum();
        match (&self.rest, &self.tail) {
            (Some(rest), _) => rest.size_hint() + SizeHint::with_exact(held),
            // How much the failed body still had to come is not known.
            (None, Some(Err(_))) => {
                let mut hint = SizeHint::new();
                hint.set_lower(held);
                hint
            }
            (None, _) => SizeHint::with_exact(held),
        }
    }
}

impl<B: Body + Unpin> Seen<B> {
    /// Reads on, until `limit` bytes have been seen, or the end, or an error.
    pub(super) fn poll_peek(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<()> {
        let mut empty_frames = 0;
        while let Some(rest) = &mut self.rest {
            if rest.is_end_stream() {
                self.rest = None;
                break;
            }
            if self.len >= limit || self.tail.is_some() {
                break;
            }
            if empty_frames == EMPTY_FRAMES_AT_ONCE {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = self.len;
            match ready!(Pin::new(rest).poll_frame(cx)) {
                None => self.rest = None,
                Some(frame) => self.keep(frame.map(into_bytes_frame), limit),
            }
            empty_frames += usize::from(self.len == before);
        }
        Poll::Ready(())
    }
}
