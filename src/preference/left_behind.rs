//! [`LeftBehind`]: what stays with an account when a resource moves to another.

use std::time::Duration;

use http::request;

use super::{Memory, Slot};

/// Something that a request refers to, that stays with the account that made it when the request's resource
/// moves, and that the request can do without.
///
/// A chat with a bot may go on in a conversation. When the bot moves to another account, the conversation does
/// not, and the new account may not see it. So a chat that names both is refused to either account. With this rule,
/// it is sent without the conversation, and the bot starts a fresh one: see `coze::FreshConversations`.
///
/// The rule, as [`with_left_behind`](crate::CredentialFallbackLayer::with_left_behind) turns it on:
///
/// - What was never accepted with the fallback is the primary's.
/// - The first attempt is sent as it is. If it is refused, and the other slot goes on, what is not the other
///   slot's is taken out.
/// - If the refused slot has been seen to serve the resource since that moved, and what the request refers to is the
///   other slot's, that is taken for the cause: then it is taken out, and the *same* slot goes on.
/// - If both refuse, and what the request refers to may be why the first did, it is taken out the next time.
/// - What was taken out for that reason is remembered: for an hour from then on, that slot is asked without it at once.
/// - A token that is not valid ([`Unauthenticated`](crate::RejectionKind::Unauthenticated)) says nothing of all this.
/// - [`Outcome::started_afresh`](crate::Outcome::started_afresh) says that something was taken out.
///
/// Memories are lost with the process. After a restart, a refused primary may be followed by a fallback without a
/// conversation that the fallback did have: once all has moved, let the fallback go first.
pub trait LeftBehind: Send + Sync {
    /// Its name, if the request refers to one.
    ///
    /// `body` is the request's body if it is wholly in memory, and empty otherwise.
    fn find<'r>(&self, head: &'r request::Parts, body: &'r [u8]) -> Option<&'r str>;

    /// Takes it out of a head in which [`find`](Self::find) has found it.
    fn remove(&self, head: &mut request::Parts);
}

/// How long a slot is asked without what it has refused. What makes a slot refuse may pass; then an hour of fresh
/// conversations is the most that it costs.
const STALE_FOR: Duration = Duration::from_secs(3600);

/// What one request refers to.
pub(crate) struct Left {
    /// Remembered as moved if the fallback has accepted it.
    owner_key: u64,
    /// Remembered as cooling if a request with it was refused to this slot, and without it accepted.
    stale_keys: [u64; 2],
    owner: Slot,
    /// Whether the first attempt did without it.
    was_removed_first: bool,
    /// Whether the attempt under way, or the last one, does without it.
    pub(crate) is_removed: bool,
}

impl Left {
    pub(crate) fn new(memory: &Memory, head: &request::Parts, name: &str) -> Self {
        let key = |sort| memory.key(&head.uri, Some(&format!("{sort}\0{name}")));
        let owner_key = key("left behind");
        Self {
            owner_key,
            stale_keys: [key("stale for primary"), key("stale for fallback")],
            owner: memory.recall(owner_key).slot,
            was_removed_first: false,
            is_removed: false,
        }
    }

    /// The first attempt is about to be sent. Says whether to take it out.
    pub(crate) fn begin(&mut self, memory: &Memory, slot: Slot) -> bool {
        self.is_removed = self.is_stale(memory, slot);
        self.was_removed_first = self.is_removed;
        self.is_removed
    }

    /// Whether this slot is known to refuse it.
    fn is_stale(&self, memory: &Memory, slot: Slot) -> bool {
        memory.recall(self.stale_key(slot)).is_cooling
    }

    /// Who goes on after a refusal, given who is known to serve the resource; and without it, if it is not theirs.
    pub(crate) fn go_on(&mut self, memory: &Memory, refused: Slot, serves: Option<Slot>) -> Slot {
        let is_cause = !self.is_removed && self.owner != refused && serves == Some(refused);
        let next = if is_cause { refused } else { refused.other() };
        self.is_removed = is_cause || self.owner != next || self.is_stale(memory, next);
        next
    }

    /// The request was accepted, after a refusal by `refused` if there was one.
    pub(crate) fn accepted(&self, memory: &Memory, slot: Slot, refused: Option<Slot>) {
        if !self.is_removed && self.owner != slot {
            memory.learn(self.owner_key, slot);
        }
        // With it refused and without it accepted, by one and the same.
        if self.is_removed && refused == Some(slot) {
            memory.cool(self.stale_key(slot), STALE_FOR);
        }
    }

    /// Both attempts were refused. Says who may serve the resource all the same, if that follows.
    ///
    /// Who refuses a request without it, or one that refers to what is its own, does not serve the resource.
    pub(crate) fn refused(&self, memory: &Memory, first: Slot, second: Slot) -> Option<Slot> {
        if first == second {
            return Some(second.other());
        }
        let first_cannot = self.was_removed_first || self.owner == first;
        if first_cannot {
            return None;
        }
        // The second cannot serve the resource; if the first can, this is what it has refused.
        memory.cool(self.stale_key(first), STALE_FOR);
        Some(first)
    }

    fn stale_key(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Primary => self.stale_keys[0],
            Slot::Fallback => self.stale_keys[1],
        }
    }
}
