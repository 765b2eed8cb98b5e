//! [`Shared`]: the token in use, and the gate that lets one [`Flight`] through at a time.
//!
//! Whatever becomes of a flight, the gate opens again:
//!
//! | the flight … | noticed by |
//! | --- | --- |
//! | returns, fails, panics or takes too long | itself: `Flight::land` |
//! | is dropped with its runtime | its destructor |
//! | stands still, because nobody runs its runtime | whoever waits for it or wants a token, by the deadline |

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::Settings;
use super::backoff::Backoff;
use super::flight::{Flight, Landing};
use super::live::Live;
use crate::credential::Credential;
use crate::observe::TokenEvent;
use crate::provider::CredentialError;
use crate::provider::observers::Observers;

/// How long after its own time limit a flight is held to stand still. The flight's timer and the waiters'
/// fire together; this lets the flight report first.
const STUCK_GRACE: Duration = Duration::from_secs(1);

/// How many flights one call waits for. A second one is needed if the token ended or was refused between
/// its landing and the moment the caller was polled; more would be a loop.
const MAX_WAITS: usize = 2;

pub(super) struct Shared {
    settings: Settings,
    live: ArcSwapOption<Live>,
    /// Never held across an await, nor while code of the user runs.
    gate: Mutex<Gate>,
    mints: AtomicU64,
    /// Milliseconds after `epoch` before which a refresh need not be thought of: one is under way, or has
    /// failed lately. It spares readers the lock, and is only a hint: `gate` decides.
    quiet_until: AtomicU64,
    epoch: Instant,
    pub(super) observers: Arc<Observers>,
}

#[derive(Default)]
struct Gate {
    flight: Option<Ticket>,
    backoff: Backoff,
    last_eviction: Option<Instant>,
}

/// What the gate knows of the flight under way.
struct Ticket {
    number: u64,
    landed: watch::Receiver<Option<Landing>>,
    /// From here on it is held to stand still.
    deadline: Instant,
    /// `None` until the task is spawned.
    abort: Option<AbortHandle>,
}

/// A flight to be launched, and the one whose place it took.
struct Departure {
    flight: Flight,
    stuck: Option<Ticket>,
}

/// What a caller waits with.
struct Waiter {
    number: u64,
    landed: watch::Receiver<Option<Landing>>,
    deadline: Instant,
}

enum Entry {
    Live(Credential),
    Wait(Waiter),
}

impl Shared {
    pub(super) fn new(settings: Settings, observers: Arc<Observers>) -> Self {
        Self {
            settings,
            live: ArcSwapOption::empty(),
            gate: Mutex::default(),
            mints: AtomicU64::new(0),
            quiet_until: AtomicU64::new(0),
            epoch: Instant::now(),
            observers,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn mints(&self) -> u64 {
        self.mints.load(Ordering::Relaxed)
    }

    pub(super) fn last_error(&self) -> Option<CredentialError> {
        self.lock().backoff.last_error().cloned()
    }

    /// The token in use, ended or not.
    pub(super) fn peek(&self) -> Option<Credential> {
        self.live.load().as_ref().map(|live| live.credential().clone())
    }

    /// The token, if there is a valid one. Starts its renewal if that is due.
    pub(super) fn live_credential(self: &Arc<Self>, now: SystemTime) -> Option<Credential> {
        let live = self.live.load();
        let live = live.as_ref().filter(|live| live.is_usable(now))?;
        if live.is_refresh_due(now) {
            self.refresh(live);
        }
        Some(live.credential().clone())
    }

    /// The token, once there is one.
    pub(super) async fn obtain(self: Arc<Self>) -> Result<Credential, CredentialError> {
        for _ in 0..MAX_WAITS {
            let now = self.settings.clock.now();
            let waiter = match self.enter(now)? {
                Entry::Live(credential) => return Ok(credential),
                Entry::Wait(waiter) => waiter,
            };
            self.wait(waiter).await?;
            if let Some(credential) = self.live_credential(self.settings.clock.now()) {
                return Ok(credential);
            }
        }
        Err(CredentialError::new("each new token had expired or was refused before it could be used"))
    }

    /// Drops the token of this generation, if it is still the one in use, and none was dropped lately.
    pub(super) fn evict(&self, generation: u64) {
        let is_live =
            || self.live.load().as_ref().is_some_and(|live| live.credential().generation() == generation);
        // Late refusals of an old token come in numbers: keep them off the lock.
        if !is_live() {
            return;
        }
        let mut gate = self.lock();
        let now = Instant::now();
        let too_early = gate
            .last_eviction
            .is_some_and(|last| now.saturating_duration_since(last) < self.settings.remint_interval);
        // Once more under the lock, under which alone `live` is written.
        if is_live() && !too_early {
            gate.last_eviction = Some(now);
            self.live.store(None);
            drop(gate);
            self.observers.tell(&TokenEvent::Dropped);
        }
    }

    /// Starts a flight that nobody waits for, if there is none and none has failed lately.
    fn refresh(self: &Arc<Self>, due: &Arc<Live>) {
        let now = Instant::now();
        if self.millis(now) < self.quiet_until.load(Ordering::Relaxed) {
            return;
        }
        // Outside of a runtime the renewal waits for a call inside one; the token is valid meanwhile.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut gate = match self.gate.try_lock() {
            Ok(gate) => gate,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever holds it is doing this or something better. Readers never wait.
            Err(TryLockError::WouldBlock) => return,
        };
        let is_replaced = !self.live.load().as_ref().is_some_and(|live| Arc::ptr_eq(live, due));
        let is_flying = gate.flight.as_ref().is_some_and(|flight| now < flight.deadline);
        if is_replaced || is_flying || gate.backoff.holds(now).is_some() {
            return;
        }
        let (_, departure) = self.prepare(&mut gate, now, true);
        drop(gate);
        self.launch(&runtime, departure);
    }

    /// One way or another to a token: it is there now, it is coming, or it is sent for.
    fn enter(self: &Arc<Self>, wall: SystemTime) -> Result<Entry, CredentialError> {
        let runtime = Handle::try_current();
        let mut gate = self.lock();
        if let Some(live) = self.live.load().as_ref().filter(|live| live.is_usable(wall)) {
            return Ok(Entry::Live(live.credential().clone()));
        }
        let now = Instant::now();
        if let Some(flight) = gate.flight.as_ref().filter(|flight| now < flight.deadline) {
            return match runtime {
                Ok(_) => Ok(Entry::Wait(flight.waiter())),
                Err(_) => Err(no_runtime()),
            };
        }
        if let Some(error) = gate.backoff.holds(now) {
            return Err(error.clone());
        }
        let Ok(runtime) = runtime else {
            return Err(no_runtime());
        };
        let (waiter, departure) = self.prepare(&mut gate, now, false);
        drop(gate);
        self.launch(&runtime, departure);
        Ok(Entry::Wait(waiter))
    }

    /// Takes the gate for a new flight, from one that stands still if there is one.
    fn prepare(self: &Arc<Self>, gate: &mut Gate, now: Instant, is_renewal: bool) -> (Waiter, Departure) {
        let number = self.mints.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, landed) = watch::channel(None);
        let deadline = now + self.settings.load_timeout + STUCK_GRACE;
        let ticket = Ticket { number, landed, deadline, abort: None };
        let waiter = ticket.waiter();
        let stuck = gate.flight.replace(ticket);
        self.quiet_until(deadline);
        let flight = Flight::new(number, self, sender, is_renewal);
        (waiter, Departure { flight, stuck })
    }

    /// Not under the lock: a runtime that is shutting down drops the task inside of `spawn`, and the flight's
    /// destructor takes the lock.
    fn launch(&self, runtime: &Handle, Departure { flight, stuck }: Departure) {
        if let Some(stuck) = stuck {
            stuck.abort();
        }
        let number = flight.number();
        let abort = runtime.spawn(flight.run()).abort_handle();
        if let Some(flight) = self.lock().flight.as_mut().filter(|flight| flight.number == number) {
            flight.abort = Some(abort);
        }
    }

    async fn wait(&self, mut waiter: Waiter) -> Landing {
        match timeout_at(waiter.deadline, waiter.landed.wait_for(Option::is_some)).await {
            Ok(Ok(landing)) => landing.clone().unwrap_or(Ok(())),
            Ok(Err(_)) => {
                Err(CredentialError::new("the tokio runtime that was fetching the token has shut down"))
            }
            Err(_) => {
                let error = CredentialError::new(
                    "fetching the token got stuck: the tokio runtime that it runs on stands still",
                );
                self.give_up(waiter.number, &error);
                Err(error)
            }
        }
    }

    /// Ends a flight from outside.
    fn give_up(&self, number: u64, error: &CredentialError) {
        let mut gate = self.lock();
        let Some(stuck) = gate.take(number) else {
            return;
        };
        let next = gate.backoff.failed(error.clone(), Instant::now());
        self.quiet_until(next);
        drop(gate);
        stuck.abort();
        let took = self.settings.load_timeout + STUCK_GRACE;
        self.observers.tell(&TokenEvent::MintFailed { is_renewal: false, error, took });
    }

    /// Ends a flight from inside; says whether it was still waited for. `None`: it was dropped before it had an
    /// outcome.
    pub(super) fn land(&self, number: u64, outcome: Option<Result<Live, CredentialError>>) -> bool {
        let mut gate = self.lock();
        // A flight that was given up may still come in: another has taken its place.
        if gate.take(number).is_none() {
            return false;
        }
        match outcome {
            Some(Ok(live)) => {
                self.live.store(Some(Arc::new(live)));
                gate.backoff.succeeded();
                self.quiet_until(self.epoch);
            }
            Some(Err(error)) => {
                let next = gate.backoff.failed(error, Instant::now());
                self.quiet_until(next);
            }
            // It is no fault of the source: another runtime may ask it at once.
            None => self.quiet_until(self.epoch),
        }
        true
    }

    fn quiet_until(&self, at: Instant) {
        self.quiet_until.store(self.millis(at), Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// Every change under the lock is whole before anything can panic, so a poisoned gate is as good as new.
    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let gate = self.gate.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = gate.flight.take() {
            flight.abort();
        }
    }
}

impl Gate {
    /// Opens the gate, if it is this flight that holds it.
    fn take(&mut self, number: u64) -> Option<Ticket> {
        self.flight.take_if(|flight| flight.number == number)
    }
}

impl Ticket {
    fn waiter(&self) -> Waiter {
        Waiter { number: self.number, landed: self.landed.clone(), deadline: self.deadline }
    }

    fn abort(&self) {
        if let Some(abort) = &self.abort {
            abort.abort();
        }
    }
}

fn no_runtime() -> CredentialError {
    CredentialError::new("a token has to be fetched, which needs a tokio runtime: call from inside of one")
}
