//! May we send it again, and what did it say? The bodies that pass through the layer.

mod kept;
mod peek;
mod replay;
#[cfg(test)]
mod script;
mod seen;
mod source;
mod stream;
mod tee;

pub use peek::PeekBody;
pub use replay::{ReplayBody, Rewind};
pub use tee::CannotRewind;
