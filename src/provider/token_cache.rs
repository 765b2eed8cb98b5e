//! [`TokenCache`]: a token that is minted once, kept, and renewed before it ends.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::request;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::{AuthProvider, Clock, CredentialError, CredentialFuture, SystemClock};
use crate::classify::{Rejection, RejectionKind};
use crate::credential::Credential;

#[cfg(test)]
mod tests;

/// What a source returns: a new credential, on its way.
pub type MintFuture = Pin<Box<dyn Future<Output = Result<Credential, CredentialError>> + Send>>;

/// Gets new tokens for a [`TokenCache`]. Closures that return a future are sources.
pub trait TokenSource: Send + Sync + 'static {
    /// Gets a new token. The credential should bear its expiry
    /// ([`Credential::with_expiry`]); without one, it is kept until it is refused.
    ///
    /// A failure with [`CredentialError::with_retry_after`] puts the next try off for that long.
    fn mint(&self) -> MintFuture;
}

impl<F, Fut> TokenSource for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Credential, CredentialError>> + Send + 'static,
{
    fn mint(&self) -> MintFuture {
        Box::pin(self())
    }
}

/// A share of its lifetime before a token's end, it is renewed while it still serves.
const REFRESH_SHARE: u32 = 5;

/// A day-long token need not be renewed hours early.
const REFRESH_MARGIN_MAX: Duration = Duration::from_secs(600);

/// A token this near to its end is not sent: it might end on the way. At most this, and at most one
/// part in [`SEND_SHARE`] of its lifetime.
const SEND_MARGIN_MAX: Duration = Duration::from_secs(5);
const SEND_SHARE: u32 = 20;

/// A token that arrives with less than this to live would be minted again at once, over and over.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

/// The first wait after a failed mint; doubled with each further failure.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// An identity server may ask for patience, but not for more than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// A refused token is minted anew at most this often: a server that refuses every token must not make us
/// mint one for every call.
const REMINT_INTERVAL: Duration = Duration::from_secs(30);

/// Longer than an exchange takes, shorter than a caller waits.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A provider that keeps the token its source mints.
///
/// - Reading a kept token takes no lock, no allocation and no await.
/// - However many calls need a token at once, it is minted once, in a task of its own: it goes on if the
///   call that began it is dropped. All who wait share the result, a failure too.
/// - It is renewed in the background before it ends, at the first call in the last fifth of its lifetime
///   (10 minutes at the most; the moment is jittered), while calls go on with the old one. A failed renewal
///   leaves the old one in place.
/// - After a failure the next mint waits: 0.5 s, then twice as long each time, up to a minute, or as long
///   as the identity server asks, up to 10 minutes. Meanwhile, calls with no valid token fail at once.
/// - A token that has ended by the wall clock is never sent.
/// - A refused token is dropped only if it is the one kept, and only if the refusal is
///   [`Unauthenticated`](RejectionKind::Unauthenticated): being forbidden something says nothing about the
///   token. It is minted anew at most every 30 seconds.
///
/// Clones share the token. When the last is dropped, a mint under way is stopped.
///
/// It needs a Tokio runtime with its time driver; outside of one, a call that has to mint fails.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_credential_fallback::{Credential, CredentialError, TokenCache};
///
/// let tokens = TokenCache::new(|| async {
///     // Here: ask your identity server.
///     let token = Credential::bearer("minted")
///         .map_err(|error| CredentialError::new("the token cannot be used").with_source(error))?;
///     Ok(token.with_expiry(SystemTime::now() + Duration::from_secs(900)))
/// });
/// # let _ = tokens;
/// ```
pub struct TokenCache<M> {
    source: Arc<M>,
    clock: Arc<dyn Clock>,
    load_timeout: Duration,
    state: Arc<State>,
}

/// What the clones share.
struct State {
    live: ArcSwapOption<Live>,
    gate: Mutex<Gate>,
}

/// A token that may be used.
struct Live {
    credential: Credential,
    /// From then on, it is renewed; `None` if it has no known end.
    refresh_at: Option<SystemTime>,
    /// From then on, it is not sent any more.
    ends_at: Option<SystemTime>,
}

/// Who mints, and when the next may. No foreign code runs while it is locked.
#[derive(Default)]
struct Gate {
    flight: Option<Flight>,
    flights: u64,
    failures: u32,
    /// No mint before then, and why.
    closed: Option<(Instant, CredentialError)>,
    evicted_at: Option<Instant>,
}

type Minted = Result<Credential, CredentialError>;

/// A mint under way.
struct Flight {
    id: u64,
    result: watch::Receiver<Option<Minted>>,
    /// The mint's own limit ends it before then. If its runtime is not driven any more, this does.
    deadline: Instant,
    task: Option<AbortHandle>,
}

impl<M: TokenSource> TokenCache<M> {
    /// An empty cache: the first call mints.
    pub fn new(source: M) -> Self {
        Self {
            source: Arc::new(source),
            clock: Arc::new(SystemClock),
            load_timeout: LOAD_TIMEOUT,
            state: Arc::new(State { live: ArcSwapOption::empty(), gate: Mutex::default() }),
        }
    }

    /// The wall clock that tokens end by. Default: [`SystemClock`].
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How long a mint may take. Default: 10 seconds.
    #[must_use]
    pub fn with_load_timeout(mut self, limit: Duration) -> Self {
        self.load_timeout = limit;
        self
    }

    /// Joins the mint under way, or starts one. `now` was read before any lock was taken.
    fn join(&self, now: SystemTime, wants: Wants) -> Joined {
        let mut gate = self.state.lock();
        // Whoever came first may be done by now.
        if let Some(live) = &*self.state.live.load()
            && live.serves(now)
            && !(wants == Wants::Renewal && live.is_due(now))
        {
            return Joined::Done(Ok(live.credential.clone()));
        }
        let started = Instant::now();
        if let Some(flight) = &gate.flight
            && started < flight.deadline
        {
            return Joined::Waiting(flight.result.clone(), flight.deadline);
        }
        if let Some((until, error)) = &gate.closed
            && started < *until
        {
            return Joined::Done(Err(error.clone()));
        }
        let Ok(runtime) = Handle::try_current() else {
            return Joined::Done(Err(CredentialError::new(
                "a token can only be minted inside a Tokio runtime",
            )));
        };
        let (sender, result) = watch::channel(None);
        gate.flights += 1;
        let id = gate.flights;
        // One second more than the mint has: what its own limit ends is never taken for abandoned.
        let deadline = started + self.load_timeout.min(LOAD_TIMEOUT_MAX) + Duration::from_secs(1);
        gate.flight = Some(Flight { id, result: result.clone(), deadline, task: None });
        drop(gate);

        // Spawned with the gate unlocked: a runtime that is shutting down drops the task here and now, and
        // the task's end takes the lock.
        let landing = Landing { state: Arc::downgrade(&self.state), id, sender, has_landed: false };
        let (source, clock) = (Arc::clone(&self.source), Arc::clone(&self.clock));
        let limit = self.load_timeout;
        let task = runtime.spawn(async move {
            let landing = landing;
            let minted = match timeout(limit, async { source.mint().await }).await {
                Ok(minted) => minted,
                Err(_) => Err(CredentialError::new(format!("no token came within {limit:?}"))),
            };
            landing.land(minted, clock.now());
        });
        if let Some(flight) = self.state.lock().flight.as_mut().filter(|flight| flight.id == id) {
            flight.task = Some(task.abort_handle());
        }
        Joined::Waiting(result, deadline)
    }
}

/// Far beyond any exchange, and small enough to be added to any instant.
const LOAD_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, PartialEq)]
enum Wants {
    /// There is no valid token.
    Token,
    /// There is one, and it is time for the next.
    Renewal,
}

enum Joined {
    Done(Minted),
    Waiting(watch::Receiver<Option<Minted>>, Instant),
}

impl<M: TokenSource> AuthProvider for TokenCache<M> {
    fn credential(&self, _request: &request::Parts) -> CredentialFuture {
        let now = self.clock.now();
        let live = self.state.live.load();
        if let Some(live) = &*live
            && live.serves(now)
        {
            if live.is_due(now) {
                // Whatever comes of it, this call has its token.
                drop(self.join(now, Wants::Renewal));
            }
            return CredentialFuture::ready(Ok(live.credential.clone()));
        }
        drop(live);
        match self.join(now, Wants::Token) {
            Joined::Done(minted) => CredentialFuture::ready(minted),
            Joined::Waiting(result, deadline) => CredentialFuture::boxed(wait(result, deadline)),
        }
    }

    fn rejected(&self, credential: &Credential, reason: &Rejection) {
        if reason.kind() != RejectionKind::Unauthenticated {
            return;
        }
        let mut gate = self.state.lock();
        let is_live = |live: &Option<Arc<Live>>| {
            live.as_ref().is_some_and(|live| live.credential.generation() == credential.generation())
        };
        let was_lately = gate.evicted_at.is_some_and(|at| at.elapsed() < REMINT_INTERVAL);
        if is_live(&self.state.live.load()) && !was_lately {
            gate.evicted_at = Some(Instant::now());
            self.state.live.store(None);
        }
    }
}

async fn wait(mut result: watch::Receiver<Option<Minted>>, deadline: Instant) -> Minted {
    let stopped = || CredentialError::new("the mint was stopped before it had a token");
    let landed = timeout_at(deadline, result.wait_for(Option::is_some)).await;
    match landed {
        Ok(Ok(minted)) => minted.clone().unwrap_or_else(|| Err(stopped())),
        Ok(Err(_)) | Err(_) => Err(stopped()),
    }
}

impl Live {
    fn new(credential: Credential, now: SystemTime) -> Result<Self, CredentialError> {
        let Some(end) = credential.expires_at() else {
            return Ok(Self { credential, refresh_at: None, ends_at: None });
        };
        let lifetime = end.duration_since(now).unwrap_or_default();
        if lifetime < MIN_LIFETIME {
            return Err(CredentialError::new(
                "the token arrived expired, or with less than a second to live: check this machine's clock, and \
                 whether its expiry is configured as absolute or relative",
            ));
        }
        let margin = (lifetime / REFRESH_SHARE).min(REFRESH_MARGIN_MAX);
        // Replicas that started together should not renew together: up to half the margin earlier.
        let early = margin + margin.mul_f64(fastrand::f64() / 2.0);
        let send_margin = (lifetime / SEND_SHARE).min(SEND_MARGIN_MAX);
        Ok(Self { refresh_at: end.checked_sub(early), ends_at: end.checked_sub(send_margin), credential })
    }

    fn serves(&self, now: SystemTime) -> bool {
        self.ends_at.is_none_or(|end| now < end)
    }

    fn is_due(&self, now: SystemTime) -> bool {
        self.refresh_at.is_some_and(|at| at <= now)
    }
}

impl State {
    /// A panic elsewhere cannot leave the gate half changed: nothing between its locks and unlocks panics.
    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let gate = self.gate.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = gate.flight.take().and_then(|flight| flight.task) {
            task.abort();
        }
    }
}

/// Brings the result of a mint home, and opens the gate whatever becomes of the mint: a panic and a runtime
/// that shuts down included.
struct Landing {
    /// Weak, so that a mint does not keep alive what nobody else uses.
    state: Weak<State>,
    id: u64,
    sender: watch::Sender<Option<Minted>>,
    has_landed: bool,
}

impl Landing {
    fn land(mut self, minted: Minted, now: SystemTime) {
        self.has_landed = true;
        let minted = minted.and_then(|credential| Live::new(credential, now));
        let result = match &minted {
            Ok(live) => Ok(live.credential.clone()),
            Err(error) => Err(error.clone()),
        };
        if let Some(state) = self.state.upgrade() {
            let mut gate = state.lock();
            // A mint that was given up as abandoned does not speak for the one that took its place.
            if gate.flight.as_ref().is_some_and(|flight| flight.id == self.id) {
                gate.flight = None;
                match minted {
                    Ok(live) => {
                        gate.failures = 0;
                        gate.closed = None;
                        state.live.store(Some(Arc::new(live)));
                    }
                    Err(error) => gate.close(error),
                }
            }
        }
        self.sender.send_replace(Some(result));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.has_landed {
            return;
        }
        // Nothing was learnt about the identity server: the next call may try at once.
        if let Some(state) = self.state.upgrade() {
            let mut gate = state.lock();
            if gate.flight.as_ref().is_some_and(|flight| flight.id == self.id) {
                gate.flight = None;
            }
        }
    }
}

impl Gate {
    fn close(&mut self, error: CredentialError) {
        let doubled = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Between half and all of it: clients that failed together should not come back together.
        let backoff = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
        let asked = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
        self.closed = Some((Instant::now() + backoff.max(asked), error));
    }
}

impl<M> Clone for TokenCache<M> {
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            clock: Arc::clone(&self.clock),
            load_timeout: self.load_timeout,
            state: Arc::clone(&self.state),
        }
    }
}

impl<M> fmt::Debug for TokenCache<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.state.live.load();
        f.debug_struct("TokenCache")
            .field("credential", &live.as_ref().map(|live| &live.credential))
            .field("load_timeout", &self.load_timeout)
            .finish_non_exhaustive()
    }
}
