//! [`Live`]: one token and the times that matter to it.

use std::time::{Duration, SystemTime};

use crate::credential::Credential;
use crate::lane::Lanes;
use crate::provider::CredentialError;

/// A token that arrives with less than this to live is refused. It would be over before the request that
/// it was minted for is answered, and the next call would mint again: a loop as fast as the server answers.
pub(super) const MIN_LIFETIME: Duration = Duration::from_secs(1);

/// The part of its lifetime before its end in which a token is not sent any more, as a divisor: a tenth.
const EXPIRY_MARGIN_DIVISOR: u32 = 10;

/// … but no longer than this: it covers the request's way to the server and a small difference of clocks.
const MAX_EXPIRY_MARGIN: Duration = Duration::from_secs(5);

/// The part of its lifetime before its end in which a token is renewed, as a divisor: a fifth. It leaves
/// time for some failed attempts even with the shortest tokens.
const REFRESH_MARGIN_DIVISOR: u32 = 5;

/// … but no longer than this: room for about ten attempts with back-off, without throwing away hours of a
/// token that lives for days.
const MAX_REFRESH_MARGIN: Duration = Duration::from_secs(5 * 60);

/// How much of the refresh margin is added at random, so that replicas that started together do not renew
/// together.
const REFRESH_JITTER: f64 = 0.25;

/// If the wall clock reads this much earlier than when the token arrived, it was set back, and the expiry
/// that was computed from it may be too late by as much. Smaller steps are what time daemons do.
const CLOCK_STEP: Duration = Duration::from_secs(60);

/// A token in use. Never changed; replaced as a whole.
#[derive(Debug)]
pub(super) struct Live {
    /// The same credential, each with memory and reference counts of its own.
    replicas: Lanes<Credential>,
    minted_at: SystemTime,
    /// `None`: good until refused.
    times: Option<Times>,
}

/// `refresh_at` < `unusable_at` < the token's own end.
#[derive(Debug)]
struct Times {
    refresh_at: SystemTime,
    unusable_at: SystemTime,
}

impl Live {
    /// # Errors
    ///
    /// If the token has ended already, or is about to.
    pub(super) fn new(credential: Credential, now: SystemTime) -> Result<Self, CredentialError> {
        let times = match credential.expires_at() {
            None => None,
            Some(end) => Some(Times::new(now, end, fastrand::f64())?),
        };
        Ok(Self { replicas: credential.replicas(), minted_at: now, times })
    }

    pub(super) fn credential(&self) -> &Credential {
        self.replicas.own()
    }

    pub(super) fn is_usable(&self, now: SystemTime) -> bool {
        self.times.as_ref().is_none_or(|times| now < times.unusable_at)
    }

    pub(super) fn is_refresh_due(&self, now: SystemTime) -> bool {
        let Some(times) = &self.times else {
            return false;
        };
        now >= times.refresh_at || self.minted_at.duration_since(now).is_ok_and(|back| back > CLOCK_STEP)
    }
}

impl Times {
    /// `jitter` is in `0.0..1.0`.
    fn new(now: SystemTime, end: SystemTime, jitter: f64) -> Result<Self, CredentialError> {
        let lifetime = end.duration_since(now).unwrap_or_default();
        if lifetime < MIN_LIFETIME {
            let when = match now.duration_since(end) {
                Ok(past) if !past.is_zero() => format!("its expiry lies {past:.0?} in the past"),
                _ => format!("it has less than {MIN_LIFETIME:?} left"),
            };
            return Err(CredentialError::new(format!(
                "the new token has expired on arrival: {when}; is this machine's clock right?"
            )));
        }
        let expiry_margin = (lifetime / EXPIRY_MARGIN_DIVISOR).min(MAX_EXPIRY_MARGIN);
        let refresh_margin = (lifetime / REFRESH_MARGIN_DIVISOR).min(MAX_REFRESH_MARGIN);
        let refresh_margin = refresh_margin.mul_f64(1.0 + jitter * REFRESH_JITTER);
        // Both margins are at most a quarter of the lifetime, so neither point lies before `now`.
        Ok(Self { refresh_at: end - refresh_margin, unusable_at: end - expiry_margin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn margins(lifetime: Duration, jitter: f64) -> (Duration, Duration) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let end = now + lifetime;
        let times = Times::new(now, end, jitter).unwrap();
        assert!(now < times.refresh_at && times.refresh_at < times.unusable_at && times.unusable_at < end);
        (end.duration_since(times.refresh_at).unwrap(), end.duration_since(times.unusable_at).unwrap())
    }

    #[test]
    fn margins_fit_lifetimes_from_a_second_to_a_year() {
        for seconds in [1, 2, 5, 60, 900, 3_600, 86_400, 86_400 * 365] {
            for jitter in [0.0, 0.5, 0.999] {
                margins(Duration::from_secs(seconds), jitter);
            }
        }
        assert_eq!(
            margins(Duration::from_secs(2), 0.0),
            (Duration::from_millis(400), Duration::from_millis(200))
        );
        assert_eq!(
            margins(Duration::from_secs(900), 0.0),
            (Duration::from_secs(180), Duration::from_secs(5))
        );
        assert_eq!(margins(Duration::from_secs(86_400), 0.0).0, MAX_REFRESH_MARGIN);
    }

    #[test]
    fn jitter_only_makes_the_refresh_earlier() {
        let (plain, _) = margins(Duration::from_secs(900), 0.0);
        let (moved, _) = margins(Duration::from_secs(900), 0.999);
        assert!(plain < moved && moved < plain.mul_f64(1.0 + REFRESH_JITTER));
    }

    #[test]
    fn a_token_that_is_over_on_arrival_is_an_error_about_expiry_and_clock() {
        let now = SystemTime::now();
        for end in [now - Duration::from_secs(300), now, now + Duration::from_millis(999)] {
            let error = Times::new(now, end, 0.0).unwrap_err().to_string();
            assert!(error.contains("expired") && error.contains("clock"), "{error}");
        }
    }
}
