//! [`Round`]: one try at a refresh, under a lease.
//!
//! ```text
//! load ── fresh by now? ── yes ──→ done
//!   │ no
//! wait for the HTTP client
//!   │
//! mark as being spent ── save      ┐ who dies from here …
//!   │                              │
//! exchange                         │
//!   │                              │
//! save what came of it             ┘ … to here leaves a mark
//! ```
//!
//! The mark is what keeps a spent token from being sent again: who finds it under a lease of his own, after its time, knows
//! that the one before him died after it was set. Whether the server took that token, nobody can tell without sending it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::client::{ReadyClient, Refreshed};
use super::finish::Unfinished;
use super::refresh::{Cause, Failure, Held, Refresher, failed, other};
use super::spending::LAST_CHANCE;
use super::{Grant, OAuthError, OAuthErrorKind};
use crate::credential::Credential;
use crate::store::{Stored, Version};

/// What is left of a lease for the save after the exchange: one attempt at a store, and a second one.
pub(super) const SAVE_TIME: Duration = LAST_CHANCE;

/// With less time than this for the exchange, the token is not sent: the answer could not be waited for.
pub(super) const LEAST_EXCHANGE: Duration = Duration::from_secs(1);

pub(super) enum Round {
    Done(Credential),
    /// Somebody else has changed the grant meanwhile.
    Changed,
    /// It is another's turn, or this lease is too old to begin with.
    Later,
}

impl Refresher {
    pub(super) async fn round(&self, held: &mut Held) -> Result<Round, Failure> {
        let Stored { grant, version, .. } = self.load(held.key()).await?.ok_or(Failure::Ask(None))?;
        // A mark whose save was applied though it did not seem so, and nothing sent: then we go on with it.
        let is_marked = grant.is_being_spent_by(&held.lease) && !held.has_sent;
        if let Some(Unfinished::Unmark(before)) = held.unfinished
            && before != version
            && !is_marked
        {
            held.unfinished = None;
        }
        let now = self.now();
        if let Some(credential) = self.usable(&grant, &held.person)
            && grant.is_fresh(now)
        {
            return Ok(Round::Done(credential));
        }
        if grant.held_back(now).is_some() {
            return Ok(Round::Later);
        }
        if grant.is_being_spent() && !is_marked {
            return self.look_at_a_mark(held, &grant, version).await;
        }
        let grant = grant.not_being_spent();
        if grant.refresh_token().is_none() {
            return Err(Failure::Ask(None));
        }
        // Before the mark: the wait for a connection is not part of the time in which a death costs a login.
        let Ok(ready) = timeout(before_sending(held), self.settings.client.ready()).await else {
            return other(
                "the HTTP client was not ready in time to refresh this user's token: nothing was sent",
            );
        };
        let ready = ready.map_err(|error| Failure::Other(error.into_cause()))?;
        if before_sending(held).is_zero() {
            return Ok(Round::Later);
        }
        let marked = match is_marked {
            true => version,
            false => match self.mark(held, &grant, version).await? {
                Some(marked) => marked,
                None => return Ok(Round::Changed),
            },
        };
        if before_sending(held).is_zero() {
            self.keep(held, grant, marked).await;
            return other("the token store took too long to refresh this user's token: nothing was sent");
        }
        self.spend(held, ready, grant, marked).await
    }

    /// `None`: something else is there, or so the store says; the next round sees.
    async fn mark(
        &self,
        held: &mut Held,
        grant: &Grant,
        version: Version,
    ) -> Result<Option<Version>, Failure> {
        let until = self.now() + held.left();
        let marked = grant.being_spent_under(&held.lease, until);
        held.unfinished = Some(Unfinished::Unmark(version));
        match self.settings.store.save(held.key(), &marked, version).await {
            Ok(marked) => Ok(marked),
            // It may be there all the same. If not, or if nobody can say, it is taken back later.
            Err(error) => match self.load(held.key()).await {
                Ok(Some(now)) if now.grant.is_being_spent_by(&held.lease) => Ok(Some(now.version)),
                _ => Err(failed(error)),
            },
        }
    }

    /// Sends the refresh token of `grant`, which is marked, and saves what comes of it.
    async fn spend(
        &self,
        held: &mut Held,
        ready: ReadyClient<'_>,
        grant: Grant,
        marked: Version,
    ) -> Result<Round, Failure> {
        let Some(token) = grant.refresh_token() else { return Err(Failure::Ask(None)) };
        // What is left to do if the HTTP client panics.
        let unclear = grant.clone().hold_back(false, None, self.now());
        held.unfinished = Some(Unfinished::Save(unclear, marked));
        held.has_sent = true;
        // As long as the lease can be held: the server may be at it all that time.
        let limit = held.left().saturating_sub(SAVE_TIME);
        let refreshed = timeout(limit, ready.refresh(token)).await;
        match refreshed.unwrap_or_else(|_| Err(OAuthError::timed_out())) {
            Ok(Refreshed { grant: new, problem }) => {
                let credential = new.credential();
                let new = self.for_store(new);
                if !self.keep(held, new, marked).await {
                    // A sign-in has come first, or a sign-out: that counts.
                    return Ok(Round::Changed);
                }
                match problem {
                    None => credential.map(Round::Done).map_err(Failure::Other),
                    Some(problem) => Err(Failure::Other(problem)),
                }
            }
            Err(error) => self.fail(held, error, grant, marked).await,
        }
    }

    async fn fail(
        &self,
        held: &mut Held,
        error: OAuthError,
        grant: Grant,
        marked: Version,
    ) -> Result<Round, Failure> {
        let now = self.now();
        match error.kind() {
            OAuthErrorKind::InvalidGrant => {
                held.unfinished = Some(Unfinished::Forget(marked));
                // If it fails, the mark stays ours until it is forgotten.
                if let Ok(is_deleted) = self.settings.store.delete(held.key(), marked).await {
                    held.unfinished = None;
                    // The user has signed in again meanwhile: that grant is tried.
                    if !is_deleted {
                        return Ok(Round::Changed);
                    }
                }
                Err(Failure::Ask(Some(Cause::OAuth(error))))
            }
            OAuthErrorKind::UnusableAnswer => {
                self.keep(held, grant.without_refresh_token(), marked).await;
                self.report.lost();
                Err(Failure::Ask(Some(Cause::OAuth(error))))
            }
            // The application's fault: the token is as good as before.
            OAuthErrorKind::InvalidClient => {
                self.keep(held, grant, marked).await;
                Err(Failure::Other(error.into_cause()))
            }
            OAuthErrorKind::Unavailable | OAuthErrorKind::SlowDown => {
                let grant = match error.is_sent() {
                    true => grant.hold_back(false, error.retry_after(), now),
                    false => grant,
                };
                self.keep(held, grant, marked).await;
                Err(Failure::Other(error.into_cause()))
            }
            // Servers say in many ways that a refresh token is over.
            _ => {
                self.keep(held, grant.hold_back(true, error.retry_after(), now), marked).await;
                Err(Failure::Ask(Some(Cause::OAuth(error))))
            }
        }
    }

    /// Saves a grant in place of the marked one; `false` if something else is there by now.
    async fn keep(&self, held: &mut Held, grant: Grant, marked: Version) -> bool {
        // Before anything else: the store's code may panic, and observers' too.
        held.unfinished = Some(Unfinished::Save(grant.clone(), marked));
        let saved = self.settings.store.save(held.key(), &grant, marked).await;
        match saved {
            Ok(saved) => {
                held.unfinished = None;
                saved.is_some()
            }
            Err(error) => {
                self.report.not_saved(&error);
                true
            }
        }
    }

    /// Whoever set it may be alive until its time is over: if it lost its lease with a failing Redis, or could not reach
    /// the store until now, and the new grant is on its way.
    async fn look_at_a_mark(
        &self,
        held: &mut Held,
        grant: &Grant,
        version: Version,
    ) -> Result<Round, Failure> {
        let wait = grant.spent_within(self.now()).max(LAST_CHANCE);
        if wait > self.settings.lease / 2 || wait > held.left() {
            return Ok(Round::Later);
        }
        sleep(wait).await;
        if self.load(held.key()).await?.is_none_or(|now| now.version != version) {
            return Ok(Round::Changed);
        }
        if !self.settings.store.delete(held.key(), version).await.map_err(failed)? {
            return Ok(Round::Changed);
        }
        self.report.lost();
        Err(Failure::Ask(None))
    }
}

/// How long the request may still wait to be sent.
fn before_sending(held: &Held) -> Duration {
    held.left().saturating_sub(SAVE_TIME + LEAST_EXCHANGE)
}
