//! Tokens on a user's behalf, shared by all replicas of an application (features `oauth` and `redis`).
//!
//! # The parts
//!
//! ```
//! # #[cfg(all(feature = "coze", feature = "redis"))]
//! # fn example() -> Result<(), tower_credential_fallback::Error> {
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower_credential_fallback::coze::{self, Region};
//! use tower_credential_fallback::oauth::{OAuthClient, UserId, UserTokens};
//! use tower_credential_fallback::store::RedisStore;
//!
//! let store = Arc::new(RedisStore::new("redis://redis.internal/")?.with_prefix("my-app"));
//! let tokens = |app_id: &str, secret: &str, account: &'static str| {
//!     let http = Client::builder(TokioExecutor::new()).build_http();
//!     let config = coze::user_app(&Region::Cn, app_id)
//!         .with_client_secret(secret)
//!         .with_redirect_uri(format!("https://app.example.com/callback/{account}"));
//!     let login = move |_: &UserId| format!("https://app.example.com/login/{account}");
//!     Ok(UserTokens::new(OAuthClient::new(http, config)?, store.clone(), login))
//! };
//! let layer = coze::layer(
//!     &Region::Cn,
//!     tokens("app in the personal account", "its secret", "personal")?,
//!     tokens("app in the enterprise", "its secret", "enterprise")?,
//! )?;
//! // Each request names its user.
//! let request = Request::get("https://api.coze.cn/v1/bots/7380000000000000000")
//!     .extension(UserId::new("alice"))
//!     .body(Full::<Bytes>::default());
//! # let _ = (layer, request);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/web_backend.rs` is a whole application of that kind.
//!
//! # The move
//!
//! | the user has | a call to what has moved |
//! | --- | --- |
//! | both grants | is refused once, and served by the new one; then by that at once |
//! | only the old one | is refused; [`NoReplay::InteractionRequired`] in the `Outcome` says where to authorise |
//! | only the new one | is served by it |
//! | neither | fails before anything is sent: [`ErrorKind::NoCredential`], whose causes say where to authorise |
//!
//! So before the move, invite users to authorise the new app too; those who have not are asked when they next need it.
//! What is learnt of a resource serves all users; the cooldown holds back one user's request alone.
//!
//! # A refresh
//!
//! A refresh token is spent by its use: whoever uses it has to be alone with it, and must not lose what comes back.
//!
//! 1. Some time before the access token's end ([`UserTokens`](oauth::UserTokens) says when), a call starts a refresh behind
//!    its back; from its end on, calls wait.
//! 2. The refresh takes a *lease* in the store. If another replica holds it, this one waits, and finds that one's token.
//! 3. It loads the grant again, waits until the HTTP client is ready, and marks the grant as *being spent*, by
//!    compare-and-swap: by whom, and until when.
//! 4. It sends the refresh token, once, and waits for the answer for as long as the lease leaves time for a save, even if
//!    its caller does not.
//! 5. It saves the new grant in place of the mark. Then it gives the lease back.
//!
//! It runs in a task of its own, so no caller's cancellation cuts it off. What may go wrong:
//!
//! | what | then |
//! | --- | --- |
//! | the store is down before 3 | nothing is spent. Tokens at hand serve to their end; other calls fail with "the token store cannot be reached" |
//! | the lease is held for too long | calls whose token has ended fail with "another replica, or an earlier call, is refreshing this user's token …"; nothing is spent |
//! | the mark is set, but the store did not say so | the grant is looked at again: if the mark is there, the refresh goes on; if nobody can say, nothing is sent, and the mark is taken back, or kept out if it arrives late |
//! | it is certain that nothing was sent (a refused connection) | the mark is taken back; the next call may send the token |
//! | the request was sent, and no answer came, or 408, 429 or 5xx | the mark is taken back; the token is sent again after a pause, by whichever replica |
//! | the answer is a success that cannot be read | the token is spent and never sent again. The access token serves to its end, then the user is asked; [`TokenEvent::GrantLost`](observe::TokenEvent::GrantLost) says so |
//! | the answer has a new refresh token and something else is wrong with it | the new refresh token is kept and used |
//! | the server answers `invalid_grant` | if the stored grant has changed meanwhile, that one is used; if not, it is deleted, and the user is asked |
//! | the server refuses the application (`invalid_client`, …) | an error: no user can help. The grant stays |
//! | the server refuses otherwise | the user is asked. The grant stays, and is not sent again for a minute, or longer after more refusals |
//! | the store is down after 4 | the new token is used, [`TokenEvent::NotSaved`](observe::TokenEvent::NotSaved) says so, and the save is tried ten times a second for ten leases. If the lease ends before that, the mark alone keeps others off: whoever finds it, once its time is over, leaves it two and a half seconds more |
//! | the replica dies before 3 | others wait for the lease's end, and go on |
//! | the replica dies between 3 and the end of 5 | nobody can tell whether the server has taken the token. It is not sent again; the user is asked, and [`TokenEvent::GrantLost`](observe::TokenEvent::GrantLost) says so |
//! | what is stored cannot be read | the user is asked, and the sign-in replaces it; [`TokenEvent::GrantUnreadable`](observe::TokenEvent::GrantUnreadable) says so |
//!
//! The death of a replica is the price of rotating refresh tokens: one exchange and two saves long, from the mark to the
//! save of what replaces it. So let processes end in order: stop taking calls, then await
//! [`UserTokens::settle`](oauth::UserTokens::settle), after which no refresh begins.
//!
//! A *live* replica whose exchange breaks off does send the token again, after its pause: if the server had not taken it,
//! that saves the login; if it had, the answer is `invalid_grant`, and the user is asked, as would be the case anyway. A
//! server that takes a second use for a theft may end the user's access tokens as well. This is a choice: the other one
//! would log users out at each connection that breaks.
//!
//! # Redis
//!
//! - A grant that Redis loses is a user who authorises again. Turn on `appendonly yes`; with `appendfsync always` nothing
//!   is lost in a crash, with `everysec` the refreshes of the last second are. A failover loses what the new
//!   primary had not received: a new grant, so that its user is asked; or a mark, so that a spent token may be sent again.
//! - [`with_encryption_key`](store::RedisStore::with_encryption_key) keeps tokens unreadable to whoever reads Redis or
//!   its disk.
//! - Leave [`with_timeout`](store::RedisStore::with_timeout) at two seconds or less: a replica that comes back to its Redis
//!   is given two and a half to save what it has.
//! - One prefix for each application. Its OAuth apps may share it: a grant's key names client ID,
//!   [realm](oauth::OAuthConfig::with_realm) and user ([`UserTokens::store_key`](oauth::UserTokens::store_key)).
//!
//! ## From no key to a key
//!
//! To a store with a key, what was stored without one is unreadable, as is what was stored with a key that is lost. Users
//! whose grant cannot be read are asked to authorise, and their sign-in replaces it. To spare them that, stop all replicas,
//! seal each user's grant, and start them with the key:
//!
//! ```
//! # #[cfg(feature = "redis")]
//! # async fn example(tokens: tower_credential_fallback::oauth::UserTokens, users: Vec<tower_credential_fallback::oauth::UserId>) -> Result<(), tower_credential_fallback::BoxError> {
//! # use tower_credential_fallback::store::{RedisStore, TokenStore};
//! # let key = [0; 32];
//! let plain = RedisStore::new("redis://redis.internal/")?.with_prefix("my-app");
//! let sealed = plain.clone().with_encryption_key(&key);
//! for user in &users {
//!     let place = tokens.store_key(user);
//!     // What is sealed by now cannot be read without the key, and need not be.
//!     if let Ok(Some(found)) = plain.load(&place).await {
//!         sealed.save(&place, &found.grant, found.version).await?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Preferences
//!
//! Each replica learns by itself which credential serves which resource, at one refusal each. With [`SharedPreferences`]
//! all learn together, and a new replica starts where the others are:
//!
//! ```
//! # #[cfg(feature = "redis")]
//! # async fn example() -> Result<(), tower_credential_fallback::BoxError> {
//! # use tower_credential_fallback::store::RedisStore;
//! # use tower_credential_fallback::{Credential, CredentialFallbackLayer, SharedPreferences};
//! # let layer = CredentialFallbackLayer::new(Credential::bearer("old")?, Credential::bearer("new")?)?;
//! let preferences = SharedPreferences::open(RedisStore::new("redis://redis.internal/")?).await?;
//! let layer = layer.with_shared_preferences(&preferences);
//! # Ok(())
//! # }
//! ```
//!
//! # What was tested
//!
//! `tests/fleet.rs` runs eight replicas in virtual time. They act for fifty users whose tokens live two seconds. Replicas are
//! killed, most of them at a point of a refresh; the store fails, falls silent, and applies operations whose answers are
//! lost. A dead replica's futures never continue. The run depends on its seed alone. One virtual minute of seed 1, and the
//! quiet time after it:
//!
//! | what | count |
//! | --- | --- |
//! | replicas killed; of them while they held a lease | 204; 138 |
//! | store operations that failed; of them applied, with their answers lost | 1,431; 399 |
//! | refreshes | 1,412 |
//! | grants given up, since a dead replica had marked them | 76 |
//! | … before the server took the token, which nobody can tell | 28 |
//! | … after it did, before the replica had its answer | 40 |
//! | … after the answer, before it was saved | 8 |
//! | users sent to authorise again | 76 |
//! | refresh tokens that the server saw twice | 0 |
//!
//! Every other call ends in an answer, or in an error whose cause the test knows. The same world with replicas that ignore
//! the marks fails the test: the server sees tokens twice. `tests/stopped_replica.rs` stops and kills real processes at five
//! points of a refresh, over a real Redis. `tests/soak/run` has eight processes, and kills them and Redis for as long as it
//! is told.

#[cfg(doc)]
use crate::*;
