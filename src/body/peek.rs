//! [`PeekBody`]: a response's body whose first bytes have been looked at.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::source::{into_bytes, into_bytes_frame};

/// The response body that the caller gets.
///
/// If the layer looked at the answer, the frames it saw are handed on first, as they came; then comes the
/// rest, or the error that ended it. If it did not look, this is the inner body and nothing more.
pub struct PeekBody<B: Body> {
    /// The first frame taken off and not yet handed on. Most answers that are looked at are one frame.
    first: Option<Bytes>,
    more: Option<Box<More>>,
    /// Bytes seen while peeking.
    seen: usize,
    /// What was seen after them and is no data: trailers, or the error that it failed with.
    tail: Option<Box<Result<Frame<Bytes>, B::Error>>>,
    /// `None` once it was read to its end, so that its connection is released at once.
    rest: Option<B>,
}

/// What came after the first frame.
#[derive(Default)]
struct More {
    /// Frames taken off and not yet handed on.
    queue: VecDeque<Bytes>,
    /// The first and these in one piece: at most the inspect limit is copied.
    joined: Vec<u8>,
}

/// Nothing in here is pinned in place: the inner body is `Unpin`, and an error is only ever moved.
impl<B: Body + Unpin> Unpin for PeekBody<B> {}

impl<B: Body> PeekBody<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { first: None, more: None, seen: 0, tail: None, rest: Some(body) }
    }

    /// Whether all of it is held here and the connection behind it is free.
    pub(crate) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// Whether this [`prefix`](Self::prefix) is all of the data, up to an end that was seen.
    pub(crate) fn is_all_of(&self, prefix: &[u8]) -> bool {
        self.is_whole() && prefix.len() == self.seen && !matches!(self.tail.as_deref(), Some(Err(_)))
    }

    /// The inner body, if nothing of it is held here.
    #[cfg(feature = "reqwest")]
    pub(crate) fn take_untouched(&mut self) -> Option<B> {
        let is_touched = self.first.is_some() || self.more.is_some() || self.tail.is_some();
        self.rest.take_if(|_| !is_touched)
    }

    /// The first bytes, `limit` at the most.
    pub(crate) fn prefix(&self, limit: usize) -> &[u8] {
        let seen = match (&self.more, &self.first) {
            (Some(more), _) => &more.joined[..],
            (None, Some(first)) => &first[..],
            (None, None) => &[],
        };
        &seen[..seen.len().min(limit)]
    }
}

impl<B: Body + Unpin> PeekBody<B> {
    /// Reads on, to be looked at, until `limit` bytes have been seen, or the end, or an error.
    pub(crate) fn poll_peek(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<()> {
        while let Some(rest) = &mut self.rest {
            // Not asked where the end is known already: a poll behind it costs a trip to the connection task.
            if rest.is_end_stream() {
                self.rest = None;
                break;
            }
            if self.seen >= limit || self.tail.is_some() {
                break;
            }
            match ready!(Pin::new(rest).poll_frame(cx)) {
                None => self.rest = None,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.keep(into_bytes(data), limit),
                    Err(other) => {
                        // Nothing may follow trailers (RFC 9110, 6.5); something may follow a frame of a kind that
                        // nobody has thought of yet.
                        if other.is_trailers() {
                            self.rest = None;
                        }
                        self.tail = Some(Box::new(Ok(into_bytes_frame(other))));
                    }
                },
                Some(Err(error)) => {
                    self.rest = None;
                    self.tail = Some(Box::new(Err(error)));
                }
            }
        }
        Poll::Ready(())
    }

    fn keep(&mut self, data: Bytes, limit: usize) {
        if data.is_empty() {
            return;
        }
        self.seen = self.seen.saturating_add(data.len());
        let Some(first) = &self.first else {
            self.first = Some(data);
            return;
        };
        let more = self.more.get_or_insert_default();
        if more.joined.is_empty() {
            more.joined.extend_from_slice(&first[..first.len().min(limit)]);
        }
        let room = limit.saturating_sub(more.joined.len());
        more.joined.extend_from_slice(&data[..data.len().min(room)]);
        more.queue.push_back(data);
    }
}

impl<B: Body + Unpin> Body for PeekBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(more) = &mut self.more {
            more.joined = Vec::new();
            match more.queue.pop_front() {
                Some(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                None => self.more = None,
            }
        }
        if let Some(tail) = self.tail.take() {
            return Poll::Ready(Some(*tail));
        }
        match &mut self.rest {
            Some(rest) => {
                Pin::new(rest).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(into_bytes_frame)))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.more.as_ref().is_none_or(|more| more.queue.is_empty())
            && self.tail.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let more = self.more.iter().flat_map(|more| &more.queue);
        let held = self.first.iter().chain(more).map(|data| data.len() as u64).sum();
        match (&self.rest, self.tail.as_deref()) {
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

impl<B: Body> fmt::Debug for PeekBody<B> {
    /// The content is the server's answer and is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekBody")
            .field("seen", &self.seen)
            .field("whole", &self.is_whole())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::Waker;

    use futures::stream;
    use http::HeaderMap;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    type Frames = Vec<Result<Frame<Bytes>, io::Error>>;

    fn data(text: &'static str) -> Result<Frame<Bytes>, io::Error> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn body(frames: Frames) -> PeekBody<impl Body<Data = Bytes, Error = io::Error> + Unpin> {
        PeekBody::new(StreamBody::new(stream::iter(frames)))
    }

    fn peek<B: Body + Unpin>(body: &mut PeekBody<B>, limit: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(body.poll_peek(&mut cx, limit).is_ready());
    }

    #[tokio::test]
    async fn frame_boundaries_and_trailers_are_as_they_were() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "9".parse().unwrap());
        for limit in [0, 1, 3, 4, 5, 100] {
            let mut body =
                body(vec![data("one"), data("tw"), data("o"), Ok(Frame::trailers(trailers.clone()))]);
            peek(&mut body, limit);
            assert_eq!(body.prefix(limit), &b"onetwo"[..limit.min(6)]);
            for expected in ["one", "tw", "o"] {
                assert_eq!(
                    body.frame().await.unwrap().unwrap().into_data().unwrap(),
                    expected,
                    "limit {limit}"
                );
            }
            assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
            assert!(body.frame().await.is_none());
            assert!(body.is_end_stream() || limit < 100);
        }
    }

    #[tokio::test]
    async fn an_error_while_peeking_is_handed_on_after_the_bytes_seen() {
        let mut body = body(vec![data("some"), Err(io::Error::other("reset"))]);
        peek(&mut body, 100);
        assert_eq!(body.prefix(100), b"some");
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "reset");
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn looking_ends_at_the_limit_and_one_frame_is_not_copied() {
        let mut body = PeekBody::new(Full::new(Bytes::from(vec![1; 100_000])));
        let before = match Pin::new(body.rest.as_mut().unwrap()).size_hint().exact() {
            Some(before) => before,
            None => unreachable!("a `Full` knows its length"),
        };
        peek(&mut body, 8);
        assert_eq!(body.prefix(8), [1; 8]);
        assert!(body.more.is_none());
        assert!(body.is_whole());
        assert_eq!(body.size_hint().exact(), Some(before));

        let mut endless = PeekBody::new(StreamBody::new(stream::repeat_with(|| data("12345"))));
        peek(&mut endless, 12);
        assert_eq!(endless.prefix(12), b"123451234512");
        assert_eq!(endless.seen, 15);
        assert!(!endless.is_whole());
    }

    #[test]
    fn the_length_stays_exact_whatever_was_seen() {
        let mut body = body(vec![data("abc"), data("de")]);
        peek(&mut body, 100);
        assert_eq!(body.size_hint().exact(), Some(5));
        let _ = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert_eq!(body.size_hint().exact(), Some(2));
    }
}
