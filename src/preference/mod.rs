//! Which credential first, for this resource?

mod memory;
mod order;
mod resource;

pub(crate) use memory::Memory;
pub use order::{CredentialChoice, Order, Slot};
pub use resource::ResourceKey;
