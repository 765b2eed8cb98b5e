//! [`Tally`]: how often something has happened, in all and in the last minutes, and when it last did.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far back it is remembered, this minute included.
pub(crate) const MINUTES: u32 = 15;

/// Milliseconds.
pub(super) const MINUTE: u64 = 60_000;

/// A count that notes where it stood when each of the last minutes began: so that it costs one step to count, whatever the
/// minute.
///
/// Times are those of [`Stats::now`](super::Stats): milliseconds, whose first minute is none in which anything happens.
#[derive(Default)]
pub(super) struct Tally {
    count: AtomicU64,
    /// When it last happened; 0 for never.
    last: AtomicU64,
    /// A ring: each the number of a minute, and the lower half of the count before the first time in it.
    starts: [AtomicU64; MINUTES as usize],
}

impl Tally {
    #[inline]
    pub(super) fn add(&self, now: u64) {
        // Looked at before it is counted, and set behind: who sees this minute there, counts after one who has turned to it.
        let last = self.last.load(Ordering::Acquire);
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        if minute(last) != minute(now) {
            self.turn(minute(now), before);
        }
        self.last.store(now, Ordering::Release);
    }

    /// The first in its minute, as far as can be told.
    #[cold]
    fn turn(&self, minute: u32, before: u64) {
        let start = &self.starts[(minute % MINUTES) as usize];
        // Another thread may have noted it with a count that is a little higher, or a minute that is later.
        let _ = start.fetch_update(Ordering::Release, Ordering::Relaxed, |packed| {
            let (known, count) = unpack(packed);
            // Only the lower half is kept, and that is enough for a difference.
            let before = before as u32;
            let is_better = known < minute || known == minute && before.wrapping_sub(count) > u32::MAX / 2;
            is_better.then(|| pack(minute, before))
        });
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// When it last happened; 0 for never.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// How often in the last [`MINUTES`], this one included.
    pub(super) fn recent(&self, now: u64) -> u64 {
        let first = minute(now).saturating_sub(MINUTES - 1).max(1);
        // The starts before the count, so that none is of later.
        let starts = self.starts.each_ref().map(|start| unpack(start.load(Ordering::Acquire)));
        let count = self.count() as u32;
        let within = starts.iter().filter(|(minute, _)| *minute >= first);
        within.map(|(_, start)| count.wrapping_sub(*start)).max().unwrap_or(0).into()
    }
}

/// It wraps after 8,000 years.
fn minute(time: u64) -> u32 {
    (time / MINUTE) as u32
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
    fn a_minute_is_forgotten_when_its_time_is_over() {
        let tally = Tally::default();
        assert_eq!((tally.count(), tally.last(), tally.recent(MINUTE)), (0, 0, 0));
        tally.add(MINUTE);
        tally.add(MINUTE + 7);
        tally.add(4 * MINUTE);
        assert_eq!((tally.count(), tally.last()), (3, 4 * MINUTE));
        let minutes = u64::from(MINUTES);
        assert_eq!(tally.recent(4 * MINUTE), 3);
        assert_eq!(tally.recent(minutes * MINUTE), 3);
        assert_eq!(tally.recent((minutes + 1) * MINUTE), 1);
        // It takes the place of the first of all.
        tally.add((minutes + 1) * MINUTE);
        assert_eq!(tally.recent((minutes + 1) * MINUTE), 2);
        assert_eq!(tally.recent((minutes + 4) * MINUTE), 1);
        assert_eq!(tally.recent(100 * minutes * MINUTE), 0);
        assert_eq!(tally.count(), 4);
    }

    #[test]
    fn who_is_late_to_count_takes_nothing_from_the_minutes_behind() {
        let tally = Tally::default();
        [2, 1, 2].iter().for_each(|minute| tally.add(minute * MINUTE));
        assert_eq!(
            (tally.recent(2 * MINUTE), tally.recent(16 * MINUTE), tally.recent(17 * MINUTE)),
            (3, 3, 0)
        );
    }

    #[test]
    fn a_count_beyond_what_is_kept_of_it_does_not_matter() {
        let tally = Tally { count: AtomicU64::new(u64::from(u32::MAX)), ..Tally::default() };
        tally.add(MINUTE);
        tally.add(2 * MINUTE);
        assert_eq!((tally.recent(2 * MINUTE), tally.count()), (2, 1 << 32 | 1));
    }

    #[test]
    fn no_count_is_lost_when_a_minute_turns_under_many_threads() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..30_000).for_each(|nth| tally.add((1 + nth / 10_000) * MINUTE)));
            }
        });
        assert_eq!((tally.recent(3 * MINUTE), tally.count()), (120_000, 120_000));
        // Those of the last two minutes, and of the last, at the least: who is late is counted in a later one.
        assert!((80_000..120_000).contains(&tally.recent(16 * MINUTE)));
        assert!((40_000..120_000).contains(&tally.recent(17 * MINUTE)));
    }
}
