//! [`Stream`]: a request's body that is not in memory, in whichever hands it is.

use std::error::Error as StdError;
use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::source::Source;
use super::tee::{Passed, Sender, Taker, tee};
use crate::error::BoxError;

/// What is not in memory.
pub(super) enum Stream<B> {
    /// Nobody else can have it.
    Alone(Box<Source<B>>),
    Rewindable(Sender<B>),
    /// Another attempt sends the rest. That is still to be told, by an error.
    Taken,
    /// That was told.
    Told,
}

impl<B> Stream<B> {
    /// What it is, for `Debug`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Alone(_) => "stream",
            Self::Rewindable(_) => "rewindable stream",
            Self::Taken | Self::Told => "taken over",
        }
    }
}

impl<B: Body> Stream<B> {
    /// Makes it one that can be taken over; `None` if it is one already.
    pub(super) fn rewindable(self, limit: usize) -> (Self, Option<Taker<B>>) {
        match self {
            Self::Alone(source) => {
                let (sender, taker) = tee(source, limit);
                (Self::Rewindable(sender), Some(taker))
            }
            Self::Rewindable(_) | Self::Taken | Self::Told => (self, None),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Alone(source) => source.is_end_stream(),
            Self::Rewindable(sender) => sender.is_end_stream(),
            Self::Taken => false,
            Self::Told => true,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Alone(source) => source.size_hint(),
            Self::Rewindable(sender) => sender.size_hint(),
            Self::Taken | Self::Told => SizeHint::default(),
        }
    }
}

impl<B> Stream<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            *self = match self {
                Self::Alone(source) => return source.poll_frame(cx),
                Self::Rewindable(sender) => match sender.poll_frame(cx) {
                    Passed::Frame(frame) => return frame,
                    Passed::LetGo(source) => Self::Alone(source),
                    Passed::Taken if sender.is_end_stream() => Self::Told,
                    Passed::Taken => Self::Taken,
                },
                Self::Taken => {
                    *self = Self::Told;
                    return Poll::Ready(Some(Err(TakenOver::new().into())));
                }
                Self::Told => return Poll::Ready(None),
            };
        }
    }
}

/// What the first body ends in when the second takes over.
#[derive(Debug)]
pub(super) struct TakenOver {
    /// hyper resets a stream with the reason that it finds among the causes of a body's error.
    #[cfg(feature = "http2")]
    reset: h2::Error,
}

impl TakenOver {
    fn new() -> Self {
        Self {
            // "The stream is no longer needed" (RFC 9113, 7).
            #[cfg(feature = "http2")]
            reset: h2::Reason::CANCEL.into(),
        }
    }
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body is being sent again from its start")
    }
}

impl StdError for TakenOver {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        #[cfg(feature = "http2")]
        return Some(&self.reset);
        #[cfg(not(feature = "http2"))]
        None
    }
}
