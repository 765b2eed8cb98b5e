//! [`Backoff`]: when a source that failed may be asked again.

use std::time::Duration;

use tokio::time::Instant;

use crate::provider::CredentialError;

/// The wait after the first failure: a restarting server is often back within a second.
pub(super) const MIN_BACKOFF: Duration = Duration::from_millis(500);

/// The longest wait. One attempt a minute is no load for a server that is down, and a minute is soon enough
/// to notice that it is up again.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// How much of the wait is added at random, so that clients that failed together do not return together.
const JITTER: f64 = 0.25;

/// The longest wait a server can ask for. A slip on its side (a date far ahead) must not silence the client
/// for days.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The failures since the last success. It runs on the monotonic clock: a wall clock that is set back must
/// not stretch a wait.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    error: CredentialError,
    not_before: Instant,
}

impl Backoff {
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Notes a failure and says when the next attempt may start.
    pub(super) fn failed(&mut self, error: CredentialError, now: Instant) -> Instant {
        let wait = wait(self.failures, error.retry_after(), fastrand::f64());
        let not_before = now + wait;
        self.failures = self.failures.saturating_add(1);
        self.last = Some(Failure { error, not_before });
        not_before
    }

    /// The error to fail with, while it is too early to ask again.
    pub(super) fn holds(&self, now: Instant) -> Option<&CredentialError> {
        self.last.as_ref().filter(|last| now < last.not_before).map(|last| &last.error)
    }

    pub(super) fn last_error(&self) -> Option<&CredentialError> {
        self.last.as_ref().map(|last| &last.error)
    }
}

/// `jitter` is in `0.0..1.0`; it only lengthens the wait, so that `Retry-After` is kept to.
fn wait(failures_before: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let doubled = MIN_BACKOFF.saturating_mul(2_u32.saturating_pow(failures_before)).min(MAX_BACKOFF);
    let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
    let jitter = doubled.mul_f64(jitter * JITTER);
    doubled.max(asked) + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound() {
        assert_eq!(wait(0, None, 0.0), MIN_BACKOFF);
        assert_eq!(wait(1, None, 0.0), MIN_BACKOFF * 2);
        assert_eq!(wait(5, None, 0.0), MIN_BACKOFF * 32);
        assert_eq!(wait(7, None, 0.0), MAX_BACKOFF);
        assert_eq!(wait(u32::MAX, None, 0.0), MAX_BACKOFF);
        assert!(wait(7, None, 0.999) < MAX_BACKOFF.mul_f64(1.0 + JITTER));
    }

    #[test]
    fn a_server_may_ask_for_more_but_not_for_days() {
        assert_eq!(wait(0, Some(Duration::from_secs(90)), 0.0), Duration::from_secs(90));
        assert!(wait(0, Some(Duration::from_secs(90)), 0.5) > Duration::from_secs(90));
        assert_eq!(wait(7, Some(Duration::ZERO), 0.0), MAX_BACKOFF);
        assert_eq!(wait(0, Some(Duration::MAX), 0.0), MAX_RETRY_AFTER);
    }
}
