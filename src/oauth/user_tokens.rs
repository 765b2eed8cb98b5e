//! [`UserTokens`]: each request with its own user's token.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::request;
use quick_cache::sync::Cache;

use super::refresh::{Refresher, Refused};
use super::{Grant, OAuthClient};
use crate::classify::{Rejection, RejectionKind};
use crate::credential::Credential;
use crate::error::Error;
use crate::observe::{Observe, TokenEvent};
use crate::preference::Slot;
use crate::provider::{AuthProvider, CredentialError, CredentialFuture, TokenCache};
use crate::store::{StoreError, TokenStore, Version};

/// Users whose tokens are kept at hand by default.
const CAPACITY: usize = 10_000;

/// Longer than any call waits, and than a store is down that restarts.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);

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
///   refresh, by a lease. It happens at three quarters of the token's life; until its end, nobody waits.
/// - A refresh token is spent by its use. What replaces it is saved before anything else; the refresh goes on if its
///   caller goes away; and one that a replica died with is never sent again.
/// - Without a grant, or with one that is not valid any more, the error is
///   [interaction required](CredentialError::authorize_url) with the URL that the application gave. A layer that has
///   this provider for its fallback returns the refusal untouched then, with that URL in
///   [`NoReplay::InteractionRequired`](crate::NoReplay::InteractionRequired).
/// - A request that names no user gets no token.
///
/// # When the store is down
///
/// Tokens at hand are used to their end. Other calls fail with an error that says so; nothing is spent, since a refresh
/// begins with a save. If it goes down in the middle of a refresh, the new token is used, and its save is tried ten times a
/// second, for ten times as long as the lease lasts. (If the store is down for longer than a lease, another replica may
/// be faster, and take the refresh for one that a replica died with.)
///
/// # When a replica dies
///
/// Between the moment when it marks the refresh token as being sent and the moment when the new one is saved, nobody
/// can tell whether the server has taken it. That is one exchange and one save long. The user of such a refresh
/// authorises again ([`lost`](Self::lost) counts them): sending the token again would be, to the server, a theft.
#[derive(Clone)]
pub struct UserTokens {
    shared: Arc<Shared>,
}

struct Shared {
    refresher: Arc<Refresher>,
    /// By user. What is evicted is loaded again.
    users: Cache<UserId, User>,
    /// Whose token a generation is: refusals name only the token.
    owners: Arc<Cache<u64, UserId>>,
    load_timeout: Option<Duration>,
}

/// One user's token at hand.
#[derive(Clone)]
struct User {
    cache: TokenCache,
    refused: Arc<Refused>,
}

impl UserTokens {
    /// Tokens that `client` refreshes and `store` keeps. `authorize_url` says where a user who has to authorise goes: most
    /// often a page of the application, which begins a [login](OAuthClient::authorize).
    ///
    /// Two of these, for the two accounts of a migration, need stores of their own, or a prefix each.
    pub fn new(
        client: OAuthClient,
        store: Arc<dyn TokenStore>,
        authorize_url: impl Fn(&UserId) -> String + Send + Sync + 'static,
    ) -> Self {
        let refresher = Refresher {
            client,
            store,
            lease: DEFAULT_LEASE,
            authorize_url: Arc::new(authorize_url),
            report: Report::default(),
            under_way: Default::default(),
        };
        Self::with_refresher(refresher, CAPACITY, None)
    }

    fn with_refresher(refresher: Refresher, capacity: usize, load_timeout: Option<Duration>) -> Self {
        Self {
            shared: Arc::new(Shared {
                refresher: Arc::new(refresher),
                users: Cache::new(capacity),
                owners: Arc::new(Cache::new(capacity)),
                load_timeout,
            }),
        }
    }

    /// Before it is shared: what it was, to be built anew.
    fn rebuild(self, change: impl FnOnce(&mut Refresher, &mut usize, &mut Option<Duration>)) -> Self {
        let shared = &self.shared;
        let known = &shared.refresher;
        let mut refresher = Refresher {
            client: known.client.clone(),
            store: Arc::clone(&known.store),
            lease: known.lease,
            authorize_url: Arc::clone(&known.authorize_url),
            report: Report::default(),
            under_way: Default::default(),
        };
        let (mut capacity, mut load_timeout) = (shared.users.capacity() as usize, shared.load_timeout);
        change(&mut refresher, &mut capacity, &mut load_timeout);
        Self::with_refresher(refresher, capacity, load_timeout)
    }

    /// How long one refresh has for itself: half of it for the exchange, the rest for the save. After a replica died in a
    /// refresh, its user's calls fail for so long. Default: 30 s.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `lease`, if it is less than 100 ms or over an hour.
    pub fn with_lease(self, lease: Duration) -> Result<Self, Error> {
        if lease < Duration::from_millis(100) || lease > Duration::from_secs(3600) {
            return Err(Error::config("lease", "expected 100 ms to one hour"));
        }
        Ok(self.rebuild(|refresher, _, _| refresher.lease = lease))
    }

    /// How many users' tokens are kept at hand; those beyond are loaded from the store for each use. Default: 10,000.
    #[must_use]
    pub fn with_capacity(self, users: usize) -> Self {
        self.rebuild(|_, capacity, _| *capacity = users.max(1))
    }

    /// How long one call waits for its token. Default: 10 s.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `load_timeout`, if it is zero or over an hour.
    pub fn with_load_timeout(self, limit: Duration) -> Result<Self, Error> {
        TokenCache::new(|| async { Err(CredentialError::new("never asked")) }).with_load_timeout(limit)?;
        Ok(self.rebuild(|_, _, load_timeout| *load_timeout = Some(limit)))
    }

    /// A user has authorised: keeps the grant, in place of any before.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it could not be stored.
    pub async fn sign_in(&self, user: &UserId, grant: &Grant) -> Result<(), StoreError> {
        let store = &self.shared.refresher.store;
        loop {
            let known = store.load(user.as_str()).await?.map_or(Version::NONE, |stored| stored.version);
            if store.save(user.as_str(), grant, known).await?.is_some() {
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
        let store = &self.shared.refresher.store;
        while let Some(stored) = store.load(user.as_str()).await? {
            if store.delete(user.as_str(), stored.version).await? {
                break;
            }
        }
        self.shared.users.remove(user);
        Ok(())
    }

    /// This user's token: for use outside of a layer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: a refresh under way goes on.
    pub fn get(&self, user: &UserId) -> CredentialFuture {
        let known = self.user(user);
        let waiting = match known.cache.get().at_hand() {
            Ok(given) => return CredentialFuture::ready(given),
            Err(waiting) => waiting,
        };
        let (shared, user) = (Arc::clone(&self.shared), user.clone());
        CredentialFuture::boxed(async move {
            let given = waiting.await;
            if given.as_ref().is_err_and(|error| error.authorize_url().is_some()) {
                // No back-off holds up a user who has just authorised, on another replica perhaps.
                shared.users.remove(&user);
            }
            given
        })
    }

    /// Waits until no refresh is under way here. To be awaited when the process is about to end, after its last call:
    /// a refresh that is cut off costs its user a new login.
    ///
    /// It takes no longer than a lease, unless the store is down: so put a time limit on it.
    ///
    /// # Cancel safety
    ///
    /// It only waits.
    pub async fn settle(&self) {
        self.shared.refresher.settle().await;
    }

    /// How many grants were lost, as this process has found so far: a replica died in the middle of a refresh, or the store
    /// was down for all of its lease.
    pub fn lost(&self) -> u64 {
        self.shared.refresher.report.lost.load(Ordering::Relaxed)
    }

    fn user(&self, user: &UserId) -> User {
        let shared = &self.shared;
        let made: Result<User, std::convert::Infallible> =
            shared.users.get_or_insert_with(user, || Ok(self.new_user(user)));
        match made {
            Ok(user) => user,
            Err(never) => match never {},
        }
    }

    fn new_user(&self, user: &UserId) -> User {
        let shared = &self.shared;
        let refused = Arc::new(Refused::default());
        let source = {
            let (refresher, owners) = (Arc::clone(&shared.refresher), Arc::clone(&shared.owners));
            let (user, refused) = (user.clone(), Arc::clone(&refused));
            move || {
                let (refresher, owners) = (Arc::clone(&refresher), Arc::clone(&owners));
                let (user, refused) = (user.clone(), Arc::clone(&refused));
                async move {
                    let credential = refresher.obtain(&user, &refused).await?;
                    owners.insert(credential.generation(), user);
                    Ok(credential)
                }
            }
        };
        let clock = Arc::clone(&shared.refresher.client.config().clock);
        let mut cache = TokenCache::new(source).with_clock(clock);
        if let Some(limit) = shared.load_timeout {
            cache = cache.with_load_timeout(limit).expect("checked when it was set");
        }
        for (slot, observer) in &*shared.refresher.report.observers() {
            cache.observed_by(*slot, observer);
        }
        User { cache, refused }
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
        let owner = self.shared.owners.get(&credential.generation());
        if let Some(user) = owner.and_then(|owner| self.shared.users.get(&owner)) {
            *user.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(credential.clone());
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
            .field("client", &self.shared.refresher.client)
            .field("users", &self.shared.users.len())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

/// What went wrong, told to observers and counted.
#[derive(Default)]
pub(super) struct Report {
    lost: AtomicU64,
    observers: Mutex<Vec<(Slot, Arc<dyn Observe>)>>,
}

impl Report {
    fn observers(&self) -> std::sync::MutexGuard<'_, Vec<(Slot, Arc<dyn Observe>)>> {
        self.observers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A grant is lost: its user has to authorise again.
    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.tell(&TokenEvent::GrantLost);
    }

    /// A new grant is in use and not stored yet.
    pub(super) fn not_saved(&self, error: &StoreError) {
        self.tell(&TokenEvent::NotSaved { error });
    }

    fn tell(&self, event: &TokenEvent<'_>) {
        let observers = self.observers().clone();
        observers.iter().for_each(|(slot, observer)| observer.token(*slot, event));
    }
}
