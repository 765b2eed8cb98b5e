//! The world's own counts, and what the layer's report may say of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tower_credential_fallback::{Order, RECENT, Rejection, RejectionKind, Report, Slot, Verdict};

use crate::state::{Call, State};

const KINDS: [RejectionKind; 3] =
    [RejectionKind::Unauthenticated, RejectionKind::Forbidden, RejectionKind::NotFound];

/// The report counts milliseconds.
const TICK: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    Served(Slot),
    Inconclusive,
    Rejected,
    Failed,
    Abandoned,
}

#[derive(Debug, Default)]
struct SlotCounts {
    accepted: u64,
    rejected: [u64; 3],
    inconclusive: u64,
    failed: u64,
    abandoned: u64,
    unavailable: u64,
    last_accepted: Option<Instant>,
    last_needed: Option<Instant>,
}

/// What one replica's calls have met with.
pub(crate) struct Counts {
    started: Instant,
    slots: [SlotCounts; 2],
    replays: u64,
    rejected: u64,
    failed: u64,
    abandoned: u64,
    not_replayed: BTreeMap<&'static str, u64>,
    /// Those of the last quarter of an hour and more.
    endings: VecDeque<(Instant, Ending)>,
    /// Calls that nobody served, and whether an acceptance of the fallback does not settle what they leave open.
    open: VecDeque<(Instant, Option<usize>, bool)>,
    /// When the fallback last served a subject.
    fallback_served: BTreeMap<Option<usize>, Instant>,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            slots: Default::default(),
            replays: 0,
            rejected: 0,
            failed: 0,
            abandoned: 0,
            not_replayed: BTreeMap::new(),
            endings: VecDeque::new(),
            open: VecDeque::new(),
            fallback_served: BTreeMap::new(),
        }
    }

    /// A call has ended. `served`: when the fallback has served such a request, at any replica.
    pub(crate) fn note(
        &mut self,
        call: &Call,
        ending: Ending,
        verdicts: &[Option<Verdict>],
        not_replayed: Option<&'static str>,
        served: Option<Instant>,
    ) {
        let now = Instant::now();
        let unavailable = call.unavailable();
        for (exchange, verdict) in call.exchanges.iter().zip(verdicts) {
            let counts = &mut self.slots[exchange.slot as usize];
            match verdict {
                Some(Verdict::Accepted) => {
                    counts.accepted += 1;
                    counts.last_accepted = Some(now);
                    if call.first() != Some(exchange.slot) {
                        counts.last_needed = Some(now);
                    }
                }
                Some(Verdict::Inconclusive) => counts.inconclusive += 1,
                Some(Verdict::Rejected(rejection)) => counts.rejected[nth_kind(rejection)] += 1,
                None if ending == Ending::Abandoned => counts.abandoned += 1,
                None => counts.failed += 1,
            }
        }
        unavailable.iter().for_each(|slot| self.slots[*slot as usize].unavailable += 1);
        self.replays += u64::from(call.exchanges.len() == 2);
        if let Some(reason) = not_replayed {
            *self.not_replayed.entry(reason).or_default() += 1;
        }
        self.endings.push_back((now, ending));
        while self.endings.front().is_some_and(|(at, _)| now - *at > 2 * RECENT) {
            self.endings.pop_front();
        }
        match ending {
            Ending::Served(slot) => {
                if slot == Slot::Fallback {
                    self.fallback_served.insert(call.spec.resource, now);
                }
                return;
            }
            Ending::Rejected => self.rejected += 1,
            Ending::Failed => self.failed += 1,
            Ending::Abandoned => self.abandoned += 1,
            Ending::Inconclusive => {}
        }
        let is_rejected = |slot| {
            let mut of_slot =
                call.exchanges.iter().zip(verdicts).filter(|(exchange, _)| exchange.slot == slot);
            of_slot.any(|(_, verdict)| matches!(verdict, Some(Verdict::Rejected(_))))
        };
        let is_by_both = is_rejected(Slot::Primary) && is_rejected(Slot::Fallback);
        let was_served = served.is_some_and(|at| now - at < RECENT);
        let says_no = is_rejected(Slot::Fallback) || unavailable.contains(&Slot::Fallback);
        let is_primary_alone = call.first() == Some(Slot::Primary) && !is_rejected(Slot::Primary);
        let is_denied = says_no || is_primary_alone;
        if !is_by_both && (is_denied || !was_served) {
            self.open.push_back((now, call.spec.resource, is_denied));
        }
        while self.open.front().is_some_and(|(at, ..)| now - *at > RECENT) {
            self.open.pop_front();
        }
    }

    /// Whether the fallback has served all that was asked lately, as far as a "yes" has to be sure of that.
    fn has_open_question(&self) -> bool {
        self.open.iter().any(|(at, subject, is_denied)| {
            let is_recent = at.elapsed() + TICK < RECENT;
            let is_answered = self.fallback_served.get(subject).is_some_and(|served| served >= at);
            is_recent && (*is_denied || !is_answered)
        })
    }

    fn ended(&self, within: Duration, is_such: impl Fn(Ending) -> bool) -> u64 {
        self.endings.iter().filter(|(at, ending)| at.elapsed() < within && is_such(*ending)).count() as u64
    }
}

fn nth_kind(rejection: &Rejection) -> usize {
    KINDS.iter().position(|kind| *kind == rejection.kind()).expect("one of them")
}

fn is_about(found: Option<Duration>, at: Option<Instant>) -> bool {
    match (found, at) {
        (Some(found), Some(at)) => found.abs_diff(at.elapsed()) <= TICK,
        (found, at) => found.is_none() && at.is_none(),
    }
}

impl State {
    /// At any time: whether the old credential can be retired.
    pub(crate) fn check_retirement(&mut self, replica: usize, report: &Report) {
        let counts = &self.replicas[replica].counts;
        let told = report.can_retire_primary();
        let primary = &counts.slots[0];
        let was_needed = primary.last_needed.is_some_and(|at| at.elapsed() < RECENT);
        let is_at_edge = primary.last_needed.is_some_and(|at| at.elapsed().abs_diff(RECENT) <= TICK);
        let is_no = was_needed || counts.slots[1].accepted == 0;
        if !is_at_edge {
            self.expect_eq(replica, "whether the primary cannot be retired", told == Some(false), is_no);
        }
        if told == Some(true) {
            let is_first = matches!(report.order, Order::FallbackFirst | Order::FallbackOnly);
            let by_fallback = counts.ended(RECENT, |ending| ending == Ending::Served(Slot::Fallback));
            let by_primary = counts.ended(RECENT - TICK, |ending| ending == Ending::Served(Slot::Primary));
            self.expect_eq(replica, "the order that a yes was said to", is_first, true);
            self.expect_eq(
                replica,
                "whether a yes came before its time",
                counts.started.elapsed() + TICK < RECENT,
                false,
            );
            self.expect_eq(replica, "whether the fallback was seen to serve", by_fallback > 0, true);
            self.expect_eq(replica, "calls served by the primary, and a yes", by_primary, 0);
            self.expect_eq(
                replica,
                "whether a yes was said to an open question",
                counts.has_open_question(),
                false,
            );
            self.summary.yes += 1;
        }
        self.summary.reports += 1;
    }

    /// In a time of quiet: all counts equal the world's.
    pub(crate) fn check_report(&mut self, replica: usize, report: &Report) {
        let counts = &self.replicas[replica].counts;
        for (slot, mine) in [Slot::Primary, Slot::Fallback].into_iter().zip(&counts.slots) {
            let told = report.slot(slot);
            let is = |what: &str, found: u64, expected| {
                self.expect_eq(replica, &format!("{slot}'s {what}"), found, expected);
            };
            is("accepted", told.accepted, mine.accepted);
            for (kind, rejected) in KINDS.into_iter().zip(mine.rejected) {
                is(kind.as_str(), told.refused(kind), rejected);
            }
            is("inconclusive", told.inconclusive, mine.inconclusive);
            is("failed", told.failed, mine.failed);
            is("abandoned", told.abandoned, mine.abandoned);
            is("unavailable", told.unavailable, mine.unavailable);
            let times = [(told.last_accepted, mine.last_accepted), (told.last_needed, mine.last_needed)];
            let are_right = times.map(|(found, at)| is_about(found, at));
            self.expect_eq(replica, &format!("{slot}'s times {times:?}"), are_right, [true, true]);
        }
        let is = |what, found: u64, expected| self.expect_eq(replica, what, found, expected);
        is("replays", report.replays, counts.replays);
        is("rejected calls", report.refused, counts.rejected);
        is("failed calls", report.failed, counts.failed);
        is("abandoned calls", report.abandoned, counts.abandoned);
        is("calls without a credential", report.unsigned, 0);
        self.check_moved(replica, report);
        let told: BTreeMap<_, _> = report.no_replay().collect();
        self.expect_eq(replica, "reasons for no replay", &told, &counts.not_replayed);
        self.check_recent(replica, report);
    }

    /// At any time: how many resources have moved.
    pub(crate) fn check_moved(&self, replica: usize, report: &Report) {
        let resources = self.replicas[replica].model.known.values();
        let moved = resources.clone().filter(|known| known.served == Some(Slot::Fallback)).count();
        let not_moved = resources
            .filter(|known| known.own == Some(Slot::Primary) && known.served != Some(Slot::Fallback))
            .count();
        let what = "resources that have moved, and that have not";
        self.expect_eq(replica, what, (report.moved, report.not_moved), (moved, not_moved));
    }

    /// The report looks back 15 minutes, in whole minutes.
    fn check_recent(&self, replica: usize, report: &Report) {
        let counts = &self.replicas[replica].counts;
        let told = report.recent;
        let within = |found: u64, is_such: &dyn Fn(Ending) -> bool| {
            let (least, most) = (
                counts.ended(RECENT - Duration::from_secs(61), is_such),
                counts.ended(RECENT + TICK, is_such),
            );
            (least..=most).contains(&found)
        };
        let are_right = [
            within(told.by_primary, &|ending| ending == Ending::Served(Slot::Primary)),
            within(told.by_fallback, &|ending| ending == Ending::Served(Slot::Fallback)),
            within(told.inconclusive, &|ending| ending == Ending::Inconclusive),
            within(told.in_vain, &|ending| matches!(ending, Ending::Rejected | Ending::Failed)),
        ];
        self.expect_eq(replica, &format!("whether each of {told:?} is right"), are_right, [true; 4]);
    }
}
