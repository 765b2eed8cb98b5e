//! May we send it again, and what did it say? The bodies that pass through the layer.

mod peek;
mod replay;

pub use peek::PeekBody;
pub(crate) use peek::Progress;
pub use replay::ReplayBody;
