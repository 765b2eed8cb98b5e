//! [`World`]: what all replicas of one run share. Time, faults, the identity server, the store's content, the record.
//!
//! All of it runs on one thread, with the clock paused, and draws from that thread's seeded generator. So do the
//! crate's own jitters. [`Life`] is one process: whatever a replica does to the world waits for ever once it is dead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;
use tower_credential_fallback::Clock;
use tower_credential_fallback::store::MemoryStore;

use crate::identity::Identity;
use crate::record::Record;
use crate::run::Marks;
use crate::{CHAOS, USERS};

/// One operation in so many fails by itself, outside of outages.
const ONE_IN: u32 = 60;

pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    pub(crate) marks: Marks,
    pub(crate) identity: Identity,
    pub(crate) memory: MemoryStore,
    pub(crate) outages: Vec<Outage>,
    /// Whom the application has told to authorize.
    pub(crate) asked: Vec<Notify>,
    ambush: Mutex<Ambush>,
    pub(crate) ambushed: Notify,
    record: Mutex<Record>,
}

/// One process, from its start to its death.
pub(crate) struct Life {
    /// Counts lives, not replicas.
    pub(crate) number: usize,
    is_dead: AtomicBool,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Load,
    Lease,
    Mark,
    Exchange,
    Save,
    Delete,
    Release,
}

/// A kill that waits for a replica to come so far.
#[derive(Default)]
struct Ambush {
    at: Option<Step>,
    victim: Option<usize>,
}

/// What the store does for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Rejects connections: nothing is applied, and everyone knows at once.
    Down,
    /// Never answers: an operation is applied or not.
    Silent,
    /// Stands still: operations are applied in the end, after their callers have given up, perhaps.
    Frozen,
}

#[derive(Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) fault: Fault,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// The fate of one operation outside of outages.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    Answered,
    AnswerLost,
    NotApplied,
}

impl World {
    pub(crate) fn new(marks: Marks) -> Arc<Self> {
        Arc::new(Self {
            clock: VirtualClock(Instant::now()),
            marks,
            identity: Identity::default(),
            memory: MemoryStore::new(),
            outages: outages(),
            asked: (0..USERS).map(|_| Notify::new()).collect(),
            ambush: Mutex::default(),
            ambushed: Notify::new(),
            record: Mutex::new(Record::new()),
        })
    }

    /// Since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.clock.0.elapsed()
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    pub(crate) fn outage(&self) -> Option<Outage> {
        let now = self.now();
        self.outages.iter().find(|outage| (outage.from..outage.to).contains(&now)).copied()
    }

    pub(crate) fn fate(&self) -> Fate {
        match fastrand::u32(0..ONE_IN) {
            _ if self.is_quiet() => Fate::Answered,
            0 if fastrand::bool() => Fate::AnswerLost,
            0 => Fate::NotApplied,
            _ => Fate::Answered,
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.now() >= CHAOS
    }

    /// The next replica that comes so far is the victim of `ambushed`.
    pub(crate) fn lie_in_wait(&self, at: Step) {
        *self.ambush.lock().unwrap() = Ambush { at: Some(at), victim: None };
    }

    /// The number of the life that fell into the ambush. The ambush is over.
    pub(crate) fn victim(&self) -> Option<usize> {
        std::mem::take(&mut *self.ambush.lock().unwrap()).victim
    }

    /// A replica comes so far.
    pub(crate) fn passes(&self, step: Step, life: &Life) {
        let mut ambush = self.ambush.lock().unwrap();
        if ambush.victim.is_none() && ambush.at == Some(step) {
            ambush.victim = Some(life.number);
            self.ambushed.notify_one();
        }
    }
}

impl Life {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, is_dead: AtomicBool::new(false) }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    pub(crate) fn die(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }

    /// Waits for ever once it is dead.
    pub(crate) async fn go_on(&self) {
        if self.is_dead() {
            std::future::pending().await
        }
    }
}

/// One every ten seconds. The second lasts longer than a lease, and nobody dies in it: who has a new grant then still
/// saves it before the others give it up.
fn outages() -> Vec<Outage> {
    let mut outages = Vec::new();
    let mut from = between(4_000, 8_000);
    loop {
        let is_long = outages.len() == 1;
        let to = from + if is_long { between(6_500, 8_500) } else { between(300, 3_000) };
        if to > CHAOS {
            return outages;
        }
        let any = *fastrand::choice(&[Fault::Down, Fault::Silent, Fault::Frozen]).unwrap();
        outages.push(Outage { fault: if is_long { Fault::Silent } else { any }, from, to });
        from = to + between(6_000, 14_000);
    }
}

/// A time drawn from these milliseconds.
pub(crate) fn between(least: u64, most: u64) -> Duration {
    Duration::from_micros(fastrand::u64(least * 1_000..most * 1_000))
}

/// A wall clock that goes with tokio's.
#[derive(Clone, Debug)]
pub(crate) struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.0.elapsed()
    }
}
