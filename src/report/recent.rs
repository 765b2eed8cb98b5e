//! [`Recent`]: how calls ended in the last minutes.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far back it is remembered, this minute included.
pub(crate) const MINUTES: u32 = 15;

/// How a call that was answered, or failed, ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ending {
    ByPrimary,
    ByFallback,
    /// Refused by all that were asked, or failed.
    InVain,
}

/// A ring of minutes, each a count for each ending.
#[derive(Default)]
pub(super) struct Recent {
    cells: [[AtomicU64; 3]; MINUTES as usize],
}

impl Recent {
    /// `minute` counts from any start.
    pub(super) fn add(&self, minute: u32, ending: Ending) {
        let cell = &self.cells[(minute % MINUTES) as usize][ending as usize];
        // Minute and count are one number, so that a cell turns to its next minute and counts in one step.
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let (known, count) = unpack(packed);
            // A call that was late to count is of the minute that the cell has turned to.
            Some(if known >= minute { pack(known, count.saturating_add(1)) } else { pack(minute, 1) })
        });
    }

    /// Counts of the last `minutes`, this one included: by the primary, by the fallback, in vain.
    pub(super) fn sum(&self, now: u32, minutes: u32) -> [u64; 3] {
        let mut sums = [0; 3];
        for cell in &self.cells {
            for (sum, cell) in sums.iter_mut().zip(cell) {
                let (minute, count) = unpack(cell.load(Ordering::Relaxed));
                // A cell of minute 0 that was never counted in holds 0 calls.
                if now.checked_sub(minute).is_some_and(|age| age < minutes) {
                    *sum += u64::from(count);
                }
            }
        }
        sums
    }
}

fn pack(minute: u32, count: u32) -> u64 {
    u64::from(minute) << 32 | u64::from(count)
}

fn unpack(packed: u64) -> (u32, u32) {
    // The halves of a `u64`: nothing is cut off.
    ((packed >> 32) as u32, packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_forgotten_when_its_time_is_over_and_counts_are_by_ending() {
        let recent = Recent::default();
        assert_eq!(recent.sum(0, MINUTES), [0, 0, 0]);
        recent.add(0, Ending::ByPrimary);
        recent.add(0, Ending::InVain);
        recent.add(3, Ending::ByFallback);
        recent.add(3, Ending::ByFallback);
        assert_eq!(recent.sum(3, MINUTES), [1, 2, 1]);
        assert_eq!(recent.sum(3, 1), [0, 2, 0]);
        assert_eq!(recent.sum(MINUTES - 1, MINUTES), [1, 2, 1]);
        assert_eq!(recent.sum(MINUTES, MINUTES), [0, 2, 0]);
        // Minute 18 takes the place of minute 3.
        recent.add(MINUTES + 3, Ending::ByPrimary);
        assert_eq!(recent.sum(MINUTES + 3, MINUTES), [1, 0, 0]);
    }

    #[test]
    fn no_count_is_lost_when_a_minute_turns_under_many_threads() {
        let recent = Recent::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..30_000).for_each(|nth| recent.add(nth / 10_000, Ending::ByPrimary)));
            }
        });
        let sum: u64 = (0..3).map(|minute| recent.sum(minute, 1)[0]).sum();
        assert_eq!(sum, 120_000);
    }
}
