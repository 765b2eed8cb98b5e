//! Faults of the layer that are known, and that the world steps around. `false` looks for one; each goes with its fix.

/// What the log tells counts as served by the fallback at the moment it is read, however old it is.
pub(crate) const LOG_COUNTS_AS_SERVED_NOW: bool = true;

/// An acceptance is not noted as the last one, if another slot has served the resource since its call began. So `moved` may be
/// wrong until the next call.
pub(crate) const OVERLAPPING_IS_NOT_NOTED: bool = true;
