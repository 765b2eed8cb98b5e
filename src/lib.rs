//! Try one credential; if the server refuses it, replay the same request with another.

pub mod classify;
mod credential;
mod error;
mod preference;
pub mod provider;

#[cfg(feature = "json")]
pub use classify::JsonCodeClassifier;
pub use classify::{Classify, Decision, Rejection, RejectionKind, StatusClassifier};
pub use credential::Credential;
pub use error::{BoxError, Error, ErrorKind};
pub use preference::{CredentialChoice, Order, Slot};
pub use provider::{
    AuthProvider, Clock, CredentialError, CredentialFuture, SystemClock, TokenCache, TokenSource, provider_fn,
};
#[cfg(feature = "jwt")]
pub use provider::{ExpiresIn, JwtBearer, JwtGrant, JwtKey, RequestStyle};
