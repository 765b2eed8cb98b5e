//! Lanes: copies of what every call touches, so that threads do not get into each other's way.
//!
//! A number that two cores count in, or a reference count that they share, goes back and forth between their caches:
//! that costs more than all else that the layer does with it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are. More threads than these share, which costs them a little time each.
const LANES: usize = 16;

/// A value for each lane.
#[derive(Debug)]
pub(crate) struct Lanes<T>([Apart<T>; LANES]);

/// Alone in its cache lines: two, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Lanes<T> {
    pub(crate) fn new(mut make: impl FnMut() -> T) -> Self {
        Self(std::array::from_fn(|_| Apart(make())))
    }

    /// This thread's.
    #[inline]
    pub(crate) fn own(&self) -> &T {
        &self.0[thread_number() % LANES].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|apart| &apart.0)
    }
}

impl<T: Default> Default for Lanes<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

/// Counts the threads that have asked.
#[inline]
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}
