//! [`Refresher`]: one user's valid token, out of the store or by a refresh that nobody else makes.
//!
//! ```text
//! load ── fresh? ── yes ──→ done
//!   │ no
//!   ▼
//! lease ── held by another? ── yes ──→ wait, and load again
//!   │                                     ┐
//!   ▼                                     │ in a task of its own, which no caller's
//! rounds (round.rs), until one is whole   │ cancellation ends
//!   │                                     │
//! what the store has not taken (finish.rs)│
//!   │                                     │
//! release                                 ┘
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout_at};

use super::finish::Unfinished;
use super::gate::{Gate, Pass};
use super::person::Person;
use super::report::Report;
use super::round::Round;
use super::user_tokens::Settings;
use super::{Grant, OAuthError};
use crate::credential::Credential;
use crate::provider::CredentialError;
use crate::provider::panic::catch_panic;
use crate::store::{Lease, StoreError, Stored};

/// How often a lease that another holds is looked at again. An exchange takes some hundred milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long before its time limit a call is told why there is no token, at the most: after it, nobody listens.
const TOLD_BEFORE: Duration = Duration::from_millis(500);

/// How often a grant that changed in the meantime is begun with again.
const ROUNDS: usize = 3;

pub(super) struct Refresher {
    pub(super) settings: Settings,
    pub(super) report: Report,
    pub(super) gate: Gate,
}

/// A lease of one user's, and what has to be done before it is given back.
pub(super) struct Held {
    pub(super) person: Arc<Person>,
    pub(super) lease: Lease,
    pub(super) ends: Instant,
    pub(super) unfinished: Option<Unfinished>,
    /// Whether a refresh token was sent under it: then no mark of this lease is a fresh one.
    pub(super) has_sent: bool,
    _pass: Pass,
}

impl Held {
    pub(super) fn key(&self) -> &str {
        &self.person.key
    }

    pub(super) fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }
}

/// Why there is no token, before the application was asked for a URL: its code runs for its own call alone.
pub(super) enum Failure {
    /// Only the user can help.
    Ask(Option<Cause>),
    Other(CredentialError),
}

/// Why the user is asked.
pub(super) enum Cause {
    OAuth(OAuthError),
    Store(StoreError),
}

impl Refresher {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, report: Report::default(), gate: Gate::new() }
    }

    /// A valid token of this user.
    ///
    /// May be dropped at any time: a refresh under way goes on, and its grant is saved.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        person: &Arc<Person>,
    ) -> Result<Credential, CredentialError> {
        person.set_failed_with(None);
        self.find(person).await.map_err(|failure| match failure {
            Failure::Other(error) => error,
            Failure::Ask(cause) => {
                let error =
                    CredentialError::interaction_required((self.settings.authorize_url)(&person.user));
                match cause {
                    None => error,
                    Some(Cause::OAuth(cause)) => error.with_source(cause),
                    Some(Cause::Store(cause)) => error.with_source(cause),
                }
            }
        })
    }

    async fn find(self: &Arc<Self>, person: &Arc<Person>) -> Result<Credential, Failure> {
        let limit = self.settings.load_timeout;
        let give_up = Instant::now() + limit.saturating_sub(TOLD_BEFORE.min(limit / 10));
        loop {
            let Stored { grant, .. } = self.load(&person.key).await?.ok_or(Failure::Ask(None))?;
            let now = self.now();
            let valid = self.usable(&grant, person);
            let held_back = grant.held_back(now);
            if let Some(credential) = &valid
                && (grant.is_fresh(now) || held_back.is_some() || grant.refresh_token().is_none())
            {
                return Ok(credential.clone());
            }
            if grant.refresh_token().is_none() {
                return Err(Failure::Ask(None));
            }
            if let Some((held_back, left)) = held_back {
                person.set_failed_with(grant.refresh_token());
                return Err(if held_back.is_refused {
                    Failure::Ask(None)
                } else {
                    Failure::Other(
                        CredentialError::new(
                            "the last refresh of this user's token has failed, and it is not yet time for the next",
                        )
                        .with_retry_after(left),
                    )
                });
            }
            let refreshing = tokio::spawn(Arc::clone(self).refresh(Arc::clone(person)));
            let refreshed = match timeout_at(give_up, refreshing).await {
                Ok(Ok(refreshed)) => refreshed,
                Ok(Err(_)) => other("the refresh of this user's token was cut off"),
                Err(_) => other("the refresh of this user's token takes long; it goes on"),
            };
            match (refreshed, valid) {
                (Ok(Some(credential)), _) => return Ok(credential),
                // Still good: nobody has to wait, or to fail.
                (_, Some(credential)) => return Ok(credential),
                (Err(failure), None) => {
                    person.set_failed_with(grant.refresh_token());
                    return Err(failure);
                }
                (Ok(None), None) => {
                    let again = Instant::now() + LOOK_AGAIN.mul_f64(0.5 + fastrand::f64());
                    // With no time left to ask, the answer would only seem to be late.
                    if again + LOOK_AGAIN > give_up {
                        return other(
                            "another replica, or an earlier call, is refreshing this user's token, and takes too long",
                        );
                    }
                    sleep(again.saturating_duration_since(Instant::now())).await;
                }
            }
        }
    }

    /// The token after a refresh; `None` if another has the right to it for now.
    async fn refresh(self: Arc<Self>, person: Arc<Person>) -> Result<Option<Credential>, Failure> {
        let Some(pass) = self.gate.enter() else {
            return other("this process is about to end: it begins no refresh of a user's token");
        };
        let asked = Instant::now();
        let Some(lease) =
            self.settings.store.lease(&person.key, self.settings.lease).await.map_err(failed)?
        else {
            return Ok(None);
        };
        let ends = asked + self.settings.lease;
        let mut held = Held { person, lease, ends, unfinished: None, has_sent: false, _pass: pass };
        let result = catch_panic(self.rounds(&mut held)).await;
        match held.unfinished.take() {
            None => self.give_back(held).await,
            // The lease goes with it, or the next replica would take the mark for a dead one's.
            Some(unfinished) => drop(tokio::spawn(self.finish_later(held, unfinished))),
        }
        result.unwrap_or_else(|| other("the HTTP client (or the token store) panicked in a refresh"))
    }

    async fn rounds(&self, held: &mut Held) -> Result<Option<Credential>, Failure> {
        for _ in 0..ROUNDS {
            match self.round(held).await? {
                Round::Done(credential) => return Ok(Some(credential)),
                Round::Later => return Ok(None),
                Round::Changed => {}
            }
        }
        other("this user's grant changes faster than it can be refreshed")
    }

    pub(super) async fn give_back(&self, held: Held) {
        // If the store is down now, it runs out.
        let _ = self.settings.store.release(&held.person.key, held.lease).await;
    }

    pub(super) async fn load(&self, key: &str) -> Result<Option<Stored>, Failure> {
        match self.settings.store.load(key).await {
            Ok(stored) => Ok(stored),
            Err(error) if error.unreadable_version().is_some() => {
                self.report.unreadable(&error);
                Err(Failure::Ask(Some(Cause::Store(error))))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// A grant that came by our clock, as it is stored: by the server's, which all replicas share.
    pub(super) fn for_store(&self, grant: Grant) -> Grant {
        grant.by_clock_ahead(self.settings.client.server_ahead_by())
    }

    /// The access token of a grant that is stored, by our clock.
    pub(super) fn usable(&self, grant: &Grant, person: &Person) -> Option<Credential> {
        if !grant.is_valid(self.now()) {
            return None;
        }
        let behind = self.settings.client.server_ahead_by().saturating_neg();
        let credential = grant.clone().by_clock_ahead(behind).credential().ok()?;
        (!person.is_refused(&credential)).then_some(credential)
    }

    /// By the server's clock, as stored grants are.
    pub(super) fn now(&self) -> SystemTime {
        let client = &self.settings.client;
        let by = client.server_ahead_by();
        let (now, apart) = (client.config().clock.now(), Duration::from_millis(by.unsigned_abs()));
        let server = if by < 0 { now.checked_sub(apart) } else { now.checked_add(apart) };
        server.unwrap_or(now)
    }
}

pub(super) fn other<T>(message: &'static str) -> Result<T, Failure> {
    Err(Failure::Other(CredentialError::new(message)))
}

pub(super) fn failed(error: StoreError) -> Failure {
    let message = match error.is_unavailable() {
        true => "the token store cannot be reached",
        false => "the token store's content cannot be read",
    };
    Failure::Other(CredentialError::new(message).with_source(error))
}
