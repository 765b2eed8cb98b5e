//! What does not belong to any one item. Documentation only.
//!
//! - [`migrating`]: from the old account to the new one, step by step.
#![cfg_attr(feature = "oauth", doc = "- [`on_behalf`]: tokens of users, shared by all replicas.")]
//! - [`internals`]: one request's way through the layer.
//! - [`limitations`]: what it cannot do, and what to do about it.
//! - [`performance`]: what it costs, with the conditions.

#[cfg(doc)]
use crate::*;

pub mod internals;
pub mod limitations;
pub mod migrating;
#[cfg(feature = "oauth")]
pub mod on_behalf;
pub mod performance;
