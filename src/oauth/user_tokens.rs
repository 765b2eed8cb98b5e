//! [`UserTokens`]: each request with its own user's token.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request;
use quick_cache::sync::Cache;

use super::person::{Owners, Person};
use super::refresh::Refresher;
use super::round::{LEAST_EXCHANGE, SAVE_TIME};
use super::{Grant, OAuthClient, OAuthConfig};
use crate::classify::{Rejection, RejectionKind};
use crate::credential::Credential;
use crate::error::Error;
use crate::observe::Observe;
use crate::preference::Slot;
use crate::provider::token_cache::{DEFAULT_LOAD_TIMEOUT, check_load_timeout};
use crate::provider::{AuthProvider, CredentialError, CredentialFuture, TokenCache};
use crate::store::{StoreError, TokenStore, Version};

/// Users whose tokens are kept at hand by default.
const CAPACITY: usize = 10_000;

/// Longer than any call waits, and than a store is down that restarts.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// Room for waiting for a mark's end, and for marking, an exchange and a save after that.
const MIN_LEASE: Duration = Duration::from_secs(5);

const _: () = assert!(
    SAVE_TIME.as_millis() + LEAST_EXCHANGE.as_millis() < MIN_LEASE.as_millis()
        && SAVE_TIME.as_millis() * 2 <= MIN_LEASE.as_millis()
);

const MAX_LEASE: Duration = Duration::from_secs(3600);

/// Who a request is made for: put it into the request's extensions.
///
/// It is the application's own name of the user, taken from its own session, never from what the user sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The user of this name.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self(name.as_ref().into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Gives each request the token of the user that its [`UserId`] names, kept in a [`TokenStore`] and refreshed in time.
///
/// - A user's token is refreshed once, however many tasks and replicas need it: those that share a store share the
///   refresh, by a lease. A token at hand is refreshed in the last fifth of the time that it had left when it came to
///   hand, and not earlier than some six minutes before its end; one that is loaded from the store, once three quarters
///   of its life are over. Until its end, nobody waits.
/// - A refresh token is spent by its use. What replaces it is saved before anything else; the refresh goes on if its
///   caller goes away; and one that a replica died with is never sent again.
/// - Without a grant, or with one that is not valid any more, the error is
///   [interaction required](CredentialError::authorize_url) with the URL that the application gave. A layer that has
///   this provider for its fallback returns the refusal untouched then, with that URL in
///   [`NoReplay::InteractionRequired`](crate::NoReplay::InteractionRequired).
/// - A request that names no user gets no token.
/// - Several of these can share one store, as for the two accounts of a migration: a grant is kept under its client ID, its
///   [realm](OAuthConfig::with_realm) and its user.
///
/// # When the store is down
///
/// Tokens at hand are used to their end. Other calls fail with an error that says so; nothing is spent, since a refresh
/// begins with a save. If it goes down in the middle of a refresh, the new token is used, and its save is tried ten times a
/// second, for ten times as long as the lease lasts. When the store is back, other replicas leave it two and a half seconds
/// for that.
///
/// # When the identity server does not answer
///
/// A request to which no answer comes (a timeout, a connection that breaks, a 5xx) may have been carried out or not. The
/// same refresh token is sent again: not before the request has ended on our side, and not before a pause (2 s after the
/// first failure, up to a minute) that all replicas keep. If the server had not taken it, that saves the user a login. If it
/// had, it answers `invalid_grant`, and the user is asked, as would be the case anyway. (A server that takes a second use
/// for a theft may end the user's access tokens as well.) Only where it is certain that nothing was sent (a refused
/// connection) is there no such pause.
///
/// An answer of success that cannot be read is another matter: the token is spent. It is never sent again, the user is
/// asked once the access token has ended, and the grant counts as [lost](Self::lost).
///
/// # When the identity server refuses
///
/// `invalid_grant` says that the refresh token is over: the grant is forgotten, and the user is asked. A refusal that names
/// the client (`invalid_client`, `unauthorized_client`, `unsupported_grant_type`) is an error, since no user can help. After
/// any other refusal the user is asked, and the grant is kept, but not sent for a minute (up to an hour, after more
/// refusals).
///
/// # When a replica dies
///
/// Between the moment when it marks the refresh token as being sent and the moment when the new one is saved, nobody
/// can tell whether the server has taken it. That is one exchange and two saves long; the wait for the HTTP client's
/// readiness comes before. The user of such a refresh authorises again ([`lost`](Self::lost) counts them): sending the token
/// again would be, to the server, a theft.
///
/// A Redis that fails over to a replica which is behind may lose a mark, or a new grant. Then a spent token is sent again,
/// and the server's `invalid_grant` asks the user.
#[derive(Clone)]
pub struct UserTokens {
    shared: Arc<Shared>,
}

/// What one is built with. Fixed from then on.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) client: OAuthClient,
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) authorize_url: Arc<dyn Fn(&UserId) -> String + Send + Sync>,
    /// Longer than `load_timeout`.
    pub(super) lease: Duration,
    pub(super) load_timeout: Duration,
    capacity: usize,
}

struct Shared {
    refresher: Arc<Refresher>,
    /// By user. What is evicted is loaded again.
    users: Cache<UserId, User>,
    owners: Arc<Owners>,
}

/// One user's token at hand.
#[derive(Clone)]
struct User {
    cache: TokenCache,
    person: Arc<Person>,
}

impl UserTokens {
    /// Tokens that `client` refreshes and `store` keeps. `authorize_url` says where a user who has to authorise goes: most
    /// often a page of the application, which begins a [login](OAuthClient::authorize).
    pub fn new(
        client: OAuthClient,
        store: Arc<dyn TokenStore>,
        authorize_url: impl Fn(&UserId) -> String + Send + Sync + 'static,
    ) -> Self {
        Self::with_settings(Settings {
            client,
            store,
            authorize_url: Arc::new(authorize_url),
            lease: DEFAULT_LEASE,
            load_timeout: DEFAULT_LOAD_TIMEOUT,
            capacity: CAPACITY,
        })
    }

    fn with_settings(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                users: Cache::new(settings.capacity),
                refresher: Arc::new(Refresher::new(settings)),
                owners: Arc::default(),
            }),
        }
    }

    fn settings(&self) -> &Settings {
        &self.shared.refresher.settings
    }

    /// How long one refresh has for itself, from taking the lease to saving the new grant: the last two and a half
    /// seconds are for the save, the rest for the exchange, whether its caller still waits or not. After a replica died in
    /// a refresh, its user's calls fail for so long, and two and a half seconds. Default: 30 s.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `lease`, if it is less than 5 s or over an hour,
    /// or not longer than a call waits ([`with_load_timeout`](Self::with_load_timeout): 10 s, if not set before).
    pub fn with_lease(self, lease: Duration) -> Result<Self, Error> {
        if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
            return Err(Error::config("lease", "expected 5 s to one hour"));
        }
        let settings = self.settings().clone();
        if lease <= settings.load_timeout {
            return Err(Error::config("lease", "expected longer than the load timeout"));
        }
        Ok(Self::with_settings(Settings { lease, ..settings }))
    }

    /// How many users' tokens are kept at hand; those beyond are loaded from the store for each use. Default: 10,000.
    #[must_use]
    pub fn with_capacity(self, users: usize) -> Self {
        Self::with_settings(Settings { capacity: users.max(1), ..self.settings().clone() })
    }

    /// How long one call waits for its token. Default: 10 s.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `load_timeout`, if it is zero or over an hour, or
    /// not shorter than the lease ([`with_lease`](Self::with_lease): 30 s, if not set before).
    pub fn with_load_timeout(self, limit: Duration) -> Result<Self, Error> {
        check_load_timeout(limit)?;
        let settings = self.settings().clone();
        if limit >= settings.lease {
            return Err(Error::config("load_timeout", "expected shorter than the lease"));
        }
        Ok(Self::with_settings(Settings { load_timeout: limit, ..settings }))
    }

    /// Under which key the store has this user's grant: to bring grants along from elsewhere, or to look at them.
    pub fn store_key(&self, user: &UserId) -> String {
        let OAuthConfig { client_id, realm, .. } = self.settings().client.config();
        // With no colon in the first two, the three parts are told apart whatever is in them.
        let escaped = |text: &str| text.replace('%', "%25").replace(':', "%3A");
        let realm = realm.as_deref().unwrap_or_default();
        format!("{}:{}:{}", escaped(client_id), escaped(realm), user.as_str())
    }

    /// A user has authorised: keeps the grant, in place of any before, be it readable or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it could not be stored.
    pub async fn sign_in(&self, user: &UserId, grant: &Grant) -> Result<(), StoreError> {
        let key = self.store_key(user);
        let grant = self.shared.refresher.for_store(grant.clone());
        loop {
            let known = self.version(&key).await?.unwrap_or(Version::NONE);
            if self.settings().store.save(&key, &grant, known).await?.is_some() {
                self.shared.users.remove(user);
                return Ok(());
            }
        }
    }

    /// Forgets what a user has granted. Other replicas go on with the access token at hand, to its end.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it is not known to be forgotten.
    pub async fn sign_out(&self, user: &UserId) -> Result<(), StoreError> {
        let key = self.store_key(user);
        while let Some(known) = self.version(&key).await? {
            if self.settings().store.delete(&key, known).await? {
                break;
            }
        }
        self.shared.users.remove(user);
        Ok(())
    }

    /// What is there, whether it can be read or not.
    async fn version(&self, key: &str) -> Result<Option<Version>, StoreError> {
        match self.settings().store.load(key).await {
            Ok(stored) => Ok(stored.map(|stored| stored.version)),
            Err(error) => error.unreadable_version().map(Some).ok_or(error),
        }
    }

    /// This user's token: for use outside of a layer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: a refresh under way goes on.
    pub fn get(&self, user: &UserId) -> CredentialFuture {
        let known = self.user(user);
        let mints = known.cache.mints();
        let waiting = match known.cache.get().at_hand() {
            Ok(given) => return CredentialFuture::ready(given),
            Err(waiting) => waiting,
        };
        let (this, user) = (self.clone(), user.clone());
        CredentialFuture::boxed(async move {
            let given = waiting.await;
            let Err(error) = &given else { return given };
            // No back-off holds up a user who has just authorised, on another replica perhaps.
            if error.authorize_url().is_some() {
                this.shared.users.remove(&user);
            } else if known.cache.mints() == mints && this.has_changed(&known.person).await {
                this.shared.users.remove(&user);
                return this.user(&user).cache.get().await;
            }
            given
        })
    }

    /// Whether there is another grant now than the one with which a refresh has failed.
    async fn has_changed(&self, person: &Person) -> bool {
        let Some(failed) = person.failed_with() else { return false };
        let found = self.settings().store.load(&person.key).await;
        matches!(found, Ok(Some(now)) if now.grant.refresh_token() != Some(&failed))
    }

    /// Begins no more refreshes, for ever, and waits until none is under way here. To be awaited when the process is about
    /// to end, after its last call: a refresh that is cut off costs its user a new login. Tokens at hand go on.
    ///
    /// It takes no longer than a lease, unless the store is down: so put a time limit on it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the waiting; no more refreshes begin all the same.
    pub async fn settle(&self) {
        self.shared.refresher.gate.settle().await;
    }

    /// How many grants were lost, as this process has found so far: a replica died in the middle of a refresh, the store
    /// was down for all of its lease, or the identity server's answer could not be read.
    pub fn lost(&self) -> u64 {
        self.shared.refresher.report.count_lost()
    }

    fn user(&self, user: &UserId) -> User {
        let shared = &self.shared;
        let made: Result<User, Infallible> =
            shared.users.get_or_insert_with(user, || Ok(self.new_user(user)));
        match made {
            Ok(user) => user,
            Err(never) => match never {},
        }
    }

    fn new_user(&self, user: &UserId) -> User {
        let refresher = &self.shared.refresher;
        let person = Arc::new(Person::new(user.clone(), self.store_key(user), &self.shared.owners));
        let source = {
            let (refresher, person) = (Arc::clone(refresher), Arc::clone(&person));
            move || {
                let (refresher, person) = (Arc::clone(&refresher), Arc::clone(&person));
                async move {
                    let credential = refresher.obtain(&person).await?;
                    person.owns(&credential);
                    Ok(credential)
                }
            }
        };
        let clock = Arc::clone(&self.settings().client.config().clock);
        let cache = TokenCache::new(source).with_clock(clock);
        let cache = cache.with_load_timeout(self.settings().load_timeout).expect("checked when it was set");
        for (slot, observer) in &*refresher.report.observers() {
            cache.observed_by(*slot, observer);
        }
        User { cache, person }
    }
}

impl AuthProvider for UserTokens {
    fn credential(&self, request: &request::Parts) -> CredentialFuture {
        match request.extensions.get::<UserId>() {
            Some(user) => self.get(user),
            None => CredentialFuture::ready(Err(CredentialError::new(
                "the request names no user: put a `UserId` into its extensions",
            ))),
        }
    }

    fn rejected(&self, credential: &Credential, reason: &Rejection) {
        if reason.kind() != RejectionKind::Unauthenticated {
            return;
        }
        let owner = self.shared.owners.of(credential);
        if let Some(user) = owner.and_then(|owner| self.shared.users.get(&owner)) {
            user.person.refuse(credential);
            user.cache.rejected(credential, reason);
        }
    }

    fn observed_by(&self, slot: Slot, observer: &Arc<dyn Observe>) {
        self.shared.refresher.report.observers().push((slot, Arc::clone(observer)));
    }
}

impl fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserTokens")
            .field("client", &self.settings().client)
            .field("users", &self.shared.users.len())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}
