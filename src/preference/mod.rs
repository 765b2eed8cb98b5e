//! Which credential first, for this resource?

mod expiring;
mod left_behind;
mod memory;
mod order;
mod resource;
mod shared;

pub(crate) use expiring::Expiring;
pub use left_behind::LeftBehind;
pub(crate) use left_behind::{Left, LeftMemory};
pub(crate) use memory::{Known, Memory};
pub use order::{CredentialChoice, Order, Slot};
pub use resource::ResourceKey;
pub use shared::{LOG_CAPACITY, Learnt, LogFuture, PreferenceLog, SharedPreferences};

/// How long a hint waits for the call that it is for. A caller that comes back later starts as if it were new.
pub(crate) const HINT_FOR: std::time::Duration = std::time::Duration::from_secs(600);
