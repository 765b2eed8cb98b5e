//! [`Person`]: what is known here of one user, beside the token at hand; and [`Owners`]: whose a token is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oauth2::RefreshToken;

use super::UserId;
use crate::credential::Credential;

pub(super) struct Person {
    pub(super) user: UserId,
    /// Under which the store keeps the grant.
    pub(super) key: String,
    notes: Mutex<Notes>,
    owners: Arc<Owners>,
}

#[derive(Default)]
struct Notes {
    /// The access token that the API refused, if it is the one in use.
    refused: Option<Credential>,
    /// The refresh token that was stored when the last call failed. Not its version: the refresh changes that.
    failed_with: Option<RefreshToken>,
    /// The token at hand, by which a refusal is found to be this user's.
    generation: Option<u64>,
}

impl Person {
    pub(super) fn new(user: UserId, key: String, owners: &Arc<Owners>) -> Self {
        Self { user, key, notes: Mutex::default(), owners: Arc::clone(owners) }
    }

    /// A token that the API refuses is not given again.
    pub(super) fn refuse(&self, credential: &Credential) {
        self.notes().refused = Some(credential.clone());
    }

    pub(super) fn is_refused(&self, credential: &Credential) -> bool {
        self.notes().refused.as_ref().is_some_and(|refused| refused.is_same_secret(credential))
    }

    /// `None`: not known, or nothing failed.
    pub(super) fn set_failed_with(&self, token: Option<&RefreshToken>) {
        self.notes().failed_with = token.cloned();
    }

    pub(super) fn failed_with(&self) -> Option<RefreshToken> {
        self.notes().failed_with.clone()
    }

    /// From now on this one is the user's token, and the one before is nobody's: what is said of it comes too late.
    pub(super) fn owns(&self, credential: &Credential) {
        let generation = credential.generation();
        let before = self.notes().generation.replace(generation);
        let mut owners = self.owners.lock();
        if let Some(before) = before {
            owners.remove(&before);
        }
        owners.insert(generation, self.user.clone());
    }

    /// Every change is one assignment.
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        if let Some(generation) = self.notes().generation {
            self.owners.lock().remove(&generation);
        }
    }
}

/// The user of each token at hand, by its generation: a refusal names only the token. One for each [`Person`] at the most,
/// who takes it along.
#[derive(Default)]
pub(super) struct Owners(Mutex<HashMap<u64, UserId>>);

impl Owners {
    pub(super) fn of(&self, credential: &Credential) -> Option<UserId> {
        self.lock().get(&credential.generation()).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, UserId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
