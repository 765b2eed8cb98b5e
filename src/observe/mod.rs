//! Facts out, never secrets: [`Observe`] and what implements it.
//!
//! | observer | feature | makes |
//! | --- | --- | --- |
//! | `Traces` | `tracing` | a span for each call, an event for each fact |
//! | `Metrics` | `metrics` | counters and a histogram, for the `metrics` facade |
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use http::{Method, Uri};
//! use tower_credential_fallback::observe::{CallEvent, Observe, ObserveCall};
//! use tower_credential_fallback::{Credential, CredentialFallbackLayer, Verdict};
//!
//! /// Counts refusals.
//! #[derive(Clone, Default)]
//! struct Refusals(Arc<AtomicU64>);
//!
//! impl Observe for Refusals {
//!     fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
//!         Box::new(self.clone())
//!     }
//! }
//!
//! impl ObserveCall for Refusals {
//!     fn event(&mut self, event: &CallEvent<'_>) {
//!         if let CallEvent::Answered { verdict: Verdict::Rejected(_), .. } = event {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), tower_credential_fallback::Error> {
//! let layer = CredentialFallbackLayer::new(Credential::bearer("old")?, Credential::bearer("new")?)?
//!     .with_observer(Refusals::default());
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use http::{Method, StatusCode, Uri};

use crate::outcome::{NoReplay, Verdict};
use crate::preference::Slot;
use crate::provider::CredentialError;

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;
mod watch;

#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
#[cfg(feature = "tracing")]
pub use self::tracing::Traces;
pub(crate) use watch::Watch;

/// Is told what the layer and its providers do.
///
/// An observer that panics fails the call that it observes, and no other. The call's other observers are told all the
/// same, and each of them is told how the call ended.
pub trait Observe: Send + Sync {
    /// A call begins. The URI may hold what is nobody else's business in its path and query.
    fn call(&self, method: &Method, uri: &Uri) -> Box<dyn ObserveCall>;

    /// Something happened to the token of a slot, outside of any call. The default does nothing.
    fn token(&self, slot: Slot, event: &TokenEvent<'_>) {
        let _ = (slot, event);
    }
}

/// Is told what happens in one call, in order. Dropped when the call is over.
pub trait ObserveCall: Send {
    /// Something happened.
    fn event(&mut self, event: &CallEvent<'_>);

    /// The inner service is about to be called or polled: `inner` does it, and has to be called once. The default
    /// does just that. It is the place to enter a span.
    fn enter(&mut self, inner: &mut dyn FnMut()) {
        inner();
    }
}

/// Something that happened in a call.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum CallEvent<'e> {
    /// A provider has no credential; the other one's is used instead, or the refusal stays.
    Unavailable {
        /// Whose turn it was.
        slot: Slot,
        /// Why it has none.
        error: &'e CredentialError,
    },
    /// A request is sent with this credential.
    Attempt {
        /// The credential's slot.
        slot: Slot,
        /// Whether an attempt has been refused before: nearly always the other credential's. (It was this one's if
        /// what the request refers to is left out: see [`LeftBehind`](crate::LeftBehind).)
        is_replay: bool,
    },
    /// It was answered.
    Answered {
        /// The credential's slot.
        slot: Slot,
        /// The answer's status.
        status: StatusCode,
        /// What the answer says of the credential.
        verdict: Verdict,
    },
    /// No answer came: the inner service failed.
    Failed {
        /// The credential's slot.
        slot: Slot,
    },
    /// A refused request is not sent again.
    NotReplayed {
        /// Why not.
        reason: &'e NoReplay,
    },
    /// The call is over.
    End {
        /// How it ended.
        ending: Ending,
        /// What the layer has added to the time of the answering attempt: the wait for credentials, and, after
        /// a refusal, the refused attempt.
        added: Duration,
    },
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// With an answer that this credential served.
    Accepted(Slot),
    /// With an answer that says nothing of the credential.
    Inconclusive(Slot),
    /// With a refusal.
    Refused(Slot),
    /// With an error.
    Failed,
    /// The caller did not wait for it.
    Abandoned,
    /// Its request bore no credential of ours, since its origin is out of scope; whatever became of it.
    Unsigned,
}

impl Ending {
    /// A short name, the same for ever: fit for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Inconclusive(_) => "inconclusive",
            Self::Refused(_) => "refused",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Unsigned => "unsigned",
        }
    }
}

/// Something that happened to a token that a provider keeps.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum TokenEvent<'e> {
    /// There is a new token.
    Minted {
        /// Whether it was minted in time, while the one before it was still good.
        is_renewal: bool,
        /// How long that took.
        took: Duration,
    },
    /// There is no new token.
    MintFailed {
        /// Whether there is still a good one, so that no call has noticed.
        is_renewal: bool,
        /// Why there is none.
        error: &'e CredentialError,
        /// How long that took.
        took: Duration,
    },
    /// The server refused the token, and it is not used any more.
    Dropped,
    /// A user's new grant is in use, and the store does not take it. It is tried again for a while; a second event says
    /// that this was in vain.
    #[cfg(feature = "oauth")]
    NotSaved {
        /// Why not.
        error: &'e crate::store::StoreError,
    },
    /// A user's grant is lost, and the user has to authorise again: a replica died in the middle of a refresh, the
    /// store did not come back in time, or the identity server's answer could not be read.
    #[cfg(feature = "oauth")]
    GrantLost,
    /// What the store has of a user cannot be read, and the user has to authorise again: it was sealed with another key,
    /// or with none, or is damaged.
    #[cfg(feature = "oauth")]
    GrantUnreadable {
        /// What the store says.
        error: &'e crate::store::StoreError,
    },
}
