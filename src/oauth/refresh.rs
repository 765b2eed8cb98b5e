//! [`Refresher`]: one user's valid token, out of the store or by a refresh that nobody else makes.
//!
//! ```text
//! load ── fresh? ── yes ──→ done
//!   │ no
//!   ▼
//! lease ── held by another? ── yes ──→ wait, and load again
//!   │                                     ┐
//!   ▼                                     │ in a task of its own, which no caller's
//! load again ── fresh by now? ── yes ──→  │ cancellation ends
//!   │ no                                  │
//! mark as being spent ── save             │
//!   │                                     │
//! exchange ──→ save the new grant ──→ release
//! ```
//!
//! The mark is what keeps a spent token from being sent again: who finds it under a lease of his own knows that the one
//! before him died after it was set. Whether the server took that token, nobody can tell without sending it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::user_tokens::Report;
use super::{Grant, OAuthClient, OAuthErrorKind, UserId};
use crate::credential::Credential;
use crate::provider::CredentialError;
use crate::store::{Lease, StoreError, Stored, TokenStore, Version};

/// How often a lease that another holds is looked at again. An exchange takes some hundred milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The wait before a save is tried again.
const SAVE_AGAIN: Duration = Duration::from_millis(100);

/// … and for how long, in leases.
const SAVE_FOR_LEASES: u32 = 10;

/// How long a mark is looked at before the one who set it is taken for dead: time for [`SAVE_AGAIN`] after the store was
/// down for all of a lease.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// How often a grant that changed in the meantime is begun with again.
const ROUNDS: usize = 3;

pub(super) struct Refresher {
    pub(super) client: OAuthClient,
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) lease: Duration,
    pub(super) authorize_url: Arc<dyn Fn(&UserId) -> String + Send + Sync>,
    pub(super) report: Report,
    /// How many leases are held, or asked for.
    pub(super) under_way: watch::Sender<usize>,
}

/// Counts a refresh while it lives.
struct UnderWay(Arc<Refresher>);

impl UnderWay {
    fn new(refresher: &Arc<Refresher>) -> Self {
        refresher.under_way.send_modify(|count| *count += 1);
        Self(Arc::clone(refresher))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

/// The access token that the server refused, if it is the one in use.
pub(super) type Refused = Mutex<Option<Credential>>;

/// A lease of one user's, and what has to be done before it is given back.
struct Held {
    user: UserId,
    lease: Lease,
    ends: Instant,
    unfinished: Option<Unfinished>,
    _under_way: UnderWay,
}

/// What the store has not taken.
enum Unfinished {
    /// The mark, perhaps: it did not answer. The token was not sent.
    Unmark,
    /// This grant, in place of the mark, which has this version.
    Save(Grant, Version),
}

/// What a round under the lease brought.
enum Round {
    Done(Credential),
    /// Somebody else has changed the grant meanwhile.
    Changed,
}

impl Refresher {
    /// A valid token of this user.
    ///
    /// May be dropped at any time: a refresh under way goes on, and its grant is saved.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        user: &UserId,
        refused: &Arc<Refused>,
    ) -> Result<Credential, CredentialError> {
        loop {
            let stored = self.load(user).await?.ok_or_else(|| self.ask(user))?;
            let valid = self.usable(&stored.grant, refused);
            if let Some(credential) = &valid
                && stored.grant.is_fresh(self.now())
            {
                return Ok(credential.clone());
            }
            if stored.grant.refresh_token().is_none() {
                return valid.ok_or_else(|| self.ask(user));
            }
            let (this, user, refused) = (Arc::clone(self), user.clone(), Arc::clone(refused));
            let refreshing = tokio::spawn(async move { this.refresh(&user, &refused).await });
            let refreshed = refreshing
                .await
                .map_err(|_| CredentialError::new("the refresh of this user's token was cut off"))?;
            match (refreshed, valid) {
                (Ok(Some(credential)), _) => return Ok(credential),
                // Still good: nobody has to wait, or to fail.
                (_, Some(credential)) => return Ok(credential),
                (Err(error), None) => return Err(error),
                (Ok(None), None) => sleep(LOOK_AGAIN.mul_f64(0.5 + fastrand::f64())).await,
            }
        }
    }

    /// The token after a refresh; `None` if another holds the lease.
    async fn refresh(
        self: &Arc<Self>,
        user: &UserId,
        refused: &Refused,
    ) -> Result<Option<Credential>, CredentialError> {
        let under_way = UnderWay::new(self);
        let asked = Instant::now();
        let Some(lease) = self.store.lease(user.as_str(), self.lease).await.map_err(failed)? else {
            return Ok(None);
        };
        let mut held = Held {
            user: user.clone(),
            ends: asked + self.lease,
            lease,
            unfinished: None,
            _under_way: under_way,
        };
        let mut result =
            Err(CredentialError::new("this user's grant changes faster than it can be refreshed"));
        for _ in 0..ROUNDS {
            match self.round(&mut held, refused).await {
                Ok(Round::Changed) => {}
                Ok(Round::Done(credential)) => {
                    result = Ok(Some(credential));
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        match held.unfinished.take() {
            None => self.give_back(held).await,
            // The lease goes with it, or the next replica would take the mark for a dead one's.
            Some(unfinished) => drop(tokio::spawn(Arc::clone(self).finish_later(held, unfinished))),
        }
        result
    }

    async fn round(self: &Arc<Self>, held: &mut Held, refused: &Refused) -> Result<Round, CredentialError> {
        let user = held.user.clone();
        let Stored { grant, version, .. } = self.load(&user).await?.ok_or_else(|| self.ask(&user))?;
        if let Some(credential) = self.usable(&grant, refused)
            && grant.is_fresh(self.now())
        {
            return Ok(Round::Done(credential));
        }
        let Some(token) = grant.refresh_token() else { return Err(self.ask(&user)) };
        if grant.is_being_spent() {
            // Whoever sent it is gone, or we would not have the lease; unless the store was down until now, and the new
            // grant is on its way.
            sleep(LAST_CHANCE.min(self.lease / 4)).await;
            if self.load(&user).await?.is_none_or(|now| now.version != version) {
                return Ok(Round::Changed);
            }
            self.report.lost();
            let _ = self.store.delete(user.as_str(), version).await;
            return Err(self.ask(&user));
        }
        let marked = grant.being_spent_under(&held.lease);
        let marked = match self.store.save(user.as_str(), &marked, version).await {
            Ok(Some(marked)) => marked,
            Ok(None) => return Ok(Round::Changed),
            Err(error) => {
                held.unfinished = Some(Unfinished::Unmark);
                return Err(failed(error));
            }
        };

        // Half of the lease for the exchange leaves the other half for the save.
        let limit = held.ends.saturating_duration_since(Instant::now()) / 2;
        let refreshed = timeout(limit, self.client.refresh(token)).await;
        match refreshed {
            Ok(Ok(new)) => {
                let credential = new.credential()?;
                self.keep(held, new, marked).await;
                Ok(Round::Done(credential))
            }
            Ok(Err(error)) if error.kind() == OAuthErrorKind::InvalidGrant => {
                let now = self.load(&user).await?;
                match now {
                    // The user has signed in again meanwhile.
                    Some(now) if now.version != marked => Ok(Round::Changed),
                    _ => {
                        let _ = self.store.delete(user.as_str(), marked).await;
                        Err(self.ask(&user).with_source(error))
                    }
                }
            }
            Ok(Err(error)) => {
                self.keep(held, grant, marked).await;
                Err(error.into_cause())
            }
            Err(_) => {
                self.keep(held, grant, marked).await;
                Err(CredentialError::new("the token endpoint did not answer in time"))
            }
        }
    }

    /// Saves a grant in place of the marked one.
    async fn keep(&self, held: &mut Held, grant: Grant, marked: Version) {
        // If something else is there now, a sign-in has come first: then that is the grant to use.
        if let Err(error) = self.store.save(held.user.as_str(), &grant, marked).await {
            self.report.not_saved(&error);
            held.unfinished = Some(Unfinished::Save(grant, marked));
        }
    }

    /// Behind the caller's back, until the store answers. It cannot come too late for anything but its own use: it
    /// replaces nothing but the mark of this very lease.
    async fn finish_later(self: Arc<Self>, held: Held, unfinished: Unfinished) {
        let until = Instant::now() + self.lease * SAVE_FOR_LEASES;
        while Instant::now() < until {
            sleep(SAVE_AGAIN).await;
            let finished = match &unfinished {
                Unfinished::Unmark => self.unmark(&held).await,
                Unfinished::Save(grant, marked) => {
                    let saved = self.store.save(held.user.as_str(), grant, *marked).await;
                    saved.map(drop).inspect_err(|error| self.report.not_saved(error))
                }
            };
            if finished.is_ok() {
                break;
            }
        }
        self.give_back(held).await;
    }

    async fn unmark(&self, held: &Held) -> Result<(), StoreError> {
        let user = held.user.as_str();
        match self.store.load(user).await? {
            Some(Stored { grant, version, .. }) if grant.is_being_spent_by(&held.lease) => {
                self.store.save(user, &grant.not_being_spent(), version).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn give_back(&self, held: Held) {
        // If the store is down now, it runs out.
        let _ = self.store.release(held.user.as_str(), held.lease).await;
    }

    /// Waits until no refresh is under way.
    pub(super) async fn settle(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.under_way.subscribe().wait_for(|count| *count == 0).await;
    }

    async fn load(&self, user: &UserId) -> Result<Option<Stored>, CredentialError> {
        self.store.load(user.as_str()).await.map_err(failed)
    }

    fn usable(&self, grant: &Grant, refused: &Refused) -> Option<Credential> {
        let credential = grant.credential().ok().filter(|_| grant.is_valid(self.now()))?;
        let refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refused = refused.as_ref().is_some_and(|refused| refused.is_same_secret(&credential));
        (!is_refused).then_some(credential)
    }

    fn ask(&self, user: &UserId) -> CredentialError {
        CredentialError::interaction_required((self.authorize_url)(user))
    }

    fn now(&self) -> std::time::SystemTime {
        self.client.config().clock.now()
    }
}

fn failed(error: StoreError) -> CredentialError {
    let message = match error.is_unavailable() {
        true => "the token store cannot be reached",
        false => "the token store's content cannot be read",
    };
    CredentialError::new(message).with_source(error)
}
