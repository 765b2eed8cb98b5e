//! [`LeftBehind`]: what stays with an account when a resource moves to another.

use std::time::Duration;

use http::request;

use super::{Expiring, HINT_FOR, Memory, Slot};

/// Something that a request refers to, that stays with the account that made it when the request's resource
/// moves, and that the request can do without.
///
/// A chat with a bot may go on in a conversation. When the bot moves to another account, the conversation does
/// not, and the new account may not see it. So a chat that names both is refused to either account. With this rule,
/// it is sent without the conversation, and the bot starts a fresh one: see `coze::FreshConversations`.
///
/// The rule, as [`with_left_behind`](crate::CredentialFallbackLayer::with_left_behind) turns it on:
///
/// - The primary owns what was never accepted with the fallback.
/// - The first attempt is sent as it is. If it is rejected and the other slot goes on, what the other slot does not own
///   is taken out.
/// - If the rejected slot is known to serve the resource, and the other slot owns what the request refers to, that is
///   taken for the cause: it is taken out, and the *same* slot goes on.
/// - If one slot rejects a request with it and accepts it without, that slot is asked without it for an hour from then on.
/// - If both slots reject, and what the request refers to may be why the first did, the next such call begins without it.
///   That is a hint for one call.
/// - A token that is not valid ([`Unauthenticated`](crate::RejectionKind::Unauthenticated)) says nothing of all this.
/// - [`Outcome::started_afresh`](crate::Outcome::started_afresh) says that something was taken out.
///
/// Memories are lost with the process. After a restart, a rejected primary may be followed by a fallback without a
/// conversation that the fallback did have: once everything has moved, let the fallback go first.
pub trait LeftBehind: Send + Sync {
    /// Its name, if the request refers to one.
    ///
    /// `body` is the request's body if it is wholly in memory, and empty otherwise.
    fn find<'r>(&self, head: &'r request::Parts, body: &'r [u8]) -> Option<&'r str>;

    /// Takes it out of a head in which [`find`](Self::find) has found it.
    fn remove(&self, head: &mut request::Parts);
}

/// How long a slot is asked without what it has rejected. What makes a slot reject may pass; then an hour of fresh
/// conversations is the most that it costs.
const STALE_FOR: Duration = Duration::from_secs(3600);

/// What answers have shown of things that stay with their account.
pub(crate) struct LeftMemory {
    owners: Memory,
    /// A slot is asked without these.
    stale: Expiring<()>,
    /// A slot is asked without these once.
    hints: Expiring<()>,
}

impl LeftMemory {
    pub(crate) fn new() -> Self {
        Self { owners: Memory::new(), stale: Expiring::new(), hints: Expiring::new() }
    }
}

/// What one request refers to.
pub(crate) struct Left {
    owner_key: u64,
    /// For each slot.
    stale_keys: [u64; 2],
    owner: Slot,
    /// Whether the first attempt did without it.
    was_removed_first: bool,
    /// … since a call before was rejected by both slots.
    was_hinted: bool,
    /// Whether the attempt under way, or the last one, does without it.
    pub(crate) is_removed: bool,
}

impl Left {
    pub(crate) fn new(memory: &LeftMemory, head: &request::Parts, name: &str) -> Self {
        let key = |sort| memory.owners.key(&head.uri, Some(&format!("{sort}\0{name}")));
        let owner_key = key("left behind");
        Self {
            owner_key,
            stale_keys: [key("stale for primary"), key("stale for fallback")],
            owner: memory.owners.recall(owner_key).and_then(|known| known.slot).unwrap_or(Slot::Primary),
            was_removed_first: false,
            was_hinted: false,
            is_removed: false,
        }
    }

    /// The first attempt is about to be sent. Says whether to take it out.
    pub(crate) fn begin(&mut self, memory: &LeftMemory, slot: Slot) -> bool {
        self.was_hinted = memory.hints.take(self.stale_key(slot), self.stale_key(slot)).is_some();
        self.is_removed = self.was_hinted || self.is_stale(memory, slot);
        self.was_removed_first = self.is_removed;
        self.is_removed
    }

    /// Whether this slot is known to reject it.
    fn is_stale(&self, memory: &LeftMemory, slot: Slot) -> bool {
        memory.stale.get(self.stale_key(slot), self.stale_key(slot)).is_some()
    }

    /// The slot that goes on after a rejection, given the slot that is known to serve the resource. Takes it out if the
    /// slot that goes on does not own it.
    pub(crate) fn go_on(&mut self, memory: &LeftMemory, rejected: Slot, serves: Option<Slot>) -> Slot {
        let is_cause = !self.is_removed && self.owner != rejected && serves == Some(rejected);
        let next = if is_cause { rejected } else { rejected.other() };
        self.is_removed = is_cause || self.owner != next || self.is_stale(memory, next);
        next
    }

    /// The request was accepted, after a rejection by `rejected` if there was one that says something of it.
    pub(crate) fn accepted(&self, memory: &LeftMemory, slot: Slot, rejected: Option<Slot>) {
        if !self.is_removed && self.owner != slot {
            memory.owners.learn(self.owner_key, slot, memory.owners.version());
        }
        // One slot has rejected it with this, and accepted it without.
        let is_proven = rejected == Some(slot) || (self.was_hinted && rejected.is_none());
        if self.is_removed && is_proven {
            memory.stale.insert(self.stale_key(slot), self.stale_key(slot), (), STALE_FOR);
        }
    }

    /// Both attempts were rejected. Returns the slot that the next such call may begin with, if that follows.
    ///
    /// A slot that rejects a request without it, or one that refers to what it owns, does not serve the resource.
    pub(crate) fn rejected(&self, memory: &LeftMemory, first: Slot, second: Slot) -> Option<Slot> {
        if first == second {
            return Some(second.other());
        }
        let first_cannot = self.was_removed_first || self.owner == first;
        if first_cannot {
            return None;
        }
        // The second cannot serve the resource; if the first can, this is what it has rejected.
        memory.hints.insert(self.stale_key(first), self.stale_key(first), (), HINT_FOR);
        Some(first)
    }

    fn stale_key(&self, slot: Slot) -> u64 {
        self.stale_keys[slot as usize]
    }
}
