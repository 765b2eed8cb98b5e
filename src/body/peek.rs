//! [`PeekBody`]: a response's body whose first bytes have been looked at.

use std::collections::VecDeque;
use std::fmt;
use std::iter;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::source::{into_bytes, into_bytes_frame};

/// The response body that the caller gets.
///
/// If the layer looked at the answer, the frames it saw are handed on first, as they came, but for empty ones; then comes the
/// rest, or the error that ended it. If it did not look, this is the inner body and nothing more.
pub struct PeekBody<B: Body> {
    kind: Kind<B>,
}

/// No larger than hyper's own body, since an answer is moved several times on its way to the caller.
enum Kind<B: Body> {
    /// Nothing of it is held here.
    Untouched(B),
    /// All of it, in one frame, which is empty once it was handed on. Most answers that are looked at are this.
    Whole(Bytes),
    /// Anything else that was looked at.
    Seen(Box<Seen<B>>),
}

struct Seen<B: Body> {
    /// The first frame taken off and not yet handed on; empty if there is none.
    first: Bytes,
    /// Those behind it.
    queue: VecDeque<Bytes>,
    /// All of these in one piece, if they are more than one: at most the inspect limit is copied.
    joined: Vec<u8>,
    /// Bytes seen while peeking.
    len: usize,
    /// What was seen after them and is no data: trailers, or the error that it failed with.
    tail: Option<Result<Frame<Bytes>, B::Error>>,
    /// `None` once it was read to its end, so that its connection is released at once.
    rest: Option<B>,
}

/// Nothing in here is pinned in place: the inner body is `Unpin`, and an error is only ever moved.
impl<B: Body + Unpin> Unpin for PeekBody<B> {}

impl<B: Body> PeekBody<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { kind: Kind::Untouched(body) }
    }

    /// Whether all of it is held here and the connection behind it is free.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.kind {
            Kind::Untouched(_) => false,
            Kind::Whole(_) => true,
            Kind::Seen(seen) => seen.rest.is_none(),
        }
    }

    /// Whether this [`prefix`](Self::prefix) is all of the data, up to an end that was seen.
    pub(crate) fn is_all_of(&self, prefix: &[u8]) -> bool {
        match &self.kind {
            Kind::Untouched(_) => false,
            Kind::Whole(content) => prefix.len() == content.len(),
            Kind::Seen(seen) => {
                seen.rest.is_none() && prefix.len() == seen.len && !matches!(seen.tail, Some(Err(_)))
            }
        }
    }

    /// The inner body, if nothing of it is held here.
    #[cfg(feature = "reqwest")]
    pub(crate) fn into_untouched(self) -> Result<B, Self> {
        match self.kind {
            Kind::Untouched(body) => Ok(body),
            kind => Err(Self { kind }),
        }
    }

    /// What is still to be handed on, if that is one frame and nothing else.
    #[cfg(feature = "reqwest")]
    pub(crate) fn into_content(self) -> Result<Bytes, Self> {
        match self.kind {
            Kind::Whole(content) => Ok(content),
            kind => Err(Self { kind }),
        }
    }

    /// The first bytes, `limit` at the most.
    pub(crate) fn prefix(&self, limit: usize) -> &[u8] {
        let seen = match &self.kind {
            Kind::Untouched(_) => &[],
            Kind::Whole(content) => &content[..],
            Kind::Seen(seen) => seen.bytes(),
        };
        &seen[..seen.len().min(limit)]
    }
}

impl<B: Body + Unpin> PeekBody<B> {
    /// Reads on, to be looked at, until `limit` bytes have been seen, or the end, or an error.
    pub(crate) fn poll_peek(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<()> {
        let body = match &mut self.kind {
            Kind::Untouched(body) => body,
            Kind::Whole(_) => return Poll::Ready(()),
            Kind::Seen(seen) => {
                ready!(seen.poll_peek(cx, limit));
                if let Some(whole) = seen.take_whole() {
                    self.kind = Kind::Whole(whole);
                }
                return Poll::Ready(());
            }
        };
        let mut first = Bytes::new();
        // Not asked where the end is known already: a poll behind it costs a trip to the connection task.
        while !body.is_end_stream() {
            if first.len() >= limit {
                if !first.is_empty() {
                    self.see(first, None, limit);
                }
                return Poll::Ready(());
            }
            let next = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(None) => break,
                Poll::Ready(Some(Ok(frame))) if first.is_empty() => match frame.into_data() {
                    Ok(data) => {
                        first = into_bytes(data);
                        continue;
                    }
                    Err(other) => Ok(other),
                },
                Poll::Ready(Some(next)) => next,
                Poll::Pending => {
                    if !first.is_empty() {
                        self.see(first, None, limit);
                    }
                    return Poll::Pending;
                }
            };
            self.see(first, Some(next), limit);
            return self.poll_peek(cx, limit);
        }
        self.kind = Kind::Whole(first);
        Poll::Ready(())
    }

    /// Takes note of the first frame, with which the body does not end, and of the next, if that is there.
    #[cold]
    fn see(&mut self, first: Bytes, next: Option<Result<Frame<B::Data>, B::Error>>, limit: usize) {
        let next = next.map(|frame| frame.map(into_bytes_frame));
        if let Kind::Untouched(body) = mem::replace(&mut self.kind, Kind::Whole(Bytes::new())) {
            let (len, queue, joined) = (first.len(), VecDeque::new(), Vec::new());
            let mut seen = Seen { first, queue, joined, len, tail: None, rest: Some(body) };
            if let Some(frame) = next {
                seen.keep(frame, limit);
            }
            self.kind = Kind::Seen(Box::new(seen));
        }
    }
}

impl<B: Body> Seen<B> {
    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.first } else { &self.joined }
    }

    /// The content, if it is one frame and nothing else.
    fn take_whole(&mut self) -> Option<Bytes> {
        let is_whole = self.rest.is_none() && self.queue.is_empty() && self.tail.is_none();
        is_whole.then(|| mem::take(&mut self.first))
    }

    fn keep(&mut self, frame: Result<Frame<Bytes>, B::Error>, limit: usize) {
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
}

impl<B: Body + Unpin> Seen<B> {
    fn poll_peek(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<()> {
        while let Some(rest) = &mut self.rest {
            if rest.is_end_stream() {
                self.rest = None;
                break;
            }
            if self.len >= limit || self.tail.is_some() {
                break;
            }
            match ready!(Pin::new(rest).poll_frame(cx)) {
                None => self.rest = None,
                Some(frame) => self.keep(frame.map(into_bytes_frame), limit),
            }
        }
        Poll::Ready(())
    }

    /// The next frame that is held here.
    fn pop(&mut self) -> Option<Result<Frame<Bytes>, B::Error>> {
        self.joined = Vec::new();
        if !self.first.is_empty() {
            return Some(Ok(Frame::data(mem::take(&mut self.first))));
        }
        match self.queue.pop_front() {
            Some(data) => Some(Ok(Frame::data(data))),
            None => {
                // Its memory goes: what is still to come may take long.
                self.queue = VecDeque::new();
                self.tail.take()
            }
        }
    }
}

impl<B: Body + Unpin> Body for PeekBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let rest = match &mut self.kind {
            Kind::Untouched(body) => body,
            Kind::Whole(content) => {
                let content = mem::take(content);
                return Poll::Ready((!content.is_empty()).then(|| Ok(Frame::data(content))));
            }
            Kind::Seen(seen) => match (seen.pop(), &mut seen.rest) {
                (Some(frame), _) => return Poll::Ready(Some(frame)),
                (None, Some(rest)) => rest,
                (None, None) => return Poll::Ready(None),
            },
        };
        Pin::new(rest).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(into_bytes_frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched(body) => body.is_end_stream(),
            Kind::Whole(content) => content.is_empty(),
            Kind::Seen(seen) => {
                let is_none_held = seen.first.is_empty() && seen.queue.is_empty() && seen.tail.is_none();
                is_none_held && seen.rest.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let seen = match &self.kind {
            Kind::Untouched(body) => return body.size_hint(),
            Kind::Whole(content) => return SizeHint::with_exact(content.len() as u64),
            Kind::Seen(seen) => seen,
        };
        let held = iter::once(&seen.first).chain(&seen.queue).map(|data| data.len() as u64).sum();
        match (&seen.rest, &seen.tail) {
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
        let kind = match &self.kind {
            Kind::Untouched(_) => "untouched",
            Kind::Whole(_) => "whole",
            Kind::Seen(_) => "seen",
        };
        f.debug_struct("PeekBody").field("kind", &kind).finish_non_exhaustive()
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

    /// Frames as they come, `None` for a pause. Its end is not known before it is asked for, as with chunks.
    struct Paced(VecDeque<Option<Result<Frame<Bytes>, io::Error>>>);

    impl Body for Paced {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(frame) => Poll::Ready(frame),
            }
        }
    }

    fn paced(frames: impl IntoIterator<Item = Option<Result<Frame<Bytes>, io::Error>>>) -> PeekBody<Paced> {
        PeekBody::new(Paced(frames.into_iter().collect()))
    }

    #[tokio::test]
    async fn what_has_no_data_in_front_is_handed_on_as_it_is() {
        let mut body = body(vec![Ok(Frame::trailers(HeaderMap::new()))]);
        peek(&mut body, 100);
        assert!(body.is_whole() && body.is_all_of(b"") && !body.is_end_stream());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.frame().await.is_none());

        let mut body = paced([Some(Err(io::Error::other("reset")))]);
        peek(&mut body, 100);
        assert!(body.is_whole() && !body.is_all_of(b""));
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "reset");
        assert!(body.frame().await.is_none());

        // An empty frame behind the first does not make them two.
        let mut body = paced([Some(data("{}")), Some(data(""))]);
        peek(&mut body, 100);
        assert!(matches!(&body.kind, Kind::Whole(content) if content == "{}"));
    }

    #[tokio::test]
    async fn one_frame_whose_end_is_only_found_is_whole_as_well() {
        let mut cx = Context::from_waker(Waker::noop());
        for pauses in [0, 1, 2] {
            let pauses: Vec<_> = iter::repeat_with(|| None).take(pauses).collect();
            let number = pauses.len();
            let mut body = paced([Some(data("")), Some(data("{}"))].into_iter().chain(pauses));
            for _ in 0..number {
                assert!(body.poll_peek(&mut cx, 100).is_pending());
                assert!(!body.is_whole() && !body.is_all_of(body.prefix(100)));
                assert_eq!(body.prefix(100), b"{}");
            }
            assert!(body.poll_peek(&mut cx, 100).is_ready());
            assert!(matches!(&body.kind, Kind::Whole(content) if content == "{}"));
            assert!(body.is_all_of(b"{}"));
            assert_eq!(body.collect().await.unwrap().to_bytes(), "{}");
        }
    }

    #[tokio::test]
    async fn nothing_is_lost_in_pauses_and_nothing_is_read_beyond_the_limit() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut body = paced([None, Some(data("one")), None, Some(data("two")), None, Some(data("three"))]);
        for seen in ["", "one", "onetwo"] {
            assert!(body.poll_peek(&mut cx, 7).is_pending());
            assert_eq!(body.prefix(7), seen.as_bytes());
        }
        assert!(body.poll_peek(&mut cx, 7).is_ready());
        assert_eq!(body.prefix(7), b"onetwot");
        assert!(!body.is_all_of(b"onetwot") && !body.is_all_of(b"onetwothree") && !body.is_whole());
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().lower(), 11);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "onetwothree");

        let mut body = paced([Some(data("one")), Some(data("two"))]);
        assert!(body.poll_peek(&mut cx, 3).is_ready());
        assert!(
            matches!(&body.kind, Kind::Seen(seen) if seen.rest.as_ref().is_some_and(|rest| rest.0.len() == 1))
        );
        let mut body = paced([Some(data("one"))]);
        assert!(body.poll_peek(&mut cx, 0).is_ready());
        assert!(matches!(&body.kind, Kind::Untouched(rest) if rest.0.len() == 1));
    }

    #[test]
    fn what_was_held_leaves_no_memory_behind() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut body = paced((0..100).map(|_| Some(data("1"))).chain([Some(data("23")), None]));
        assert!(body.poll_peek(&mut cx, 101).is_ready());
        for _ in 0..101 {
            assert!(matches!(Pin::new(&mut body).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
        }
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        let Kind::Seen(seen) = &body.kind else { panic!("its end was not seen") };
        assert_eq!((seen.queue.capacity(), seen.joined.capacity()), (0, 0));
    }

    #[tokio::test]
    async fn an_error_while_peeking_is_handed_on_after_the_bytes_seen() {
        let mut body = body(vec![data("some"), Err(io::Error::other("reset"))]);
        peek(&mut body, 100);
        assert_eq!(body.prefix(100), b"some");
        assert!(body.is_whole() && !body.is_all_of(b"some"), "it is cut off");
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "reset");
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn looking_ends_at_the_limit_and_one_frame_is_not_copied() {
        let mut body = PeekBody::new(Full::new(Bytes::from(vec![1; 100_000])));
        peek(&mut body, 8);
        assert_eq!(body.prefix(8), [1; 8]);
        assert!(matches!(body.kind, Kind::Whole(_)));
        assert!(body.is_whole() && !body.is_all_of(body.prefix(8)) && body.is_all_of(body.prefix(100_000)));
        assert_eq!(body.size_hint().exact(), Some(100_000));

        let mut endless = PeekBody::new(StreamBody::new(stream::repeat_with(|| data("12345"))));
        peek(&mut endless, 12);
        assert_eq!(endless.prefix(12), b"123451234512");
        assert!(matches!(&endless.kind, Kind::Seen(seen) if seen.len == 15));
        assert!(!endless.is_whole());
    }

    #[test]
    fn it_is_no_larger_than_hypers_own_body() {
        use hyper::body::Incoming;
        assert_eq!(size_of::<PeekBody<Incoming>>(), size_of::<Incoming>());
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
