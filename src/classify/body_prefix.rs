//! [`BodyPrefix`]: the bytes of a response's body that have arrived.

use std::fmt;

/// The bytes of a response's body that have arrived, and whether more may follow.
///
/// | made by | [`is_complete`](Self::is_complete) | [`is_last`](Self::is_last) |
/// | --- | --- | --- |
/// | [`partial`](Self::partial) | no | no |
/// | [`complete`](Self::complete) | yes | yes |
/// | [`cut`](Self::cut) | no | yes |
///
/// `Debug` shows the length and the state, not the bytes.
#[derive(Clone, Copy)]
pub struct BodyPrefix<'a> {
    bytes: &'a [u8],
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Partial,
    Complete,
    Cut,
}

impl<'a> BodyPrefix<'a> {
    /// The first bytes of a body. More may follow.
    pub fn partial(bytes: &'a [u8]) -> Self {
        Self { bytes, state: State::Partial }
    }

    /// The whole body. Its end was seen.
    pub fn complete(bytes: &'a [u8]) -> Self {
        Self { bytes, state: State::Complete }
    }

    /// The first bytes of a body of which no more will be shown.
    ///
    /// The inspect limit was reached, [`patience`](super::Classify::patience) is over, or the body failed. If the body cannot
    /// be inspected at all (`HEAD`, 204, an event stream, an encoded body), `bytes` is empty.
    pub fn cut(bytes: &'a [u8]) -> Self {
        Self { bytes, state: State::Cut }
    }

    /// The bytes, from the body's first one on.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the bytes are the whole body.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether no more will be shown: the body is complete or cut.
    pub fn is_last(&self) -> bool {
        self.state != State::Partial
    }
}

impl fmt::Debug for BodyPrefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyPrefix").field("length", &self.bytes.len()).field("state", &self.state).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_says_whether_it_is_complete_and_last() {
        for (prefix, is_complete, is_last) in [
            (BodyPrefix::partial(b"ab"), false, false),
            (BodyPrefix::complete(b"ab"), true, true),
            (BodyPrefix::cut(b"ab"), false, true),
        ] {
            assert_eq!(
                (prefix.bytes(), prefix.is_complete(), prefix.is_last()),
                (&b"ab"[..], is_complete, is_last),
                "{prefix:?}"
            );
        }
    }

    #[test]
    fn debug_shows_no_bytes() {
        assert_eq!(format!("{:?}", BodyPrefix::cut(b"s3cret")), "BodyPrefix { length: 6, state: Cut }");
    }
}
