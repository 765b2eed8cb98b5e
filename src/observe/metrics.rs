//! [`Metrics`]: the facts as numbers for the `metrics` facade.

use std::sync::Arc;

use ::metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};
use http::{Method, Uri};

use super::{CallEvent, Ending, Observe, ObserveCall, TokenEvent};
use crate::classify::RejectionKind;
use crate::outcome::{NoReplay, Verdict};
use crate::preference::Slot;

/// Counters and a histogram, for whatever recorder is installed (Prometheus, StatsD, …).
///
/// | metric | kind | labels |
/// | --- | --- | --- |
/// | `credential_fallback_calls_total` | counter | `ending`: accepted, inconclusive, refused, failed, abandoned, unsigned; `slot` |
/// | `credential_fallback_attempts_total` | counter | `slot`; `verdict`: accepted, inconclusive, refused, failed, abandoned; `reason`: unauthenticated, forbidden, not_found, none |
/// | `credential_fallback_needed_total` | counter | `slot` that was accepted where the other was refused or not to be had |
/// | `credential_fallback_replays_total` | counter | `slot`, of the replay |
/// | `credential_fallback_not_replayed_total` | counter | `cause`: see [`NoReplay::as_str`] |
/// | `credential_fallback_unavailable_total` | counter | `slot` |
/// | `credential_fallback_tokens_total` | counter | `slot`; `event`: minted, renewed, mint_failed, renewal_failed, dropped, and with `oauth`: not_saved, grant_lost, grant_unreadable |
/// | `credential_fallback_added_seconds` | histogram | `replayed`: true, false |
///
/// Each label has a handful of values, none of which comes from outside. Every series is there from the start,
/// so that a rate is never missing its first step.
///
/// Make it after the recorder was installed: what is counted before goes nowhere.
///
/// ```
/// use tower_credential_fallback::observe::Metrics;
/// # use tower_credential_fallback::{Credential, CredentialFallbackLayer};
///
/// # fn main() -> Result<(), tower_credential_fallback::Error> {
/// # let (old, new) = (Credential::bearer("old")?, Credential::bearer("new")?);
/// // metrics_exporter_prometheus::PrometheusBuilder::new().install()?;
/// let layer = CredentialFallbackLayer::new(old, new)?.with_observer(Metrics::new());
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Metrics {
    series: Arc<Series>,
}

struct Series {
    slots: [SlotMetrics; 2],
    failed: Counter,
    abandoned: Counter,
    unsigned: Counter,
    not_replayed: [Counter; NoReplay::NAMES.len()],
    /// Without and with a replay.
    added: [Histogram; 2],
}

struct SlotMetrics {
    accepted: Counter,
    refused: [Counter; RejectionKind::ALL.len()],
    inconclusive: Counter,
    failed: Counter,
    abandoned: Counter,
    ended_accepted: Counter,
    ended_inconclusive: Counter,
    ended_refused: Counter,
    needed: Counter,
    replays: Counter,
    unavailable: Counter,
    minted: Counter,
    renewed: Counter,
    mint_failed: Counter,
    renewal_failed: Counter,
    dropped: Counter,
    #[cfg(feature = "oauth")]
    not_saved: Counter,
    #[cfg(feature = "oauth")]
    grant_lost: Counter,
    #[cfg(feature = "oauth")]
    grant_unreadable: Counter,
}

const CALLS: &str = "credential_fallback_calls_total";
const ATTEMPTS: &str = "credential_fallback_attempts_total";
const NEEDED: &str = "credential_fallback_needed_total";
const REPLAYS: &str = "credential_fallback_replays_total";
const NOT_REPLAYED: &str = "credential_fallback_not_replayed_total";
const UNAVAILABLE: &str = "credential_fallback_unavailable_total";
const TOKENS: &str = "credential_fallback_tokens_total";
const ADDED: &str = "credential_fallback_added_seconds";

impl Metrics {
    /// Registers every series with the recorder that is installed.
    pub fn new() -> Self {
        describe_counter!(CALLS, "Calls, by how they ended and the credential of their last attempt.");
        describe_counter!(ATTEMPTS, "Requests sent, by credential and by what was said to them.");
        describe_counter!(
            NEEDED,
            "Calls accepted with this credential, where the other was refused or not to be had."
        );
        describe_counter!(REPLAYS, "Requests sent again with this credential, after a refusal.");
        describe_counter!(NOT_REPLAYED, "Refused requests that were not sent again, by cause.");
        describe_counter!(UNAVAILABLE, "Times that a provider had no credential.");
        describe_counter!(TOKENS, "What happened to tokens.");
        describe_histogram!(
            ADDED,
            ::metrics::Unit::Seconds,
            "Time that the layer added to a call, beside its answering attempt."
        );
        let call = |ending: &'static str| counter!(CALLS, "ending" => ending, "slot" => "none");
        let series = Series {
            slots: [Slot::Primary, Slot::Fallback].map(SlotMetrics::new),
            failed: call("failed"),
            abandoned: call("abandoned"),
            unsigned: call("unsigned"),
            not_replayed: NoReplay::NAMES.map(|cause| counter!(NOT_REPLAYED, "cause" => cause)),
            added: ["false", "true"].map(|replayed| histogram!(ADDED, "replayed" => replayed)),
        };
        Self { series: Arc::new(series) }
    }
}

impl Series {
    fn slot(&self, slot: Slot) -> &SlotMetrics {
        match slot {
            Slot::Primary => &self.slots[0],
            Slot::Fallback => &self.slots[1],
        }
    }
}

impl SlotMetrics {
    fn new(slot: Slot) -> Self {
        let slot = slot.as_str();
        let attempts = |verdict: &'static str, reason: &'static str| counter!(ATTEMPTS, "slot" => slot, "verdict" => verdict, "reason" => reason);
        let call = |ending: &'static str| counter!(CALLS, "ending" => ending, "slot" => slot);
        let token = |event: &'static str| counter!(TOKENS, "slot" => slot, "event" => event);
        Self {
            accepted: attempts("accepted", "none"),
            refused: RejectionKind::ALL.map(|kind| attempts("refused", kind.as_str())),
            inconclusive: attempts("inconclusive", "none"),
            failed: attempts("failed", "none"),
            abandoned: attempts("abandoned", "none"),
            ended_accepted: call("accepted"),
            ended_inconclusive: call("inconclusive"),
            ended_refused: call("refused"),
            needed: counter!(NEEDED, "slot" => slot),
            replays: counter!(REPLAYS, "slot" => slot),
            unavailable: counter!(UNAVAILABLE, "slot" => slot),
            minted: token("minted"),
            renewed: token("renewed"),
            mint_failed: token("mint_failed"),
            renewal_failed: token("renewal_failed"),
            dropped: token("dropped"),
            #[cfg(feature = "oauth")]
            not_saved: token("not_saved"),
            #[cfg(feature = "oauth")]
            grant_lost: token("grant_lost"),
            #[cfg(feature = "oauth")]
            grant_unreadable: token("grant_unreadable"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observe for Metrics {
    fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
        Box::new(Measured {
            series: Arc::clone(&self.series),
            is_replayed: false,
            under_way: None,
            out_of_use: None,
        })
    }

    fn token(&self, slot: Slot, event: &TokenEvent<'_>) {
        let slot = self.series.slot(slot);
        let counter = match event {
            TokenEvent::Minted { is_renewal: false, .. } => &slot.minted,
            TokenEvent::Minted { is_renewal: true, .. } => &slot.renewed,
            TokenEvent::MintFailed { is_renewal: false, .. } => &slot.mint_failed,
            TokenEvent::MintFailed { is_renewal: true, .. } => &slot.renewal_failed,
            TokenEvent::Dropped => &slot.dropped,
            #[cfg(feature = "oauth")]
            TokenEvent::NotSaved { .. } => &slot.not_saved,
            #[cfg(feature = "oauth")]
            TokenEvent::GrantLost => &slot.grant_lost,
            #[cfg(feature = "oauth")]
            TokenEvent::GrantUnreadable { .. } => &slot.grant_unreadable,
        };
        counter.increment(1);
    }
}

struct Measured {
    series: Arc<Series>,
    is_replayed: bool,
    /// The slot of the attempt that has not ended yet.
    under_way: Option<Slot>,
    /// The slot that was refused, or not to be had.
    out_of_use: Option<Slot>,
}

impl ObserveCall for Measured {
    fn event(&mut self, event: &CallEvent<'_>) {
        let series = &self.series;
        match event {
            CallEvent::Unavailable { slot, .. } => {
                self.out_of_use = Some(*slot);
                series.slot(*slot).unavailable.increment(1);
            }
            CallEvent::Attempt { slot, is_replay } => {
                self.under_way = Some(*slot);
                if *is_replay {
                    self.is_replayed = true;
                    series.slot(*slot).replays.increment(1);
                }
            }
            CallEvent::Answered { slot, verdict, .. } => {
                self.under_way = None;
                let slot_series = series.slot(*slot);
                let counter = match verdict {
                    Verdict::Accepted => &slot_series.accepted,
                    Verdict::Inconclusive => &slot_series.inconclusive,
                    Verdict::Rejected(rejection) => {
                        self.out_of_use = Some(*slot);
                        &slot_series.refused[rejection.kind() as usize]
                    }
                };
                counter.increment(1);
            }
            CallEvent::Failed { slot } => {
                self.under_way = None;
                series.slot(*slot).failed.increment(1);
            }
            CallEvent::NotReplayed { reason } => series.not_replayed[reason.index()].increment(1),
            CallEvent::End { ending, added } => {
                let counter = match ending {
                    Ending::Accepted(slot) => {
                        if self.out_of_use == Some(slot.other()) {
                            series.slot(*slot).needed.increment(1);
                        }
                        &series.slot(*slot).ended_accepted
                    }
                    Ending::Inconclusive(slot) => &series.slot(*slot).ended_inconclusive,
                    Ending::Refused(slot) => &series.slot(*slot).ended_refused,
                    Ending::Failed => &series.failed,
                    Ending::Abandoned => &series.abandoned,
                    Ending::Unsigned => &series.unsigned,
                };
                counter.increment(1);
                if let Some(slot) = self.under_way.take().filter(|_| *ending == Ending::Abandoned) {
                    series.slot(slot).abandoned.increment(1);
                }
                if matches!(ending, Ending::Accepted(_) | Ending::Inconclusive(_) | Ending::Refused(_)) {
                    series.added[usize::from(self.is_replayed)].record(added.as_secs_f64());
                }
            }
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
