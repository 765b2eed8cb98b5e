//! [`Clock`]: the wall clock, so that a test can turn it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Tells the wall-clock time by which tokens end.
///
/// Expiry is judged by the wall clock and not by a monotonic one, because a monotonic clock may stand
/// still while a laptop or a virtual machine is suspended.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now.
    fn now(&self) -> SystemTime;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }
}
