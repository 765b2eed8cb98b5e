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
    /// What was not looked at is reqwest's own body again; what is whole is one in memory.
    fn from(body: PeekBody<Body>) -> Self {
        let own = body.into_untouched().or_else(|body| body.into_content().map(Self::from));
        own.unwrap_or_else(Self::wrap)
    }
}
