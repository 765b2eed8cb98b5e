//! Which credential first?

mod order;

pub use order::{CredentialChoice, Order, Slot};
