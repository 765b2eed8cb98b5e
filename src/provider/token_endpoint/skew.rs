//! [`Skew`]: how far the server's clock is from ours.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::DATE;

/// Differences up to this are not differences: `Date` has whole seconds, and the answer has travelled.
const IGNORED_BELOW: Duration = Duration::from_secs(5);

/// A `Date` that is further off than this is not believed: that is a canned answer, not a clock.
const IGNORED_ABOVE: Duration = Duration::from_secs(24 * 60 * 60);

/// The server's clock minus ours, as the last answer with a `Date` told it
/// ([RFC 9110, 6.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1)).
#[derive(Debug, Default)]
pub(super) struct Skew {
    milliseconds: AtomicI64,
}

impl Skew {
    /// Learns from an answer that arrived at `now` of our clock.
    pub(super) fn learn(&self, headers: &HeaderMap, now: SystemTime) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()) else {
            return;
        };
        let (apart, sign) = match date.duration_since(now) {
            Ok(ahead) => (ahead, 1),
            Err(behind) => (behind.duration(), -1),
        };
        if apart > IGNORED_ABOVE {
            return;
        }
        let milliseconds =
            if apart < IGNORED_BELOW { 0 } else { i64::try_from(apart.as_millis()).unwrap_or(0) };
        self.milliseconds.store(sign * milliseconds, Ordering::Relaxed);
    }

    /// What the server's clock shows when ours shows `local`.
    pub(super) fn to_server(&self, local: SystemTime) -> SystemTime {
        shift(local, self.milliseconds())
    }

    /// What our clock shows when the server's shows `server`.
    pub(super) fn to_local(&self, server: SystemTime) -> SystemTime {
        shift(server, -self.milliseconds())
    }

    /// The server's clock minus ours.
    pub(super) fn milliseconds(&self) -> i64 {
        self.milliseconds.load(Ordering::Relaxed)
    }
}

/// At the ends of the clock's range, it stays as it is.
fn shift(time: SystemTime, milliseconds: i64) -> SystemTime {
    let by = Duration::from_millis(milliseconds.unsigned_abs());
    let shifted = if milliseconds < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    shifted.unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(offset: i64) -> i64 {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let skew = Skew::default();
        let mut headers = HeaderMap::new();
        headers.insert(DATE, httpdate::fmt_http_date(shift(now, offset * 1_000)).parse().unwrap());
        skew.learn(&headers, now);
        assert_eq!(skew.to_local(skew.to_server(now)), now);
        skew.milliseconds() / 1_000
    }

    #[test]
    fn minutes_are_learnt_seconds_and_years_are_not() {
        assert_eq!(learnt(300), 300);
        assert_eq!(learnt(-300), -300);
        assert_eq!(learnt(4), 0);
        assert_eq!(learnt(-4), 0);
        assert_eq!(learnt(86_400 * 365), 0);
    }

    #[test]
    fn a_bad_date_teaches_nothing_and_a_right_one_unteaches() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let skew = Skew::default();
        skew.milliseconds.store(300_000, Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "yesterday".parse().unwrap());
        skew.learn(&headers, now);
        assert_ne!(skew.to_server(now), now);
        headers.insert(DATE, httpdate::fmt_http_date(now).parse().unwrap());
        skew.learn(&headers, now);
        assert_eq!(skew.to_server(now), now);
    }
}
