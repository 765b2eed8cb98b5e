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

use tokio::time::{Instant, sleep, timeout};

use super::user_tokens::Report;
use super::{Grant, OAuthClient, OAuthErrorKind, UserId};
use crate::credential::Credential;
use crate::provider::CredentialError;
use crate::store::{StoreError, Stored, TokenStore, Version};

/// How often a lease that another holds is looked at again. An exchange takes some hundred milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The wait before a save is tried again.
const SAVE_AGAIN: Duration = Duration::from_millis(100);

/// How often a grant that changed in the meantime is begun with again.
const ROUNDS: usize = 3;

pub(super) struct Refresher {
    pub(super) client: OAuthClient,
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) lease: Duration,
    pub(super) authorize_url: Arc<dyn Fn(&UserId) -> String + Send + Sync>,
    pub(super) report: Report,
}

/// The access token that the server refused, if it is the one in use.
pub(super) type Refused = Mutex<Option<Credential>>;

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
        let asked = Instant::now();
        let Some(lease) = self.store.lease(user.as_str(), self.lease).await.map_err(failed)? else {
            return Ok(None);
        };
        let ends = asked + self.lease;
        let mut result =
            Err(CredentialError::new("this user's grant changes faster than it can be refreshed"));
        for _ in 0..ROUNDS {
            match self.round(user, refused, ends).await {
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
        // A store that is down now lets it run out.
        let _ = self.store.release(user.as_str(), lease).await;
        result
    }

    async fn round(
        self: &Arc<Self>,
        user: &UserId,
        refused: &Refused,
        ends: Instant,
    ) -> Result<Round, CredentialError> {
        let Stored { grant, version, .. } = self.load(user).await?.ok_or_else(|| self.ask(user))?;
        if let Some(credential) = self.usable(&grant, refused)
            && grant.is_fresh(self.now())
        {
            return Ok(Round::Done(credential));
        }
        let Some(token) = grant.refresh_token() else { return Err(self.ask(user)) };
        if grant.is_being_spent() {
            // Whoever sent it is gone, or we would not have the lease.
            self.report.lost();
            let _ = self.store.delete(user.as_str(), version).await;
            return Err(self.ask(user));
        }
        let marked =
            self.store.save(user.as_str(), &grant.being_spent(true), version).await.map_err(failed)?;
        let Some(marked) = marked else { return Ok(Round::Changed) };

        // Half of the lease for the exchange leaves the other half for the save.
        let limit = ends.saturating_duration_since(Instant::now()) / 2;
        let refreshed = timeout(limit, self.client.refresh(token)).await;
        match refreshed {
            Ok(Ok(new)) => {
                let credential = new.credential()?;
                self.keep(user, new, marked, ends).await;
                Ok(Round::Done(credential))
            }
            Ok(Err(error)) if error.kind() == OAuthErrorKind::InvalidGrant => {
                let now = self.load(user).await?;
                match now {
                    // The user has signed in again meanwhile.
                    Some(now) if now.version != marked => Ok(Round::Changed),
                    _ => {
                        let _ = self.store.delete(user.as_str(), marked).await;
                        Err(self.ask(user).with_source(error))
                    }
                }
            }
            Ok(Err(error)) => {
                self.keep(user, grant, marked, ends).await;
                Err(error.into_cause())
            }
            Err(_) => {
                self.keep(user, grant, marked, ends).await;
                Err(CredentialError::new("the token endpoint did not answer in time"))
            }
        }
    }

    /// Saves a grant in place of the marked one. If the store does not answer, it is tried again behind the caller's back
    /// as long as the lease lasts.
    async fn keep(self: &Arc<Self>, user: &UserId, grant: Grant, marked: Version, ends: Instant) {
        let Err(error) = self.store.save(user.as_str(), &grant, marked).await else { return };
        self.report.not_saved(&error);
        let (this, user) = (Arc::clone(self), user.clone());
        let again = async move {
            while Instant::now() < ends {
                sleep(SAVE_AGAIN).await;
                // Somebody else's sign-in may have come first: then that is the grant to use.
                match this.store.save(user.as_str(), &grant, marked).await {
                    Ok(_) => return,
                    Err(error) => this.report.not_saved(&error),
                }
            }
            this.report.lost();
        };
        drop(tokio::spawn(again));
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
