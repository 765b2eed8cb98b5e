//! [reqwest](https://docs.rs/reqwest) and [reqwest-middleware](https://docs.rs/reqwest-middleware), both ways.
//!
//! **As a middleware.** [`FallbackMiddleware`] goes anywhere in a stack. What stands before it sees one request and
//! one answer; what stands behind it sees each attempt.
//!
//! ```
//! use tower_credential_fallback::reqwest::FallbackMiddleware;
//! use tower_credential_fallback::{Credential, CredentialFallbackLayer, Outcome};
//!
//! # async fn example() -> Result<(), tower_credential_fallback::BoxError> {
//! let layer = CredentialFallbackLayer::new(
//!     Credential::bearer("old-token")?,
//!     Credential::bearer("new-token")?,
//! )?;
//! let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
//!     .with(FallbackMiddleware::new(layer))
//!     .build();
//! let response = client.get("https://api.example/v1/things").send().await?;
//! println!("{}", Outcome::of_extensions(response.extensions()));
//! # Ok(())
//! # }
//! ```
//!
//! **As a tower service.** [`ReqwestService`] turns a client into a service that the layer wraps:
//!
//! ```
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_credential_fallback::reqwest::ReqwestService;
//! # use tower_credential_fallback::{Credential, CredentialFallbackLayer};
//!
//! # async fn example() -> Result<(), tower_credential_fallback::BoxError> {
//! # let layer = CredentialFallbackLayer::new(
//! #     Credential::bearer("old-token")?,
//! #     Credential::bearer("new-token")?,
//! # )?;
//! let client = ServiceBuilder::new()
//!     .layer(layer)
//!     .service(ReqwestService::new(reqwest::Client::new()));
//! let request = http::Request::get("https://api.example/v1/things").body(reqwest::Body::default())?;
//! let response = reqwest::Response::from(client.oneshot(request).await?);
//! # let _ = response.text().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Bodies
//!
//! A body that reqwest can clone (a text, bytes, JSON, a form) reaches reqwest as such in both attempts, so its own
//! handling of a 307 or of a refused HTTP/2 stream stays as it is. Streams, files and multipart forms go through
//! [`ReplayBody`](crate::ReplayBody). (reqwest-retry fails a call with such a body, wherever it stands in the stack:
//! send uploads without it. [`FallbackMiddleware`] is cheap to clone, and clones share what they have learnt.)
//!
//! # Timeouts
//!
//! reqwest's timeouts, the client's and the request's, are counted for each attempt by itself: a call that is replayed may
//! take twice as long, and the wait for a token comes on top. For a limit to the whole, put `tokio::time::timeout` around
//! the call.
//!
//! # Redirects
//!
//! reqwest follows redirects by itself and takes `Authorization` off when one leads to another host. It does not
//! know other headers to be credentials: with [`Credential::header`](crate::Credential::header), turn redirects
//! off, or follow none but those within the host. In either case, if a redirect has led to another origin and that
//! refuses, the other credential is not shown to it.

mod body;
mod middleware;
mod service;

pub use middleware::FallbackMiddleware;
pub use service::ReqwestService;
