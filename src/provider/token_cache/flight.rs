//! [`Flight`]: one mint under way.
//!
//! It is a task of its own, so that no caller's cancellation ends it, and it holds the cache only weakly, so
//! that it does not keep it alive.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Settings;
use super::live::Live;
use super::shared::Shared;
use crate::observe::TokenEvent;
use crate::provider::CredentialError;
use crate::provider::panic::catch_panic;

/// How a flight ended. The token itself is in the cache by then.
pub(super) type Landing = Result<(), CredentialError>;

/// The task's side of a mint.
pub(super) struct Flight {
    number: u64,
    /// Whether the token before is still good, and nobody waits.
    is_renewal: bool,
    cache: Weak<Shared>,
    settings: Settings,
    /// Dropped without a value, it tells the waiters that the task is gone.
    sender: watch::Sender<Option<Landing>>,
}

impl Flight {
    pub(super) fn new(
        number: u64,
        cache: &Arc<Shared>,
        sender: watch::Sender<Option<Landing>>,
        is_renewal: bool,
    ) -> Self {
        let settings = cache.settings().clone();
        Self { number, is_renewal, cache: Arc::downgrade(cache), settings, sender }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) async fn run(self) {
        let started = Instant::now();
        let time_limit = self.settings.load_timeout;
        let minted = match timeout(time_limit, catch_panic(mint(&self.settings))).await {
            Ok(Some(minted)) => minted,
            // The gate opens, and the waiters learn of it.
            Ok(None) => Err(CredentialError::new("the token source (or the clock) panicked")),
            Err(_) => Err(CredentialError::new(format!(
                "fetching the token took longer than its time limit of {time_limit:?}"
            ))),
        };
        self.land(minted, started.elapsed());
    }

    /// Opens the gate, then wakes those who wait before it.
    fn land(self, minted: Result<Live, CredentialError>, took: Duration) {
        let Some(cache) = self.cache.upgrade() else {
            return;
        };
        let landing = minted.as_ref().map(|_| ()).map_err(Clone::clone);
        let is_counted = cache.land(self.number, Some(minted));
        self.sender.send_replace(Some(landing.clone()));
        if !is_counted {
            return;
        }
        let is_renewal = self.is_renewal;
        cache.observers.tell(&match &landing {
            Ok(()) => TokenEvent::Minted { is_renewal, took },
            Err(error) => TokenEvent::MintFailed { is_renewal, error, took },
        });
    }
}

impl Drop for Flight {
    /// After [`land`](Self::land) the gate knows this number no more, and nothing happens.
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            cache.land(self.number, None);
        }
    }
}

async fn mint(settings: &Settings) -> Result<Live, CredentialError> {
    let credential = settings.source.mint().await?;
    Live::new(credential, settings.clock.now())
}
