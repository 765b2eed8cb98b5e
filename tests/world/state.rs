//! The world: who serves what, what is wrong with it now, and the record of every call.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::Duration;

use fastrand::Rng;
use http::HeaderMap;
use tokio::time::Instant;
use tower_credential_fallback::{Order, Slot};

use crate::answer::{inconclusive, rejection, success};
use crate::log::{Entries, LogOutage};
use crate::model::Model;
use crate::report::Counts;
use crate::request::Spec;
use crate::server::{Ask, Exchange, Plan};
use crate::summary::Summary;

/// Who serves what, and which providers have no credential.
pub(crate) struct Truth {
    /// For each resource; `None` in a gap in which neither serves it.
    pub(crate) owners: Vec<Option<Slot>>,
    /// Slot and user (everybody without one), and whether the user has to do something.
    outages: HashMap<(Slot, Option<String>), bool>,
    /// Resources that are answered with nothing clear.
    pub(crate) sick: Vec<bool>,
    /// Whether the primary answers nothing clear.
    pub(crate) is_primary_sick: bool,
    /// Tokens are renewed now and then.
    pub(crate) epochs: [u32; 2],
}

impl Truth {
    pub(crate) fn new(resources: usize) -> Self {
        Self {
            owners: vec![Some(Slot::Primary); resources],
            sick: vec![false; resources],
            is_primary_sick: false,
            outages: HashMap::new(),
            epochs: [0; 2],
        }
    }

    pub(crate) fn token(&self, slot: Slot, user: &str) -> String {
        let account = if slot == Slot::Primary { "old" } else { "new" };
        format!("{account}-{user}-{}", self.epochs[slot as usize])
    }

    pub(crate) fn outage(&self, slot: Slot, user: &str) -> Option<bool> {
        let of = |user| self.outages.get(&(slot, user)).copied();
        of(Some(user.to_owned())).or_else(|| of(None))
    }

    pub(crate) fn set_outage(&mut self, slot: Slot, user: Option<&str>, is_interactive: Option<bool>) {
        let key = (slot, user.map(str::to_owned));
        match is_interactive {
            Some(is_interactive) => self.outages.insert(key, is_interactive),
            None => self.outages.remove(&key),
        };
    }

    /// All that was wrong is over.
    pub(crate) fn heal(&mut self) {
        self.outages.clear();
        self.sick.fill(false);
        self.is_primary_sick = false;
        self.owners.iter_mut().for_each(|owner| *owner = owner.or(Some(Slot::Primary)));
    }

    fn serves(&self, slot: Slot, spec: &Spec) -> bool {
        let Some(target) = spec.target else { return true };
        let is_open = !spec.path.ends_with("/locked");
        let is_theirs = !spec.path.ends_with("/private") || spec.user == Some("u0");
        is_open && is_theirs && self.owners[target] == Some(slot)
    }
}

/// A call, as the world knows it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) spec: Spec,
    pub(crate) order: Order,
    pub(crate) begun: u64,
    /// The slots that it may begin with, by the model.
    pub(crate) allowed: Vec<Slot>,
    pub(crate) hint: Option<Slot>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) was_abandoned: bool,
}

pub(crate) struct Replica {
    pub(crate) model: Model,
    pub(crate) counts: Counts,
}

pub(crate) struct State {
    pub(crate) seed: u64,
    rng: Rng,
    seq: u64,
    pub(crate) truth: Truth,
    /// Calls since the last time of quiet.
    pub(crate) calls: BTreeMap<usize, Call>,
    pub(crate) replicas: Vec<Replica>,
    /// How many of 100 answers are none that the truth asks for.
    pub(crate) disturbance: u8,
    /// When the fallback last served a subject, at any replica.
    pub(crate) fallback_served: BTreeMap<Option<usize>, Instant>,
    pub(crate) log: Entries,
    pub(crate) log_outage: Option<LogOutage>,
    /// The first check that failed.
    failure: OnceLock<String>,
    pub(crate) summary: Summary,
}

impl State {
    pub(crate) fn new(seed: u64, resources: usize) -> Self {
        Self {
            seed,
            rng: Rng::with_seed(seed ^ 0x5e),
            seq: 0,
            truth: Truth::new(resources),
            calls: BTreeMap::new(),
            replicas: Vec::new(),
            disturbance: 0,
            fallback_served: BTreeMap::new(),
            log: Entries::default(),
            log_outage: None,
            failure: OnceLock::new(),
            summary: Summary::default(),
        }
    }

    /// The place of an event among all.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// A check of this call.
    #[track_caller]
    pub(crate) fn expect(&self, call: usize, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(format!("seed {}, call {call}: {}\n{:#?}", self.seed, what(), self.calls.get(&call)));
        }
    }

    /// A check of a replica.
    #[track_caller]
    pub(crate) fn expect_eq<T: PartialEq + Debug>(&self, replica: usize, what: &str, found: T, expected: T) {
        if found != expected {
            let (seed, calls) = (self.seed, self.summary.calls);
            let when = format!("seed {seed}, after call {calls}, replica {replica}");
            self.fail(format!("{when}: {what} is {found:?}, expected {expected:?}"));
        }
    }

    #[track_caller]
    fn fail(&self, what: String) -> ! {
        // What panics in a task of the layer's own is heard of at the next call.
        panic!("{}", self.failure.get_or_init(|| what))
    }

    pub(crate) fn call(&mut self, call: usize) -> &mut Call {
        self.calls.get_mut(&call).expect("a call that was begun")
    }

    pub(crate) fn exchange(&mut self, call: usize, nth: usize) -> Option<&mut Exchange> {
        self.calls.get_mut(&call)?.exchanges.get_mut(nth)
    }

    /// A call begins: it returns its number. The layer has to be called right behind.
    pub(crate) fn begin(&mut self, spec: &Spec, order: Order) -> usize {
        if let Some(failure) = self.failure.get() {
            panic!("{failure}");
        }
        self.summary.calls += 1;
        let number = self.summary.calls as usize;
        let (allowed, hint) = self.replicas[spec.replica].model.begin(spec, order);
        self.summary.hints += u64::from(hint.is_some());
        let begun = self.next_seq();
        let call = Call {
            spec: spec.clone(),
            order,
            begun,
            allowed,
            hint,
            asks: Vec::new(),
            exchanges: Vec::new(),
            was_abandoned: false,
        };
        self.calls.insert(number, call);
        number
    }

    /// What the server does with a request.
    pub(crate) fn plan(&mut self, call: usize, slot: Slot) -> Plan {
        let spec = &self.calls[&call].spec;
        let serves = self.truth.serves(slot, spec);
        let rng = &mut self.rng;
        let calm =
            |reply| Plan { reply: Some(reply), wait: Duration::ZERO, reads: usize::MAX, is_tolerant: false };
        if spec.is_calm {
            return calm(if serves { success(rng) } else { rejection(rng) });
        }
        let is_sick = spec.target.is_some_and(|target| self.truth.sick[target])
            || slot == Slot::Primary && self.truth.is_primary_sick;
        let reply = match rng.u8(..100) < self.disturbance {
            _ if is_sick => Some(inconclusive(rng)),
            true => match rng.u8(..10) {
                0 => None,
                1..4 => Some(rejection(rng)),
                _ => Some(inconclusive(rng)),
            },
            false if serves => Some(success(rng)),
            false => Some(rejection(rng)),
        };
        let wait = match rng.u8(..20) {
            0 => rng.u64(300..4_000),
            1..6 => rng.u64(1..50),
            _ => 0,
        };
        let reads = match rng.u8(..5) {
            0 => 0,
            1 => rng.usize(..6_000),
            _ => usize::MAX,
        };
        Plan { reply, wait: Duration::from_millis(wait), reads, is_tolerant: rng.bool() }
    }

    pub(crate) fn provider_wait(&mut self) -> Duration {
        let millis = if self.rng.u8(..12) == 0 { self.rng.u64(1..400) } else { 0 };
        Duration::from_millis(millis)
    }

    /// A request has arrived: returns which of its call it is.
    pub(crate) fn arrived(&mut self, call: usize, exchange: Exchange) -> usize {
        self.summary.requests += 1;
        self.call(call).exchanges.push(exchange);
        let made = &self.calls[&call];
        let sent = made.exchanges.last().expect("it was just added");
        self.expect(call, made.exchanges.len() <= 2, || "more than two attempts".to_owned());
        // All of the head is the caller's, but for the credential.
        let (method, uri, headers) = &sent.head;
        self.expect(call, *method == made.spec.method && uri.path() == made.spec.path, || {
            format!("another request was sent: {method} {uri}")
        });
        let mut bare: HeaderMap = headers.clone();
        bare.remove("authorization");
        self.expect(call, bare == made.spec.headers(call), || {
            format!("other headers were sent: {headers:?}")
        });
        self.expect(call, headers.get_all("authorization").iter().count() == 1, || {
            "two credentials".to_owned()
        });
        if let [first, second] = &made.exchanges[..] {
            self.expect(call, first.slot != second.slot, || {
                "both attempts bear the same credential".to_owned()
            });
            let tokens = [&*first.token, &*second.token];
            let is_held = self.replicas[made.spec.replica].model.is_cooling_down(&made.spec, tokens);
            self.expect(call, !is_held, || "a request was replayed that is cooling down".to_owned());
        }
        made.exchanges.len() - 1
    }
}
