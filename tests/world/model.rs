//! What a replica may know: a small model of preferences, hints and cooldowns, made from their documentation.
//!
//! - Evidence: one slot was rejected for a resource, then the other served it. Nothing else changes a preference.
//! - Evidence of an attempt that was sent before newer evidence was learnt is stale.
//! - A hint is left by an upload that is too large to replay, and by a second attempt that was given up. The next call with
//!   the same method, URI, headers, resource and user begins with it; if its slot serves that call, the hint was the first half of
//!   evidence.
//! - A resource without evidence begins where it was served, unless the slot came first by chance. One that was not seen may
//!   begin with either, once the fallback has served anything.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use tower_credential_fallback::{CredentialChoice, Order, Slot};

use crate::request::Spec;

/// How long a hint waits for its call.
const HINT_FOR: Duration = Duration::from_secs(600);

/// The layer's default cooldown.
pub(crate) const COOLDOWN: Duration = Duration::from_secs(1);

/// What is known of one resource.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// The slot that evidence speaks for.
    pub(crate) preference: Option<Slot>,
    /// When that was learnt, as a place among the events of the world.
    learnt: u64,
    /// The fallback, if that has served it at once when nothing was known.
    start: Option<Slot>,
    /// Whether the fallback was ever seen to serve it.
    by_fallback: bool,
    /// The slot that served it last, as far as this replica knows.
    pub(crate) served: Option<Slot>,
    /// The slot that this replica's own call was served with last.
    pub(crate) own: Option<Slot>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) known: BTreeMap<usize, Known>,
    hints: BTreeMap<String, (Slot, Instant, Spec)>,
    cooldowns: HashMap<String, Instant>,
    /// Whether the fallback has served anything that has a name.
    has_found_fallback: bool,
    pub(crate) is_shared: bool,
    /// What the other replicas have yet to be told.
    pub(crate) untold: VecDeque<(usize, Slot)>,
}

impl Model {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { is_shared, ..Self::default() }
    }

    /// The slots that a call may begin with, and the hint that it uses up.
    pub(crate) fn begin(&mut self, spec: &Spec, order: Order) -> (Vec<Slot>, Option<Slot>) {
        let order = match (spec.choice, order) {
            (Some(CredentialChoice::First(slot) | CredentialChoice::Only(slot)), _) => {
                return (vec![slot], None);
            }
            (None, order) => order,
        };
        match order {
            Order::PrimaryFirst | Order::PrimaryOnly => return (vec![Slot::Primary], None),
            Order::FallbackFirst | Order::FallbackOnly => return (vec![Slot::Fallback], None),
            _ => {}
        }
        let hint = self.hints.remove(&spec.key());
        if let Some((slot, ..)) = hint.filter(|(_, until, _)| Instant::now() < *until) {
            return (vec![slot], Some(slot));
        }
        let known = spec.resource.map(|resource| self.known(resource)).unwrap_or_default();
        let slots = match (known.preference, known.start, known.own) {
            (Some(slot), ..) => vec![slot],
            (None, None, Some(Slot::Primary)) => vec![Slot::Primary],
            (None, Some(slot), own) if own == Some(slot) => vec![slot],
            _ if self.has_found_fallback => vec![Slot::Primary, Slot::Fallback],
            _ => vec![Slot::Primary],
        };
        (slots, None)
    }

    pub(crate) fn known(&self, resource: usize) -> Known {
        self.known.get(&resource).copied().unwrap_or_default()
    }

    /// `slot` has served the resource; with evidence, if the other was rejected before. `sent` and `now` are places among
    /// the events of the world. Returns whether that was evidence, and not stale.
    pub(crate) fn served(
        &mut self,
        resource: usize,
        slot: Slot,
        is_evidence: bool,
        is_chance: bool,
        sent: u64,
        now: u64,
    ) -> bool {
        let known = self.known.entry(resource).or_default();
        known.own = Some(slot);
        let is_stale = is_evidence && known.learnt > sent;
        known.served = Some(slot);
        if slot == Slot::Fallback {
            if !is_evidence && !is_chance && !known.by_fallback && known.preference.is_none() {
                known.start = Some(slot);
            }
            self.has_found_fallback = true;
            known.by_fallback = true;
        }
        if !is_evidence || is_stale {
            return false;
        }
        if self.is_shared && known.preference != Some(slot) {
            self.untold.push_back((resource, slot));
        }
        (known.preference, known.learnt) = (Some(slot), now);
        true
    }

    /// Another replica, or this one, has told that `slot` serves the resource.
    pub(crate) fn adopt(&mut self, resource: usize, slot: Slot, now: u64) {
        // What is still to be told comes behind it in the log.
        let is_newer_known = self.untold.iter().any(|(untold, _)| *untold == resource);
        let known = self.known.entry(resource).or_default();
        if known.preference != Some(slot) && !is_newer_known {
            self.has_found_fallback |= slot == Slot::Fallback;
            known.by_fallback |= slot == Slot::Fallback;
            (known.preference, known.learnt, known.served) = (Some(slot), now, Some(slot));
        }
    }

    pub(crate) fn hint(&mut self, spec: &Spec, slot: Slot) {
        self.hints.insert(spec.key(), (slot, Instant::now() + HINT_FOR, spec.clone()));
    }

    /// A call that a hint is for, and the hint.
    pub(crate) fn any_hint(&self, rng: &mut Rng) -> Option<(Spec, Slot)> {
        let hints: Vec<_> = self.hints.values().filter(|(_, until, _)| Instant::now() < *until).collect();
        let (slot, _, spec) = hints.get(rng.usize(..hints.len().max(1)))?;
        Some((spec.clone(), *slot))
    }

    /// Both credentials were rejected for this request.
    pub(crate) fn cool_down(&mut self, spec: &Spec, tokens: [&str; 2]) {
        self.cooldowns.insert(cooldown_key(spec, tokens), Instant::now());
    }

    /// Whether both credentials were rejected for this request less than the cooldown ago.
    pub(crate) fn is_cooling_down(&self, spec: &Spec, tokens: [&str; 2]) -> bool {
        spec.is_in_memory()
            && self.cooldowns.get(&cooldown_key(spec, tokens)).is_some_and(|at| at.elapsed() < COOLDOWN)
    }

    /// Forgets what has no effect any more.
    pub(crate) fn sweep(&mut self) {
        self.hints.retain(|_, (_, until, _)| Instant::now() < *until);
        self.cooldowns.retain(|_, at| at.elapsed() < COOLDOWN);
    }
}

fn cooldown_key(spec: &Spec, mut tokens: [&str; 2]) -> String {
    tokens.sort_unstable();
    format!("{} {tokens:?} {}", spec.key(), String::from_utf8_lossy(&spec.content()))
}
