//! Which credential first, for this resource?

mod left_behind;
mod memory;
mod order;
mod resource;
mod shared;

pub(crate) use left_behind::Left;
pub use left_behind::LeftBehind;
pub(crate) use memory::Memory;
pub use order::{CredentialChoice, Order, Slot};
pub use resource::ResourceKey;
pub use shared::{LOG_CAPACITY, Learnt, LogFuture, PreferenceLog, SharedPreferences};
