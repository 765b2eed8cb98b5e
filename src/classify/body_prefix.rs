//! [`BodyPrefix`]: the part of an answer's body that has arrived.

use std::fmt;

/// The bytes of a body that have arrived so far, and whether more may follow.
#[derive(Clone, Copy)]
pub struct BodyPrefix<'a> {
    bytes: &'a [u8],
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Cut,
    Complete,
}

impl<'a> BodyPrefix<'a> {
    /// More may follow.
    pub fn partial(bytes: &'a [u8]) -> Self {
        Self { bytes, end: End::Open }
    }

    /// The whole body.
    pub fn complete(bytes: &'a [u8]) -> Self {
        Self { bytes, end: End::Complete }
    }

    /// Nothing more will be shown.
    pub fn cut(bytes: &'a [u8]) -> Self {
        Self { bytes, end: End::Cut }
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether these bytes are the whole body.
    pub fn is_complete(&self) -> bool {
        self.end == End::Complete
    }

    /// Whether nothing more will be shown.
    pub fn is_last(&self) -> bool {
        self.end != End::Open
    }
}

impl fmt::Debug for BodyPrefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyPrefix").field("len", &self.bytes.len()).field("end", &self.end).finish()
    }
}
