//! [`Kept`]: what has passed of a body, by reference count.

use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

/// Pieces that are kept as they are, whatever their size. Each costs 32 bytes to know of, and may hold on to a
/// buffer that is much larger than itself.
const PIECES: usize = 64;

/// Beyond [`PIECES`], smaller ones than this are copied together: a body that comes byte by byte would
/// otherwise cost 32 times its size, and more if each byte holds on to a buffer of its own.
const SMALL: usize = 512;

/// Data in the order in which it passed, then trailers.
#[derive(Default)]
pub(super) struct Kept {
    pieces: VecDeque<Bytes>,
    /// Small pieces that came after all of `pieces`.
    small: BytesMut,
    trailers: Option<HeaderMap>,
    len: usize,
}

impl Kept {
    /// Bytes of data.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.trailers.is_none()
    }

    /// `len` cannot overflow: all of it is in memory.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.len += data.len();
        if self.pieces.len() >= PIECES && data.len() < SMALL {
            self.small.extend_from_slice(&data);
            return;
        }
        self.seal();
        self.pieces.push_back(data);
    }

    pub(super) fn push_trailers(&mut self, trailers: HeaderMap) {
        self.trailers = Some(trailers);
    }

    /// Puts what has not passed yet behind what has.
    pub(super) fn append(&mut self, mut later: Self) {
        later.seal();
        later.pieces.drain(..).for_each(|piece| self.push(piece));
        self.trailers = self.trailers.take().or(later.trailers);
    }

    /// The next frame, as long as there is one.
    pub(super) fn pop(&mut self) -> Option<Frame<Bytes>> {
        if self.pieces.is_empty() {
            self.seal();
        }
        match self.pieces.pop_front() {
            Some(piece) => {
                self.len -= piece.len();
                Some(Frame::data(piece))
            }
            None => self.trailers.take().map(Frame::trailers),
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(mem::take(&mut self.small).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(mut kept: Kept) -> Vec<u8> {
        std::iter::from_fn(|| kept.pop()).filter_map(|frame| frame.into_data().ok()).flatten().collect()
    }

    #[test]
    fn pieces_are_kept_by_reference_and_come_back_in_order() {
        let large = Bytes::from(vec![1; SMALL]);
        let mut kept = Kept::default();
        (0..3 * PIECES).for_each(|_| kept.push(large.clone()));
        assert_eq!(kept.len(), 3 * PIECES * SMALL);
        for _ in 0..3 * PIECES {
            assert_eq!(kept.pop().unwrap().into_data().unwrap().as_ptr(), large.as_ptr());
        }
        assert!(kept.pop().is_none());
    }

    #[test]
    fn a_flood_of_single_bytes_costs_little_more_than_its_size() {
        let bytes = 1_000_000;
        let mut kept = Kept::default();
        for nth in 0..bytes {
            kept.push(Bytes::copy_from_slice(&[nth as u8]));
        }
        assert_eq!(kept.pieces.len(), PIECES);
        assert!(kept.small.capacity() <= 2 * bytes);
        assert_eq!(kept.len(), bytes);
        assert_eq!(contents(kept), (0..bytes).map(|nth| nth as u8).collect::<Vec<_>>());
    }

    #[test]
    fn small_and_large_pieces_in_turn_stay_in_order_and_are_few() {
        let mut kept = Kept::default();
        let mut expected = Vec::new();
        for nth in 0..1_000_usize {
            let piece = vec![nth as u8; if nth % 2 == 0 { 1 } else { SMALL }];
            expected.extend_from_slice(&piece);
            kept.push(piece.into());
        }
        assert!(kept.pieces.len() <= PIECES + 2 * kept.len() / SMALL);
        assert_eq!(contents(kept), expected);
    }

    #[test]
    fn what_is_appended_comes_after_with_its_trailers() {
        let mut later = Kept::default();
        later.push("def".into());
        later.push_trailers([("x-sum".parse().unwrap(), "6".parse().unwrap())].into_iter().collect());
        let mut kept = Kept::default();
        kept.push("abc".into());
        kept.append(later);
        assert_eq!((kept.len(), kept.is_empty()), (6, false));
        assert_eq!(kept.pop().unwrap().into_data().unwrap(), "abc");
        assert_eq!(kept.pop().unwrap().into_data().unwrap(), "def");
        assert!(!kept.is_empty());
        assert_eq!(kept.pop().unwrap().into_trailers().unwrap()["x-sum"], "6");
        assert!(kept.is_empty());
    }
}
