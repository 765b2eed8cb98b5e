//! Learns from a call: only an acceptance after a rejection changes a preference.

use std::time::Duration;

use tokio::time::Instant;

use super::Call;
use super::request_key::RequestKey;
use crate::policy::Policy;
use crate::preference::{HINT_FOR, Known, Slot};

/// So often the time is noted at which the fallback has served a resource.
const NOTED_FOR: Duration = Duration::from_secs(60);

impl Call {
    #[inline]
    pub(super) fn note_acceptance(&self, policy: &Policy, slot: Slot) {
        let now = Instant::now();
        let facts = &self.facts;
        let memory = policy.live.memory();
        let known = match facts.key {
            // The call may have taken long.
            Some(key) if memory.changes() != facts.changes => memory.recall(key),
            _ => facts.known,
        };
        // Most are plain ones: what served before has served at once.
        let is_as_before = match known {
            None => slot == Slot::Primary || facts.key.is_none(),
            Some(Known { is_by_fallback: false, .. }) => slot == Slot::Primary,
            Some(Known { fallback_at, .. }) => {
                slot == Slot::Fallback && fallback_at.is_some_and(|at| now - at < NOTED_FOR)
            }
        };
        let is_plain =
            is_as_before && facts.ledger.is_at_once() && facts.hint.is_none() && facts.left.is_none();
        let is_needed = !is_plain && self.learn_from_acceptance(policy, slot, is_as_before);
        policy.live.stats.accepted(slot, facts.key, is_needed, now);
    }

    /// Returns whether this slot was needed: the other one was rejected, or had no credential.
    #[cold]
    fn learn_from_acceptance(&self, policy: &Policy, slot: Slot, is_as_before: bool) -> bool {
        let outcome = self.facts.ledger.outcome();
        let first = outcome.attempts().next();
        let rejected = first.filter(|first| first.rejection().is_some()).map(|first| first.slot);
        let unavailable = outcome.unavailable().map(|(unavailable, _)| unavailable);
        let was_hint_right = self.facts.hint == Some(slot) && rejected.is_none();
        let memory = policy.live.memory();
        if let Some(key) = self.facts.key {
            // The other slot was rejected for it: now, or in the call before that left a hint.
            if rejected == Some(slot.other()) || was_hint_right {
                memory.learn(key, slot, self.facts.as_of);
            } else if !is_as_before {
                let is_chance = self.facts.is_pinned || unavailable.is_some();
                memory.note_served(key, slot, is_chance);
            }
        } else if was_hint_right {
            // No resource can be remembered, but the hint was right.
            self.leave_hint(policy, slot);
        }
        if let (Some(left), Some((_, memory))) = (&self.facts.left, &policy.left_behind) {
            let is_telling = !self.facts.ledger.was_a_token_invalid();
            left.accepted(memory, slot, rejected.filter(|_| is_telling));
        }
        rejected == Some(slot.other()) || unavailable == Some(slot.other())
    }

    /// That teaches nothing; the same request with the same credentials is held back for a while.
    pub(super) fn note_two_rejections(&self, policy: &Policy, slot: Slot) {
        if !self.facts.ledger.was_a_token_invalid()
            && let (Some(left), Some((_, memory))) = (&self.facts.left, &policy.left_behind)
        {
            let first = self.facts.ledger.outcome().attempts().next().map_or(slot, |first| first.slot);
            if let Some(other) = left.rejected(memory, first, slot) {
                self.leave_hint(policy, other);
            }
        }
        if let Some(key) = self.facts.cooldown_key {
            policy.live.cooldowns.insert(key, key, (), policy.cooldown);
        }
    }

    /// The next call with this request begins with this slot, once.
    pub(super) fn leave_hint(&self, policy: &Policy, slot: Slot) {
        let RequestKey { group, key } = self.facts.request_key;
        policy.live.hints.insert(group, key, slot, HINT_FOR);
    }

    /// The call is dropped: settles it, if it has not ended.
    #[inline]
    pub(crate) fn settle(&mut self, policy: &Policy, has_panicked: bool) {
        if !self.facts.ledger.has_ended() {
            self.give_up(policy, has_panicked);
        }
    }

    #[cold]
    fn give_up(&mut self, policy: &Policy, has_panicked: bool) {
        let first = self.facts.ledger.outcome().attempts().next().map(|first| first.slot);
        // A caller that has not waited for the second attempt may come back: it begins where this one ended.
        if self.facts.is_replaying && !has_panicked && first.is_some_and(|first| first != self.facts.next) {
            self.leave_hint(policy, self.facts.next);
        }
        self.facts.ledger.give_up(&policy.live, has_panicked);
    }
}
