//! Try one credential; if the server refuses it, replay the same request with another.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod attempt;
mod body;
pub mod classify;
#[cfg(feature = "coze")]
pub mod coze;
mod credential;
mod error;
mod future;
mod layer;
mod origin;
mod outcome;
mod preference;
pub mod provider;
mod service;

pub use body::{PeekBody, ReplayBody};
#[cfg(feature = "json")]
pub use classify::JsonCodeClassifier;
pub use classify::{Classify, Decision, Rejection, RejectionKind, StatusClassifier};
pub use credential::Credential;
pub use error::{BoxError, Error, ErrorKind};
pub use future::ResponseFuture;
pub use layer::CredentialFallbackLayer;
pub use origin::{FinalUri, Origin};
pub use outcome::{Attempt, NoReplay, Outcome};
pub use preference::{CredentialChoice, Order, ResourceKey, Slot};
pub use provider::{
    AuthProvider, Clock, CredentialError, CredentialFuture, SystemClock, TokenCache, TokenSource, provider_fn,
};
pub use service::CredentialFallback;
