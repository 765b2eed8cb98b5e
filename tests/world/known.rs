//! Faults of the layer that are known, and that the world steps around. `false` looks for one; each goes with its fix.

/// A call that begins with a hint, whose provider has no credential, and that the other slot serves: that is learnt, although
/// the hint's slot was not rejected.
pub(crate) const HINT_WITHOUT_CREDENTIAL_TEACHES: bool = true;

/// What the primary alone was asked, without a clear answer, is no open question, even if the order is fallback-first a
/// moment later.
pub(crate) const QUESTION_TO_PRIMARY_IS_NOT_OPEN: bool = true;

/// What the log tells counts as served by the fallback at the moment it is read, however old it is.
pub(crate) const LOG_COUNTS_AS_SERVED_NOW: bool = true;

/// Evidence for the primary about a resource that was not known is not told to the other replicas.
pub(crate) const PRIMARY_IS_NOT_TOLD: bool = true;

/// An acceptance is not noted as the last one, if another slot has served the resource since its call began. So `moved` may be
/// wrong until the next call.
pub(crate) const OVERLAPPING_IS_NOT_NOTED: bool = true;
