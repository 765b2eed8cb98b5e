//! A [`Report`] in words.

use std::fmt;
use std::time::Duration;

use super::{Endings, RECENT, Report, SlotReport};
use crate::classify::RejectionKind;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Can the old credential be retired? {}", Verdict(self))?;
        for (name, slot) in [("old credential (primary)", &self.primary), ("new (fallback)", &self.fallback)]
        {
            writeln!(f, "- {name}: {}", Slot(slot))?;
        }
        let more = if self.has_more_resources { ", and more than are counted" } else { "" };
        writeln!(f, "- resources: {} moved, {} not yet{more}", self.moved, self.not_moved)?;
        writeln!(f, "- calls accepted in the last {}: {}", Span(RECENT), Rate(&self.recent))?;
        writeln!(
            f,
            "- calls accepted since the start {} ago: {}",
            Span(self.age),
            Rate(&self.since_start())
        )?;
        write!(f, "- replays: {}", self.replays)?;
        for (nth, (cause, count)) in self.no_replay().enumerate() {
            write!(f, "{} {cause} {count}", if nth == 0 { "; not replayed:" } else { "," })?;
        }
        for (count, what) in
            [(self.abandoned, "abandoned by their callers"), (self.unsigned, "sent unsigned")]
        {
            if count > 0 {
                write!(f, "; calls {what}: {count}")?;
            }
        }
        Ok(())
    }
}

struct Verdict<'r>(&'r Report);

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let span = Span(RECENT);
        match report.can_retire_primary() {
            Some(true) => write!(
                f,
                "Yes, as far as the last {span} show: the new one is asked first and has answered {} calls, and \
                 the old one was not needed. What runs more rarely than that has not been seen.",
                report.recent.by_fallback
            ),
            Some(false) => match report.primary.last_needed {
                Some(ago) if ago < RECENT => {
                    write!(
                        f,
                        "No: it was needed {} ago, where the new one was refused or not to be had.",
                        Span(ago)
                    )
                }
                _ => f.write_str("No: the new one has not been accepted for anything yet."),
            },
            None if !report.order.is_fallback_first() => write!(
                f,
                "Not known: the old one is still asked first ({:?}). Set the order to FallbackFirst, and see \
                 whether it is needed.",
                report.order
            ),
            None if report.last_open.is_some_and(|ago| ago < RECENT) => write!(
                f,
                "Not known: what was asked {} ago has had no clear answer from the new one.",
                Span(report.last_open.unwrap_or_default())
            ),
            None if report.recent.by_primary > 0 => write!(
                f,
                "Not known: in the last {span} the old one has answered {} calls that the new one was not asked \
                 for.",
                report.recent.by_primary
            ),
            None if report.age < RECENT => {
                write!(f, "Not known yet: that takes {span} of calls, and these are {}.", Span(report.age))
            }
            None if report.recent.calls() == 0 => {
                write!(f, "Not known: there were no calls in the last {span}.")
            }
            None => write!(
                f,
                "Not known: of the {} calls in the last {span}, the new one has answered none.",
                report.recent.calls()
            ),
        }
    }
}

struct Slot<'r>(&'r SlotReport);

impl fmt::Display for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.0;
        write!(f, "accepted {}, refused {}", slot.accepted, slot.refused_in_all())?;
        let kinds = RejectionKind::ALL.into_iter().map(|kind| (kind.as_str(), slot.refused(kind)));
        let kinds: Vec<_> = kinds.filter(|(_, count)| *count > 0).collect();
        for (nth, (kind, count)) in kinds.iter().enumerate() {
            write!(f, "{}{kind} {count}", if nth == 0 { " (" } else { ", " })?;
        }
        if !kinds.is_empty() {
            f.write_str(")")?;
        }
        for (count, what) in [
            (slot.inconclusive, "inconclusive"),
            (slot.failed, "failed"),
            (slot.abandoned, "abandoned"),
            (slot.unavailable, "not to be had"),
        ] {
            if count > 0 {
                write!(f, ", {what} {count}")?;
            }
        }
        match slot.last_accepted {
            Some(ago) => write!(f, "; last accepted {} ago", Span(ago)),
            None => f.write_str("; never accepted"),
        }
    }
}

struct Rate<'r>(&'r Endings);

impl fmt::Display for Rate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.0.calls();
        match self.0.success_rate() {
            // Rounded down: 100 % is said only where nothing went wrong.
            Some(rate) => {
                let conclusive = calls - self.0.inconclusive;
                write!(f, "{:.2} % of {conclusive}", (rate * 10_000.0).floor() / 100.0)?;
            }
            None => f.write_str("none")?,
        }
        if self.0.inconclusive > 0 {
            write!(f, ", and {} inconclusive", self.0.inconclusive)?;
        }
        Ok(())
    }
}

/// A time in its largest unit or two.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, seconds) => write!(f, "{seconds} s"),
            (0, 0, minutes, 0) => write!(f, "{minutes} min"),
            (0, 0, minutes, seconds) => write!(f, "{minutes} min {seconds} s"),
            (0, hours, minutes, _) => write!(f, "{hours} h {minutes} min"),
            (days, hours, ..) => write!(f, "{days} d {hours} h"),
        }
    }
}
