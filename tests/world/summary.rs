//! What a world's table shows.

use std::collections::BTreeMap;

/// What the table shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) calls: u64,
    pub(crate) requests: u64,
    pub(crate) served: u64,
    pub(crate) inconclusive: u64,
    pub(crate) rejected: u64,
    pub(crate) failed: u64,
    pub(crate) abandoned: u64,
    pub(crate) evidence: u64,
    pub(crate) stale: u64,
    pub(crate) hints: u64,
    pub(crate) moves: u64,
    pub(crate) adopted: u64,
    pub(crate) reports: u64,
    pub(crate) yes: u64,
    pub(crate) minutes: u64,
    pub(crate) not_replayed: BTreeMap<&'static str, u64>,
}

impl Summary {
    pub(crate) fn rows(&self) -> Vec<(&'static str, u64)> {
        let mut rows = vec![
            ("virtual minutes", self.minutes),
            ("calls", self.calls),
            ("requests", self.requests),
            ("served", self.served),
            ("inconclusive", self.inconclusive),
            ("rejected", self.rejected),
            ("failed", self.failed),
            ("abandoned", self.abandoned),
            ("moves", self.moves),
            ("evidence", self.evidence),
            ("stale evidence", self.stale),
            ("hints used", self.hints),
            ("learnt from the log", self.adopted),
            ("reports looked at", self.reports),
            ("\"yes, retire\"", self.yes),
        ];
        let reasons = ["body_failed", "body_too_large", "cooling_down", "interaction_required", "only_one"];
        rows.extend(
            reasons
                .into_iter()
                .chain(["provider_unavailable"])
                .map(|reason| (reason, self.not_replayed.get(reason).copied().unwrap_or_default())),
        );
        rows
    }
}
