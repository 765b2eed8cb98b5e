//! Our bodies as reqwest's.

use ::reqwest::Body;

use crate::body::{PeekBody, ReplayBody};

impl From<ReplayBody<Body>> for Body {
    /// What is in memory stays a body that reqwest can clone.
    fn from(body: ReplayBody<Body>) -> Self {
        match body.into_content() {
            Ok(content) => Self::from(content),
            Err(stream) => Self::wrap(stream),
        }
    }
}

impl From<PeekBody<Body>> for Body {
    fn from(body: PeekBody<Body>) -> Self {
        match body.into_unlooked() {
            Ok(inner) => inner,
            Err(looked_at) => Self::wrap(looked_at),
        }
    }
}
