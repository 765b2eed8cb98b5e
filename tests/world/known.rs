//! Faults of the layer that are known, and that the world steps around. `false` looks for one; each goes with its fix.

/// What the primary alone was asked, without a clear answer, is no open question, even if the order is fallback-first a
/// moment later.
pub(crate) const QUESTION_TO_PRIMARY_IS_NOT_OPEN: bool = true;

/// What the log tells counts as served by the fallback at the moment it is read, however old it is.
pub(crate) const LOG_COUNTS_AS_SERVED_NOW: bool = true;

/// The first evidence about a resource is not told to the other replicas, if it speaks for the slot that the resource began
/// with: the primary, or the fallback where that has served it at once.
pub(crate) const FIRST_EVIDENCE_IS_NOT_TOLD: bool = true;

/// An acceptance is not noted as the last one, if another slot has served the resource since its call began. So `moved` may be
/// wrong until the next call.
pub(crate) const OVERLAPPING_IS_NOT_NOTED: bool = true;
