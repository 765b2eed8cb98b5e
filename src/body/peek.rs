//! [`PeekBody`]: a response's body whose first bytes have been looked at.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::seen::Seen;
use super::source::{into_bytes, into_bytes_frame, take_frame};

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
            Kind::Seen(seen) => seen.is_whole(),
        }
    }

    /// Whether it ended in an error.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(&self.kind, Kind::Seen(seen) if seen.has_failed())
    }

    /// Whether this [`prefix`](Self::prefix) is all of the data, up to an end that was seen.
    pub(crate) fn is_all_of(&self, prefix: &[u8]) -> bool {
        match &self.kind {
            Kind::Untouched(_) => false,
            Kind::Whole(content) => prefix.len() == content.len(),
            Kind::Seen(seen) => seen.is_all_of(prefix),
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
                self.see(first, None, limit);
                return Poll::Ready(());
            }
            let next = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(None) => break,
                Poll::Ready(Some(Ok(frame))) if first.is_empty() => match frame.into_data() {
                    // An empty one in front is left to the other, which counts them.
                    Ok(data) if data.has_remaining() => {
                        first = into_bytes(data);
                        continue;
                    }
                    Ok(data) => Ok(Frame::data(data)),
                    Err(other) => Ok(other),
                },
                Poll::Ready(Some(next)) => next,
                Poll::Pending => {
                    self.see(first, None, limit);
                    return Poll::Pending;
                }
            };
            self.see(first, Some(next), limit);
            return self.poll_peek(cx, limit);
        }
        self.kind = Kind::Whole(first);
        Poll::Ready(())
    }

    /// Takes note of the first frame, with which the body does not end, and of the next, as far as they are there.
    #[cold]
    fn see(&mut self, first: Bytes, next: Option<Result<Frame<B::Data>, B::Error>>, limit: usize) {
        if first.is_empty() && next.is_none() {
            return;
        }
        let next = next.map(|frame| frame.map(into_bytes_frame));
        if let Kind::Untouched(body) = mem::replace(&mut self.kind, Kind::Whole(Bytes::new())) {
            let mut seen = Seen::new(first, body);
            if let Some(frame) = next {
                seen.keep(frame, limit);
            }
            self.kind = Kind::Seen(Box::new(seen));
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
            Kind::Whole(content) => return Poll::Ready(take_frame(content).map(Ok)),
            Kind::Seen(seen) => match (seen.pop(), &mut seen.rest) {
                (None, Some(rest)) => rest,
                (frame, _) => return Poll::Ready(frame),
            },
        };
        Pin::new(rest).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(into_bytes_frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched(body) => body.is_end_stream(),
            Kind::Whole(content) => content.is_empty(),
            Kind::Seen(seen) => seen.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched(body) => body.size_hint(),
            Kind::Whole(content) => SizeHint::with_exact(content.len() as u64),
            Kind::Seen(seen) => seen.size_hint(),
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
    use crate::body::script::{Script, Step, data};

    const PAUSE: Step = Poll::Pending;

    fn scripted(steps: impl IntoIterator<Item = Step>) -> PeekBody<Script> {
        PeekBody::new(Script::new(steps))
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
            let mut body = scripted([
                data("one"),
                data("tw"),
                data("o"),
                Poll::Ready(Ok(Frame::trailers(trailers.clone()))),
            ]);
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
    async fn what_has_no_data_in_front_is_handed_on_as_it_is() {
        let mut body = scripted([Poll::Ready(Ok(Frame::trailers(HeaderMap::new())))]);
        peek(&mut body, 100);
        assert!(body.is_whole() && body.is_all_of(b"") && !body.is_end_stream());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.frame().await.is_none());

        let mut body = scripted([Poll::Ready(Err(io::Error::other("reset")))]);
        peek(&mut body, 100);
        assert!(body.is_whole() && !body.is_all_of(b""));
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "reset");
        assert!(body.frame().await.is_none());

        // An empty frame behind the first does not make them two.
        let mut body = scripted([data("{}"), data("")]);
        peek(&mut body, 100);
        assert!(matches!(&body.kind, Kind::Whole(content) if content == "{}"));
    }

    #[tokio::test]
    async fn one_frame_whose_end_is_only_found_is_whole_as_well() {
        let mut cx = Context::from_waker(Waker::noop());
        for pauses in [0, 1, 2] {
            let behind = std::iter::repeat_with(|| PAUSE).take(pauses);
            let mut body = scripted([data(""), data("{}")].into_iter().chain(behind));
            for _ in 0..pauses {
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
        let mut body = scripted([PAUSE, data("one"), PAUSE, data("two"), PAUSE, data("three")]);
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

        let mut body = scripted([data("one"), data("two")]);
        assert!(body.poll_peek(&mut cx, 3).is_ready());
        assert!(
            matches!(&body.kind, Kind::Seen(seen) if seen.rest.as_ref().is_some_and(|rest| rest.steps.len() == 1))
        );
        let mut body = scripted([data("one")]);
        assert!(body.poll_peek(&mut cx, 0).is_ready());
        assert!(matches!(&body.kind, Kind::Untouched(rest) if rest.steps.len() == 1));
    }

    #[test]
    fn what_was_held_leaves_no_memory_behind() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut body = scripted((0..100).map(|_| data("1")).chain([data("23"), PAUSE]));
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
        let mut body = scripted([data("some"), Poll::Ready(Err(io::Error::other("reset")))]);
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

        let mut endless = PeekBody::new(StreamBody::new(stream::repeat_with(|| {
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"12345")))
        })));
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
        let mut body = scripted([data("abc"), data("de")]);
        peek(&mut body, 100);
        assert_eq!(body.size_hint().exact(), Some(5));
        let _ = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert_eq!(body.size_hint().exact(), Some(2));
    }
}
