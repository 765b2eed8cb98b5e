//! [`UserTokens`]: each request with its own user's token.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request;
use quick_cache::sync::Cache;

use super::person::{Owners, Person};
use super::refresh::Refresher;
use super::{Grant, OAuthClient, OAuthConfig, UserTokensBuilder};
use crate::classify::{Rejection, RejectionKind};
use crate::credential::Credential;
use crate::observe::Observe;
use crate::preference::Slot;
use crate::provider::{AuthProvider, CredentialError, CredentialFuture, TokenCache};
use crate::store::{StoreError, TokenStore, Version};

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

/// Where a user authorises.
pub(super) type AuthorizeUrl = Arc<dyn Fn(&UserId) -> String + Send + Sync>;

/// What one is built with. Fixed from then on.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) client: OAuthClient,
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) authorize_url: AuthorizeUrl,
    /// Longer than `load_timeout`.
    pub(super) lease: Duration,
    pub(super) load_timeout: Duration,
    /// At least one.
    pub(super) capacity: usize,
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
    /// Tokens that `client` refreshes and `store` keeps, with every setting at its default. `authorize_url` says where a user
    /// who has to authorise goes: most often a page of the application, which begins a [login](OAuthClient::authorize).
    pub fn new(
        client: OAuthClient,
        store: Arc<dyn TokenStore>,
        authorize_url: impl Fn(&UserId) -> String + Send + Sync + 'static,
    ) -> Self {
        Self::builder(client, store, authorize_url).build().expect("the defaults go together")
    }

    /// Settings of such tokens, to be changed and then [built](UserTokensBuilder::build).
    pub fn builder(
        client: OAuthClient,
        store: Arc<dyn TokenStore>,
        authorize_url: impl Fn(&UserId) -> String + Send + Sync + 'static,
    ) -> UserTokensBuilder {
        UserTokensBuilder::new(client, store, Arc::new(authorize_url))
    }

    pub(super) fn with_settings(settings: Settings) -> Self {
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
        let cache = TokenCache::builder(source)
            .with_clock(clock)
            .with_load_timeout(self.settings().load_timeout)
            .with_observers(Arc::clone(&refresher.report.observers))
            .build()
            .expect("checked when these were built");
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
        self.shared.refresher.report.observers.add(slot, observer);
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
