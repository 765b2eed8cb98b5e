//! The plan of a call: which slot comes first, and may the other follow?

use http::request;

use super::Call;
use super::request_key::{RequestKey, group, headers_of};
use crate::attempt::Target;
use crate::outcome::NoReplay;
use crate::policy::Policy;
use crate::preference::{CredentialChoice, Left, Order, Slot};
use crate::report::Subject;

impl Call {
    /// Says which slot comes first, and notes whether the other may follow.
    ///
    /// `content` is the request's body, if that is in memory.
    #[inline]
    pub(super) fn plan(&mut self, policy: &Policy, head: &request::Parts, content: Option<&[u8]>) -> Slot {
        let live = &*policy.live;
        self.facts.key = policy.key(head, content.unwrap_or_default());
        self.facts.changes = live.memory().changes();
        self.facts.known = self.facts.key.and_then(|key| live.memory().recall(key));
        self.facts.as_of = live.memory().version();
        if let Some((rule, memory)) = &policy.left_behind {
            let name = rule.find(head, content.unwrap_or_default());
            self.facts.left = name.map(|name| Box::new(Left::new(memory, head, name)));
        }
        let choice = head.extensions.get();
        self.facts.is_pinned = choice.is_some();
        let (slot, is_only) = match choice {
            Some(CredentialChoice::First(slot)) => (*slot, false),
            Some(CredentialChoice::Only(slot)) => (*slot, true),
            None => match live.order() {
                Order::Adaptive => (self.adaptive_slot(policy, head), false),
                Order::PrimaryFirst => (Slot::Primary, false),
                Order::FallbackFirst => (Slot::Fallback, false),
                Order::PrimaryOnly => (Slot::Primary, true),
                Order::FallbackOnly => (Slot::Fallback, true),
            },
        };
        self.facts.final_because = is_only.then_some(NoReplay::OnlyOne);
        self.facts.ledger.plan(Subject::of(self.facts.key), slot);
        slot
    }

    /// The slot that this very request has a hint for, or that is known to serve the resource, or that is usual.
    #[inline]
    fn adaptive_slot(&mut self, policy: &Policy, head: &request::Parts) -> Slot {
        let live = &*policy.live;
        let key = self.facts.key;
        if !live.hints.is_empty()
            && let Some(slot) = self.take_hint(policy, head)
        {
            return slot;
        }
        let Some(key) = key else {
            return live.usual_slot();
        };
        if let Some(slot) = self.facts.known.and_then(|known| known.slot) {
            return slot;
        }
        match live.memory().usual_slot() {
            // One that was seen begins where it was served.
            Slot::Fallback if live.stats.is_of_primary(key) => Slot::Primary,
            usual => usual,
        }
    }

    /// Takes the hint that an earlier call with the same request has left.
    #[cold]
    fn take_hint(&mut self, policy: &Policy, head: &request::Parts) -> Option<Slot> {
        let (live, target) = (&*policy.live, Target::of(&head.uri));
        if !live.hints.may_have(group(live.memory(), &target)) {
            return None;
        }
        let headers = headers_of(&head.headers);
        let (extensions, resource) = (&head.extensions, self.facts.key);
        let request = RequestKey::new(live.memory(), &head.method, target, headers, extensions, resource);
        let slot = live.hints.take(request.group, request.key)?;
        (self.facts.hint, self.facts.request_key) = (Some(slot), request);
        Some(slot)
    }
}
