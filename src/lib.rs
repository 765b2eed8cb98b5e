//! Try one credential; if the server refuses it, replay the same request with another.
//!
//! An HTTP client holds two credentials for one API: the one it has always used (*primary*) and the one it is
//! moving to (*fallback*). While resources move from the old account to the new one, any request may need
//! either. [`CredentialFallbackLayer`] sends a request with one of them; if the server refuses *that
//! credential*, it replays the same request, body included, with the other. The caller sees one answer.
//!
//! ```text
//! request ── which slot first? ──▶ provider ──▶ attempt 1 ──▶ is it a refusal? ── no ──▶ answer
//!                                                                 │ yes
//!                           answer ◀── attempt 2 ◀── other provider ◀── read the refusal to its end
//! ```
//!
//! At most two attempts, ever. A network error, a timeout, a 429 or a 5xx is never a reason for the second.
//!
//! # Quick start
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_credential_fallback::{Credential, CredentialFallbackLayer, Outcome, Slot};
//!
//! # async fn example() -> Result<(), tower_credential_fallback::BoxError> {
//! let mut client = ServiceBuilder::new()
//!     .layer(CredentialFallbackLayer::new(
//!         Credential::bearer("old-token")?,
//!         Credential::bearer("new-token")?,
//!     )?)
//!     .service(Client::builder(TokioExecutor::new()).build_http());
//!
//! let request = Request::get("http://127.0.0.1:8080/v1/things").body(Full::<Bytes>::default())?;
//! let response = client.ready().await?.call(request).await?;
//! if Outcome::of(&response).served_by() == Some(Slot::Fallback) {
//!     println!("this one has moved");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | question | answer |
//! | --- | --- |
//! | who gives the credential? | [`provider`]: a [`Credential`] itself, [`provider_fn`], [`TokenCache`], `JwtBearer`, `oauth::UserTokens` |
//! | what is a refusal? | [`classify`]: [`StatusClassifier`], your own [`Classify`] |
//! | which credential first? | [`Order`], [`CredentialChoice`], [`ResourceKey`], [`SharedPreferences`] |
//! | what happened? | [`Outcome`] for one call, [`FallbackHandle`] for all of them, [`observe`] for your tools |
//! | where may a credential go? | [`CredentialFallbackLayer::with_origins`] |
//! | what of streaming uploads? | [`ReplayBody`], [`with_replay_limit`](CredentialFallbackLayer::with_replay_limit) |
//!
//! # Features
//!
//! Only `http2` is on by default.
//!
//! | feature | adds |
//! | --- | --- |
//! | `http2` | an upload that was refused on HTTP/2 and is sent again is reset with CANCEL, not INTERNAL_ERROR |
//! | `json` | `JsonCodeClassifier`: refusals told by a code in a JSON answer |
//! | `jwt` | `JwtBearer`: tokens minted with a signed assertion (RFC 7523) |
//! | `oauth` | `oauth`: tokens on a user's behalf (authorization code, PKCE, device codes), and `store`: where they live |
//! | `redis` | `store::RedisStore`: one store for all replicas |
//! | `redis-tls` | … over TLS |
//! | `coze` | `coze`: the preset for the Coze OpenAPI; with `jwt` or `oauth` also for its OAuth apps |
//! | `simulator` | `coze::simulator`: a local Coze to rehearse a migration on |
//! | `reqwest` | `reqwest`: a middleware for reqwest-middleware, and reqwest's clients as inner services |
//! | `tracing` | `observe::Traces`: a span for each call, an event for each fact |
//! | `metrics` | `observe::Metrics`: counters and a histogram for the `metrics` facade |
//! | `follow-redirect` | sees where tower-http's `FollowRedirect` (0.6 or 0.7) went: turn it on if you put that inside |
//!
//! # More
//!
//! [`guide`] has a migration step by step, the internals, the limitations and what it all costs.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod attempt;
mod body;
mod call;
pub mod classify;
#[cfg(feature = "coze")]
pub mod coze;
mod credential;
mod error;
mod escape;
mod future;
#[cfg(any(doc, doctest))]
pub mod guide;
mod handle;
mod headers;
#[cfg(feature = "jwt")]
mod hex;
mod lane;
mod layer;
mod ledger;
#[cfg(feature = "oauth")]
pub mod oauth;
pub mod observe;
mod origin;
mod outcome;
mod policy;
mod pooled;
mod preference;
pub mod provider;
mod report;
#[cfg(feature = "reqwest")]
pub mod reqwest;
mod second;
mod service;
#[cfg(feature = "oauth")]
pub mod store;

pub use body::{CannotRewind, PeekBody, ReplayBody, Rewind};
#[cfg(feature = "json")]
pub use classify::JsonCodeClassifier;
pub use classify::{BodyPrefix, Classify, Decision, Rejection, RejectionKind, StatusClassifier};
pub use credential::Credential;
pub use error::{BoxError, Error, ErrorKind};
pub use future::ResponseFuture;
pub use handle::FallbackHandle;
pub use layer::CredentialFallbackLayer;
pub use origin::{FinalUri, Origin};
pub use outcome::{Attempt, NoReplay, Outcome, Verdict};
pub use preference::{
    CredentialChoice, LOG_CAPACITY, Learnt, LeftBehind, LogFuture, Order, PreferenceLog, ResourceKey,
    SharedPreferences, Slot,
};
pub use provider::{
    AuthProvider, Clock, CredentialError, CredentialFuture, SystemClock, TokenCache, TokenSource, provider_fn,
};
#[cfg(any(feature = "jwt", feature = "oauth"))]
pub use provider::{ExpiresIn, HttpClient, RequestStyle};
#[cfg(feature = "jwt")]
pub use provider::{JwtBearer, JwtGrant, JwtKey};
pub use report::{Endings, RECENT, Report, SlotReport};
pub use service::CredentialFallback;

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
