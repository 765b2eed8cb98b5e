//! Tokens on a user's behalf: [`OAuthClient`] gets them, [`UserTokens`] gives them to requests.
//!
//! ```text
//! browser ── login ──→ authorize() ──→ the identity server's page ──→ callback ──→ finish() ──→ Grant
//! terminal ─────────→ start_device() ──→ "enter this code" ──→ poll_device() ─────────────────→   │
//!                                                                                     sign_in()  ▼
//! request with a UserId ──→ UserTokens ── cached? ──→ token                              TokenStore
//!                               └── no ──→ load, or lease + refresh + save ──────────────────┘
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use tower_credential_fallback::oauth::{OAuthClient, OAuthConfig, UserId, UserTokens};
//! use tower_credential_fallback::store::MemoryStore;
//! # use bytes::Bytes;
//! # use http_body_util::Full;
//! # use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
//!
//! # fn main() -> Result<(), tower_credential_fallback::Error> {
//! # let http = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(HttpConnector::new());
//! let config = OAuthConfig::new("client-42", "https://identity.example.com/oauth2/token")
//!     .with_authorize_url("https://identity.example.com/oauth2/authorize")
//!     .with_redirect_uri("https://app.example.com/callback");
//! let client = OAuthClient::new(http, config)?;
//! let users = UserTokens::new(client, Arc::new(MemoryStore::new()), |_: &UserId| {
//!     "https://app.example.com/login".to_owned()
//! });
//! // In a layer's slot, and each request names its user:
//! let request = http::Request::get("https://api.example.com/").extension(UserId::new("alice")).body(()).unwrap();
//! # let _ = (users, request);
//! # Ok(())
//! # }
//! ```

mod client;
mod config;
mod device;
mod error;
mod finish;
mod gate;
mod grant;
mod login;
mod person;
mod refresh;
mod report;
mod round;
mod spending;
mod user_tokens;
mod user_tokens_builder;

pub use client::OAuthClient;
pub use config::OAuthConfig;
pub use device::DeviceLogin;
pub use error::{OAuthError, OAuthErrorKind};
pub use grant::Grant;
pub use login::Login;
pub use oauth2::RefreshToken;
pub use user_tokens::{UserId, UserTokens};
pub use user_tokens_builder::UserTokensBuilder;
