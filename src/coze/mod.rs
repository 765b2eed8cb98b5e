//! A preset for the [Coze](https://www.coze.com) (扣子) OpenAPI: what a refusal is there, what a request is
//! about, and where the API lives.
//!
//! When a workspace moves from a personal to an enterprise account, the personal credential is refused for
//! it from that moment on. With [`tokens`], one line makes a client that goes on with the enterprise
//! account's token:
//!
//! ```
//! use tower::ServiceBuilder;
//! use tower_credential_fallback::coze::{self, Region};
//!
//! # fn main() -> Result<(), tower_credential_fallback::Error> {
//! let client = ServiceBuilder::new()
//!     .layer(coze::tokens(&Region::Cn, "pat_personal", "pat_enterprise")?);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```

mod classifier;
mod conversation;
#[cfg(feature = "jwt")]
mod oauth;
mod region;
mod resource;
#[cfg(feature = "simulator")]
pub mod simulator;
#[cfg(feature = "oauth")]
mod user_app;

pub use classifier::CozeClassifier;
pub use conversation::FreshConversations;
#[cfg(feature = "jwt")]
pub use oauth::{OAuthApp, oauth_app};
pub use region::Region;
pub use resource::CozeResource;
#[cfg(feature = "oauth")]
pub use user_app::{user_app, workspace_user_app};

use crate::credential::Credential;
use crate::error::Error;
use crate::layer::CredentialFallbackLayer;
use crate::provider::AuthProvider;

/// A layer over two personal (or service) access tokens.
///
/// It sends them to the region's API alone.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `token`, if one is empty or has characters
/// that no token has; for `fallback`, if both are the same.
pub fn tokens(
    region: &Region,
    personal: impl AsRef<str>,
    enterprise: impl AsRef<str>,
) -> Result<CredentialFallbackLayer<Credential, Credential>, Error> {
    layer(region, Credential::bearer(personal)?, Credential::bearer(enterprise)?)
}

/// A layer over any two providers, set up for Coze: [`CozeClassifier`], [`CozeResource`] and the region's
/// origins.
///
/// # Errors
///
/// As [`CredentialFallbackLayer::new`].
pub fn layer<P: AuthProvider, E: AuthProvider>(
    region: &Region,
    personal: P,
    enterprise: E,
) -> Result<CredentialFallbackLayer<P, E>, Error> {
    Ok(CredentialFallbackLayer::new(personal, enterprise)?
        .with_classifier(CozeClassifier::new())
        .with_resource_key(CozeResource::new())
        .with_origins(region.origins()))
}

/// What accounts' UIDs and the IDs of workspaces, bots and the like are made of.
fn is_digits(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
}
