//! [`Pooled`]: a call's memory, used again and again.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::call::Call;

/// Calls that are under way at once on one thread, and that find memory which was used before.
const KEPT: usize = 32;

thread_local! {
    #[expect(clippy::vec_box, reason = "they are handed out as they are")]
    static CALLS: RefCell<Vec<Box<Call>>> = const { RefCell::new(Vec::new()) };
}

/// A [`Call`] that knows of nothing at first.
///
/// In a box, so that the future is small to move; from a pool, so that the box costs no allocation.
pub(crate) struct Pooled {
    /// `None` while it is dropped.
    call: Option<Box<Call>>,
}

const THERE: &str = "it is there until it is dropped";

impl Pooled {
    #[inline]
    pub(crate) fn take() -> Self {
        // While the thread ends, there is none.
        let used = CALLS.try_with(|calls| calls.borrow_mut().pop()).ok().flatten();
        Self { call: Some(used.unwrap_or_default()) }
    }
}

impl Drop for Pooled {
    #[inline]
    fn drop(&mut self) {
        let Some(mut call) = self.call.take() else { return };
        if call.forget() {
            let _ = CALLS.try_with(|calls| {
                let mut calls = calls.borrow_mut();
                if calls.len() < KEPT {
                    calls.push(call);
                }
            });
        }
    }
}

impl Deref for Pooled {
    type Target = Call;

    #[inline]
    fn deref(&self) -> &Call {
        self.call.as_deref().expect(THERE)
    }
}

impl DerefMut for Pooled {
    #[inline]
    fn deref_mut(&mut self) -> &mut Call {
        self.call.as_deref_mut().expect(THERE)
    }
}
