//! [`Spending`]: what is known of the use of a refresh token. It is stored with the grant, for all replicas to see.
//!
//! - A *mark* says that the token is being sent, by whom, and until when that one may still hear of it. Who finds the mark
//!   under a lease of his own waits for that time, and a little longer ([`LAST_CHANCE`]); then the one who set it is dead,
//!   and nobody can tell whether the server took the token.
//! - A *hold-back* says that the last use has failed, and how, and when the token may be sent again.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::grant::{Grant, milliseconds};
use crate::store::Lease;

/// How long a mark is looked at before the one who set it is taken for dead. Longer than one attempt at a store takes (2 s
/// with a Redis, if not set otherwise) and the pause before it: a replica that lives, and could not reach the store until
/// now, has saved by then.
pub(super) const LAST_CHANCE: Duration = Duration::from_millis(2500);

/// The longest that a mark or a hold-back is believed: what is longer was written by a clock that is wrong.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// After a failure that leaves it open whether the token was taken: time for a server that is slow to finish with it.
const AFTER_UNCLEAR: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// After a refusal: the user is asked meanwhile, and the answer is likely to be the same.
const AFTER_REFUSAL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Spending {
    /// The lease under which the refresh token is being sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    being_spent_by: Option<String>,
    /// Until when whoever sends it may wait for the answer, and save it. In milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    being_spent_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_back: Option<HeldBack>,
}

/// Why the token is not sent now.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct HeldBack {
    /// In milliseconds since 1970.
    until: u64,
    /// Uses that have failed, one after the other.
    failures: u32,
    /// Whether the server has refused the token, so that the user is asked.
    pub(super) is_refused: bool,
}

impl Spending {
    pub(super) fn times(&mut self) -> impl Iterator<Item = &mut u64> {
        self.being_spent_until.iter_mut().chain(self.held_back.iter_mut().map(|held| &mut held.until))
    }
}

impl Grant {
    pub(super) fn is_being_spent(&self) -> bool {
        self.spending.being_spent_by.is_some()
    }

    pub(super) fn is_being_spent_by(&self, lease: &Lease) -> bool {
        self.spending.being_spent_by.as_deref() == Some(lease.owner())
    }

    /// How long the one who is spending it may still be at it.
    pub(super) fn spent_within(&self, now: SystemTime) -> Duration {
        left(self.spending.being_spent_until.unwrap_or(0), now)
    }

    pub(super) fn being_spent_under(&self, lease: &Lease, until: SystemTime) -> Self {
        let mut grant = self.clone();
        grant.spending.being_spent_by = Some(lease.owner().to_owned());
        grant.spending.being_spent_until = Some(milliseconds(until));
        grant
    }

    pub(super) fn not_being_spent(mut self) -> Self {
        self.spending.being_spent_by = None;
        self.spending.being_spent_until = None;
        self
    }

    /// How long its refresh token is not to be sent, if so.
    pub(super) fn held_back(&self, now: SystemTime) -> Option<(HeldBack, Duration)> {
        let held_back = self.spending.held_back?;
        let left = left(held_back.until, now);
        (!left.is_zero()).then_some((held_back, left))
    }

    /// After a failure: for longer each time, and at least for as long as the server has asked for.
    pub(super) fn hold_back(mut self, is_refused: bool, asked: Option<Duration>, now: SystemTime) -> Self {
        let before = self.spending.held_back.filter(|held| held.is_refused == is_refused);
        let failures = before.map_or(0, |held| held.failures);
        let (least, most) = if is_refused { AFTER_REFUSAL } else { AFTER_UNCLEAR };
        let wait = least.saturating_mul(2_u32.saturating_pow(failures)).min(most);
        let wait = wait.max(asked.unwrap_or_default()).min(LONGEST / 2);
        let until = milliseconds(now + wait);
        self.spending.held_back = Some(HeldBack { until, failures: failures.saturating_add(1), is_refused });
        self
    }
}

fn left(until: u64, now: SystemTime) -> Duration {
    let left = Duration::from_millis(until.saturating_sub(milliseconds(now)));
    if left > LONGEST { Duration::ZERO } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_back_grows_with_each_failure_of_its_kind_up_to_a_bound_and_heeds_the_server() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut grant = Grant::new("a", None, Some("r".to_owned())).unwrap();
        let mut waits = Vec::new();
        for _ in 0..7 {
            grant = grant.hold_back(false, None, now);
            waits.push(grant.held_back(now).unwrap().1.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        assert!(grant.held_back(now + Duration::from_secs(60)).is_none(), "over");
        grant = grant.hold_back(true, None, now);
        let (held_back, left) = grant.held_back(now).unwrap();
        assert!(held_back.is_refused && left == Duration::from_secs(60), "{left:?}");
        grant = grant.hold_back(false, Some(Duration::from_secs(90)), now);
        assert_eq!(grant.held_back(now).unwrap().1, Duration::from_secs(90));
        grant = grant.hold_back(false, Some(Duration::MAX), now);
        assert_eq!(grant.held_back(now).unwrap().1, LONGEST / 2);
    }

    #[test]
    fn a_time_far_ahead_was_written_by_a_wrong_clock_and_is_not_believed() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let grant = Grant::new("a", None, Some("r".to_owned())).unwrap();
        let marked = grant.being_spent_under(&Lease::new(), now + Duration::from_secs(365 * 86_400));
        assert_eq!(marked.spent_within(now), Duration::ZERO);
        let marked = grant.being_spent_under(&Lease::new(), now + Duration::from_secs(30));
        assert_eq!(marked.spent_within(now), Duration::from_secs(30));
        assert_eq!(marked.by_clock_ahead(5_000).spent_within(now), Duration::from_secs(35));
    }
}
