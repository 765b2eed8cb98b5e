//! What does not belong to any one item. Documentation only.
//!
//! - [`migrating`]: from the old account to the new one, step by step.
//! - [`internals`]: one request's way through the layer.
//! - [`limitations`]: what it cannot do, and what to do about it.
//! - [`performance`]: what it costs, with the conditions.

#[cfg(doc)]
use crate::*;

pub mod internals;
pub mod limitations;
pub mod migrating;
pub mod performance;
