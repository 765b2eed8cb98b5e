//! From the old account to the new one: prepare, verify, move, observe, retire.
//!
//! The examples are Coze's. For another API, read "workspace" as whatever moves, and bring a classifier of your own.
//!
//! # 1. Prepare
//!
//! Get the new credential: an access token of the enterprise, or let an administrator of the enterprise authorise
//! the OAuth app that you have. Put the layer around your client:
//!
//! ```
//! # #[cfg(feature = "coze")] {
//! use tower_credential_fallback::coze::{self, Region};
//!
//! # fn main() -> Result<(), tower_credential_fallback::Error> {
//! let layer = coze::tokens(&Region::Cn, "pat_personal", "pat_enterprise")?;
//! let handle = layer.handle();
//! # let _ = handle;
//! # Ok(())
//! # }
//! # }
//! ```
//!
//! and deploy that. Nothing changes: the primary is asked first, and accepted. Keep the handle where an
//! operator can reach it (an admin route, a signal).
//!
//! Three things are worth a decision now:
//!
//! - **Uploads that stream.** A stream is replayed if it is refused before more than
//!   [`with_replay_limit`](CredentialFallbackLayer::with_replay_limit) has been sent. Servers that read an upload to
//!   its end before they refuse it need a limit as large as the upload, or a caller that tries again.
//! - **Conversations.** They stay behind. `coze::FreshConversations` lets a chat go on without its own.
//! - **What names no resource.** Uploads and lists are accepted by either account. Pin them with
//!   [`CredentialChoice`], by what they are for.
//!
//! # 2. Verify
//!
//! Before anything moves, make a workspace and a bot in the enterprise and ask for them. Only the new credential
//! can serve them, so success proves the fallback. The example `verify` does this for a list of requests, asks
//! each with each credential ([`CredentialChoice::Only`]), prints who can serve what, and exits with 1 if the
//! fallback cannot serve what it has to:
//!
//! ```text
//! COZE_API_BASE=https://api.coze.cn COZE_API_TOKEN=… COZE_API_TOKEN_ENTERPRISE=… \
//!     cargo run --example verify --features simulator -- --probes my-probes.toml
//! ```
//!
//! Rehearse the rest on the local Coze: `cargo run --example migration --features simulator`.
//!
//! # 3. Move
//!
//! Move a small workspace first, at a quiet hour. The first call to each of its bots costs one refusal and one
//! replay; from the second on, it goes to the right account at once. A workspace that is moved back heals the same
//! way. If calls fail, [`Outcome`] says what was tried, for each answer.
//!
//! # 4. Observe
//!
//! [`FallbackHandle::report`] tells at any time how many resources have moved, how calls ended lately and since
//! the start, and whether the old credential was needed. The features `tracing` and `metrics` tell it to the rest
//! of your tools; `examples/observe/dashboard.json` is a dashboard for Grafana.
//!
//! # 5. Retire
//!
//! When all has moved, let the fallback go first, on the live client:
//!
//! ```
//! # use tower_credential_fallback::{FallbackHandle, Order};
//! # fn all_has_moved(handle: &FallbackHandle) {
//! handle.set_order(Order::FallbackFirst);
//! # }
//! ```
//!
//! From then on, the old credential is asked only where the new one is refused. The report's first line answers
//! whether it was needed. Wait for as long as your rarest job takes to come round; then set
//! [`Order::FallbackOnly`], and later take the layer out.
//!
//! An application that acts for its users (`oauth::UserTokens`) sends a user without any grant to authorise. Where to, follows
//! the live order: of the two causes of [`ErrorKind::NoCredential`], take that of [`Error::first_slot`], or the other
//! one's if that names no URL. From [`Order::FallbackFirst`] on, new users are so sent to the new app first, and from
//! [`Order::FallbackOnly`] on to that alone. A user whose grants are both refused gets no URL: offer the login for the new account
//! again. `examples/web_backend.rs` does both.
//!
//! Do not delete or disable the personal OAuth app as long as the enterprise uses it: the enterprise's access
//! depends on it.

#[cfg(doc)]
use crate::*;
