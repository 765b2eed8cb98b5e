//! [`ReplayBody`]: a request's body, in a form that tells whether it can be sent a second time.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

/// The request body that the layer hands to the inner service.
///
/// A body that is wholly in memory is recognised without knowing its type: it is at its end already
/// (`Empty`), or it is at its end after the first frame, which is at hand (`Full<Bytes>`). Its content is
/// kept by reference count and sent again as the very same [`Bytes`], with the same exact length.
///
/// Any other body streams through untouched.
pub struct ReplayBody<B> {
    kind: Kind<B>,
}

enum Kind<B> {
    /// The whole content; `None` once it was handed out, or if there is none.
    Memory(Option<Bytes>),
    /// What the first poll brought, then the rest.
    Stream { first: Option<Result<Frame<Bytes>, BoxError>>, rest: B },
}

impl<B> ReplayBody<B> {
    /// A body that is this content and nothing else.
    pub(crate) fn from_content(content: Bytes) -> Self {
        Self { kind: Kind::Memory(Some(content).filter(|content| !content.is_empty())) }
    }

    /// A body that nothing is to be known of.
    pub(crate) fn untouched(body: B) -> Self {
        Self { kind: Kind::Stream { first: None, rest: body } }
    }
}

impl<B> ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Polls `body` once to see whether all of it is at hand. If so, the content is returned as well.
    ///
    /// A body that is not ready is left to the inner service, which registers its own waker. Nothing waits.
    pub(crate) fn capture(mut body: B, cx: &mut Context<'_>) -> (Self, Option<Bytes>) {
        if body.is_end_stream() {
            return (Self::from_content(Bytes::new()), Some(Bytes::new()));
        }
        let first = match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(Some(frame)) => frame.map(into_bytes_frame).map_err(Into::into),
            Poll::Ready(None) => return (Self::from_content(Bytes::new()), Some(Bytes::new())),
            Poll::Pending => return (Self::untouched(body), None),
        };
        match first {
            Ok(frame) if frame.is_data() && body.is_end_stream() => {
                let content = frame.into_data().unwrap_or_default();
                (Self::from_content(content.clone()), Some(content))
            }
            first => (Self { kind: Kind::Stream { first: Some(first), rest: body } }, None),
        }
    }
}

/// Takes a frame's data as one `Bytes`. For data that is `Bytes` already, nothing is copied.
pub(super) fn into_bytes_frame<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

impl<B> Body for ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Memory(content) => Poll::Ready(content.take().map(|content| Ok(Frame::data(content)))),
            Kind::Stream { first, rest } => match first.take() {
                Some(first) => Poll::Ready(Some(first)),
                None => Pin::new(rest)
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map(into_bytes_frame).map_err(Into::into))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Memory(content) => content.is_none(),
            Kind::Stream { first, rest } => first.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Memory(content) => SizeHint::with_exact(content.as_ref().map_or(0, len)),
            Kind::Stream { first: Some(Ok(frame)), rest } => {
                rest.size_hint() + SizeHint::with_exact(frame.data_ref().map_or(0, len))
            }
            Kind::Stream { rest, .. } => rest.size_hint(),
        }
    }
}

/// `Bytes` is at most `usize::MAX` long, which fits in `u64` wherever this crate compiles.
fn len(bytes: &Bytes) -> u64 {
    bytes.len() as u64
}

impl<B> Default for ReplayBody<B> {
    /// An empty body. tower-http's `FollowRedirect` asks for one.
    fn default() -> Self {
        Self::from_content(Bytes::new())
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    /// The content is the caller's own and is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Memory(_) => "memory",
            Kind::Stream { .. } => "stream",
        };
        f.debug_struct("ReplayBody").field("kind", &kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use futures::StreamExt;
    use http::HeaderMap;
    use http_body_util::{BodyExt, Empty, Full, StreamBody, channel::Channel};

    use super::*;

    fn capture<B>(body: B) -> (ReplayBody<B>, Option<Bytes>)
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        ReplayBody::capture(body, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_body_in_memory_is_kept_as_the_very_same_bytes() {
        let content = Bytes::from(vec![7; 4096]);
        let (body, kept) = capture(Full::new(content.clone()));
        assert_eq!(kept.as_ref().map(|kept| kept.as_ptr()), Some(content.as_ptr()));
        assert_eq!(body.size_hint().exact(), Some(4096));
        assert!(!body.is_end_stream());
    }

    #[tokio::test]
    async fn an_empty_body_is_at_its_end_at_once_before_and_after_the_replay() {
        let (body, kept) = capture(Empty::<Bytes>::new());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        let again = ReplayBody::<Empty<Bytes>>::from_content(kept.unwrap());
        assert!(again.is_end_stream());
        assert_eq!(again.collect().await.unwrap().to_bytes(), Bytes::new());
        assert!(capture(Full::new(Bytes::new())).1.is_some());
    }

    #[tokio::test]
    async fn a_stream_passes_untouched_frame_for_frame_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "9".parse().unwrap());
        let frames = [
            Frame::data(Bytes::from_static(b"one")),
            Frame::data(Bytes::from_static(b"two")),
            Frame::trailers(trailers.clone()),
        ];
        let stream = futures::stream::iter(frames.map(Ok::<_, Infallible>));
        let (mut body, kept) = capture(StreamBody::new(stream));
        assert!(kept.is_none());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
        assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_body_that_is_not_ready_is_left_to_the_inner_service() {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        let (mut body, kept) = capture(body);
        assert!(kept.is_none());
        sender.send_data(Bytes::from_static(b"late")).await.unwrap();
        drop(sender);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "late");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_source_error_is_passed_on_and_never_taken_for_the_end() {
        let stream = futures::stream::iter([Err::<Frame<Bytes>, _>(std::io::Error::other("disk"))]);
        let (body, kept) = capture(StreamBody::new(stream.chain(futures::stream::pending())));
        assert!(kept.is_none());
        assert_eq!(body.collect().await.unwrap_err().to_string(), "disk");
    }

    #[test]
    fn a_stream_with_a_known_length_keeps_it_after_its_first_frame_was_taken() {
        struct Known(u64);
        impl Body for Known {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                self.0 -= 3;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"abc")))))
            }
            fn size_hint(&self) -> SizeHint {
                SizeHint::with_exact(self.0)
            }
        }
        let (body, kept) = capture(Known(9));
        assert!(kept.is_none());
        assert_eq!(body.size_hint().exact(), Some(9));
    }
}
