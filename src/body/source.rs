//! [`Source`]: what is still to come of a body, some of which may have been read before.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::kept::Kept;
use crate::error::BoxError;

/// First what was read before, then the rest of the body.
pub(super) struct Source<B> {
    before: Kept,
    /// The one frame, or error, that was read to see what kind of body this is.
    ahead: Option<Result<Frame<Bytes>, BoxError>>,
    /// `None` once it has ended or failed, so that it is never asked again.
    rest: Option<B>,
    /// What is still to come of the length that it said at first, if it said one: what it said counts, so that a
    /// body that ends before that is never taken for a whole one. A body that was sent in chunks is sent in chunks
    /// again, even if its length is known by then: with a content-length, it could have no trailers.
    length: Option<u64>,
    /// Whether its end, or its error, has been told.
    is_told: bool,
}

impl<B> Source<B> {
    /// Nothing is to come but this error.
    pub(super) fn failed(error: BoxError) -> Self {
        Self { before: Kept::default(), ahead: Some(Err(error)), rest: None, length: None, is_told: false }
    }

    /// Puts back what was read of it.
    pub(super) fn put_before(&mut self, mut passed: Kept) {
        self.length = self.length.map(|length| length.saturating_add(passed.len() as u64));
        passed.append(mem::take(&mut self.before));
        self.before = passed;
    }
}

impl<B: Body> Source<B> {
    /// `length` is what it says of itself, or had said before it was polled.
    pub(super) fn new(rest: B, length: Option<u64>) -> Self {
        Self { before: Kept::default(), ahead: None, rest: Some(rest), length, is_told: false }
    }

    /// A body of which the first frame, or error, has been read; `length` is what it had said before.
    pub(super) fn read_ahead(ahead: Result<Frame<Bytes>, BoxError>, rest: B, length: Option<u64>) -> Self {
        // Nothing may follow trailers (RFC 9110, 6.5), nor an error.
        let goes_on = ahead.as_ref().is_ok_and(|frame| !frame.is_trailers());
        Self {
            before: Kept::default(),
            ahead: Some(ahead),
            rest: goes_on.then_some(rest),
            length,
            is_told: false,
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.before.is_empty()
            && self.ahead.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
            && (self.is_told || self.length.is_none_or(|length| length == 0))
    }

    /// Whether it has ended before its length.
    pub(super) fn is_short(&self) -> bool {
        self.rest.is_none() && self.ahead.is_none() && self.length.is_some_and(|length| length > 0)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if let Some(length) = self.length {
            return SizeHint::with_exact(length);
        }
        let ahead = match &self.ahead {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            // How much the failed body still had to come is not known.
            Some(Err(_)) => return SizeHint::default(),
            None => 0,
        };
        // All of it is in memory, and `usize` is no wider than `u64` on any platform of Rust.
        let read = (self.before.len() + ahead) as u64;
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::default();
        hint.set_lower(read.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper().filter(|upper| *upper != rest.lower()) {
            hint.set_upper(read.saturating_add(upper));
        }
        hint
    }
}

impl<B> Source<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.poll_any(cx));
        match &frame {
            Some(Ok(frame)) => {
                let passed = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.length = self.length.map(|length| length.saturating_sub(passed));
            }
            Some(Err(_)) | None => self.is_told = true,
        }
        Poll::Ready(frame)
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.before.pop() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(ahead));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        // Nothing may follow trailers (RFC 9110, 6.5), nor an error.
        if !matches!(&frame, Some(Ok(frame)) if !frame.is_trailers()) {
            self.rest = None;
        }
        Poll::Ready(frame.map(|frame| frame.map(into_bytes_frame).map_err(Into::into)))
    }
}

/// The one frame of content that is all there, if that has not been taken yet.
#[inline]
pub(super) fn take_frame(content: &mut Bytes) -> Option<Frame<Bytes>> {
    let content = mem::take(content);
    (!content.is_empty()).then(|| Frame::data(content))
}

/// A frame whose data is one [`Bytes`].
pub(super) fn into_bytes_frame<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(into_bytes)
}

/// Takes data as one [`Bytes`]. If it is that already, nothing is copied.
pub(super) fn into_bytes<D: Buf>(mut data: D) -> Bytes {
    data.copy_to_bytes(data.remaining())
}
