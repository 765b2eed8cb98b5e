//! [`ReplayBody`]: a request's body that can be sent a second time. [`Rewind`] is how.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::source::{Source, into_bytes, into_bytes_frame, take_frame};
use super::stream::Stream;
use super::tee::{CannotRewind, Taker};
use crate::error::BoxError;

/// The request body that the layer hands to the inner service; of use by itself to whoever sends requests
/// twice.
///
/// A body that is wholly in memory is recognised without knowing its type: it is at its end already
/// (`Empty`), or it is at its end after the first frame, which is at hand (`Full<Bytes>`). Its content is
/// kept by reference count and sent again as the very same [`Bytes`], with the same exact length.
///
/// Any other body streams. After [`rewindable`](Self::rewindable), what passes is kept, up to a limit, and
/// [`Rewind::rewind`] takes the body over at any time: before it was polled, in its middle, or at its end. The
/// new body is what was kept and then the rest of the source. The old one, if it was not at its end, fails, which
/// makes hyper close an HTTP/1.1 connection and reset an HTTP/2 stream. With feature `http2`, that reset says
/// CANCEL.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, StreamBody};
/// use tower_credential_fallback::ReplayBody;
/// # use futures::stream;
/// # use http_body::Frame;
/// # use std::convert::Infallible;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_credential_fallback::BoxError> {
/// # let upload = StreamBody::new(stream::iter(
/// #     ["one", "two"].map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text)))),
/// # ));
/// let (mut first, rewind) = ReplayBody::new(upload).rewindable(1024 * 1024);
/// assert_eq!(first.frame().await.unwrap()?.into_data().unwrap(), "one");
/// // The server has answered by now, and we want to send it again.
/// let second = rewind.rewind()?;
/// assert_eq!(second.collect().await?.to_bytes(), "onetwo");
/// assert!(first.frame().await.unwrap().is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Limits
///
/// - Data that is not [`Bytes`] is copied once, as it passes. `Bytes` are not, but for those of less than 512
///   bytes behind the 64th: these are copied together, so that a body of single bytes costs no more than a few
///   times its size.
/// - A slice keeps the buffer alive that it was cut from, which may be larger than the limit.
/// - A body that is taken over while the connection takes no more bytes (the server has answered and reads
///   nothing) is taken over none the less, but the old one hears of it only when the connection goes on: until
///   then, or until the server closes it, that connection stays open.
/// - Nothing may follow trailers ([RFC 9110, 6.5](https://www.rfc-editor.org/rfc/rfc9110#section-6.5)): a body
///   is at its end after them, and after an error.
pub struct ReplayBody<B> {
    kind: Kind<B>,
}

/// No larger than a `Bytes`, since clients move a request about many times: there is one value that a `Bytes` never takes,
/// and that marks the other variant. A third would need a word of its own.
enum Kind<B> {
    /// The whole content, which is empty once it was handed out.
    Memory(Bytes),
    Stream(Stream<B>),
}

impl<B> ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Wraps a body. It is polled once, to see whether all of it is at hand.
    ///
    /// A body that is not ready is left to whoever sends it. Nothing waits.
    pub fn new(mut body: B) -> Self {
        if body.is_end_stream() {
            return Self::default();
        }
        let length = body.size_hint().exact();
        // Whoever sends it polls it again, with a waker of its own. So nobody needs to be woken here.
        let ahead = match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let content = into_bytes(data);
                    if body.is_end_stream() && length.is_none_or(|length| length == content.len() as u64) {
                        return Self { kind: Kind::Memory(content) };
                    }
                    Ok(Frame::data(content))
                }
                Err(other) => Ok(into_bytes_frame(other)),
            },
            Poll::Ready(Some(Err(error))) => Err(error.into()),
            Poll::Ready(None) if length.is_none_or(|length| length == 0) => return Self::default(),
            // Pending, or shorter than it said. The second is for whoever sends it to find out.
            Poll::Ready(None) | Poll::Pending => return Self::from_source(Source::new(body, length).into()),
        };
        Self::from_source(Source::read_ahead(ahead, body, length).into())
    }

    /// Makes a body that can be sent again: keeps what passes, up to `limit` bytes of a streaming body.
    ///
    /// When more has passed, what was kept is let go, and the body streams on without a pause. Content that is
    /// in memory counts towards no limit.
    ///
    /// As long as the answer is not known, each frame takes an uncontended lock; after [`Rewind::release`], none.
    pub fn rewindable(self, limit: usize) -> (Self, Rewind<B>) {
        match self.kind {
            Kind::Memory(ref content) => {
                // Nothing is taken apart here: this is nearly every body.
                let again = content.clone();
                (self, Rewind(RewindKind::Memory(again)))
            }
            Kind::Stream(stream) => {
                let (stream, taker) = stream.rewindable(limit);
                let rewind = taker.map_or(RewindKind::AlreadyRewindable, RewindKind::Stream);
                (Self { kind: Kind::Stream(stream) }, Rewind(rewind))
            }
        }
    }
}

impl<B> ReplayBody<B> {
    /// What is still to be sent, if that is in memory.
    pub fn content(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Memory(content) => Some(content),
            Kind::Stream(_) => None,
        }
    }

    /// The content that is still to be sent, or the body again if that is not in memory.
    #[cfg(feature = "reqwest")]
    pub(crate) fn into_content(self) -> Result<Bytes, Self> {
        match self.kind {
            Kind::Memory(content) => Ok(content),
            kind @ Kind::Stream(_) => Err(Self { kind }),
        }
    }

    fn from_source(source: Box<Source<B>>) -> Self {
        Self { kind: Kind::Stream(Stream::Alone(source)) }
    }
}

/// Takes a body over that was made [`rewindable`](ReplayBody::rewindable).
///
/// # Cancel safety
///
/// When it is dropped, nothing is kept any more, and the first body streams on. If that was
/// [held](Self::hold), it fails instead: whoever held it has given up.
#[must_use = "what passes of the body is kept until this is used or dropped"]
pub struct Rewind<B>(RewindKind<B>);

enum RewindKind<B> {
    Memory(Bytes),
    Stream(Taker<B>),
    /// Another `Rewind` has the right to take it over.
    AlreadyRewindable,
}

impl<B> Rewind<B> {
    /// The whole body, if that is in memory.
    pub(crate) fn content(&self) -> Option<&[u8]> {
        match &self.0 {
            RewindKind::Memory(content) => Some(content),
            RewindKind::Stream(_) | RewindKind::AlreadyRewindable => None,
        }
    }

    /// Stops the first body from being sent on, until it is decided who goes on.
    ///
    /// Without this, it could pass the limit while the second attempt is prepared.
    ///
    /// # Errors
    ///
    /// If the body cannot be sent again. Then it streams on.
    pub fn hold(&self) -> Result<(), CannotRewind> {
        match &self.0 {
            RewindKind::Memory(_) => Ok(()),
            RewindKind::Stream(taker) => taker.hold(),
            RewindKind::AlreadyRewindable => Err(CannotRewind::AlreadyRewindable),
        }
    }

    /// The body from its start. The first one, if it was not at its end, fails.
    ///
    /// # Errors
    ///
    /// If the body cannot be sent again. Then the first one streams on.
    pub fn rewind(self) -> Result<ReplayBody<B>, CannotRewind> {
        match self.0 {
            RewindKind::Memory(content) => Ok(ReplayBody { kind: Kind::Memory(content) }),
            RewindKind::Stream(taker) => taker.take().map(ReplayBody::from_source),
            RewindKind::AlreadyRewindable => Err(CannotRewind::AlreadyRewindable),
        }
    }

    /// Lets go of what was kept. The first body streams on, even if it was held.
    pub fn release(self) {
        if let RewindKind::Stream(taker) = self.0 {
            taker.release();
        }
    }
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
            Kind::Memory(content) => Poll::Ready(take_frame(content).map(Ok)),
            Kind::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Memory(content) => content.is_empty(),
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            // `usize` is no wider than `u64` on any platform of Rust.
            Kind::Memory(content) => SizeHint::with_exact(content.len() as u64),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}

impl<B> Default for ReplayBody<B> {
    /// An empty body. tower-http's `FollowRedirect` asks for one.
    fn default() -> Self {
        Self { kind: Kind::Memory(Bytes::new()) }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    /// The content is the caller's own and is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Memory(_) => "memory",
            Kind::Stream(stream) => stream.kind(),
        };
        f.debug_struct("ReplayBody").field("kind", &kind).finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for Rewind<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewind").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
