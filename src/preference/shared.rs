//! [`SharedPreferences`]: what one replica has learnt, all know.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Slot;
use super::memory::{CAPACITY, Memory};
use crate::error::BoxError;

/// How often what others have learnt is looked for. Who comes too late pays one refusal.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a [`PreferenceLog`]'s methods return.
pub type LogFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// A log that replicas share: which slot was seen to serve which resource.
///
/// It is a hint for who comes next. An entry that is lost, late or out of order costs one refusal, never a wrong answer.
/// Every method has to have a time limit of its own.
pub trait PreferenceLog: Send + Sync + 'static {
    /// A number that is the same for all replicas: `proposed`, if nobody has asked before.
    ///
    /// # Errors
    ///
    /// If the log cannot be asked.
    fn seed(&self, proposed: u64) -> LogFuture<'_, u64>;

    /// Adds to the end. Old entries may be forgotten once there are [`LOG_CAPACITY`].
    ///
    /// # Errors
    ///
    /// If that is not known to be done; then it is tried again.
    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()>;

    /// Some entries from after this place on, from the start on for `None`; and the place of the last of them, `None` if
    /// there are no more now.
    ///
    /// # Errors
    ///
    /// If the log cannot be asked.
    fn read<'a>(&'a self, after: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)>;
}

/// How many entries a [`PreferenceLog`] has to keep: as many resources as one process remembers, each having moved twice.
pub const LOG_CAPACITY: usize = 2 * CAPACITY;

/// A resource was served by this slot after the other was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Learnt {
    /// The resource: a hash of its name and origin, keyed with the log's [seed](PreferenceLog::seed).
    pub resource: u64,
    /// Who served it.
    pub slot: Slot,
}

impl Learnt {
    /// An entry.
    pub fn new(resource: u64, slot: Slot) -> Self {
        Self { resource, slot }
    }
}

/// A memory of preferences that all replicas share, through a [`PreferenceLog`]; for
/// [`with_shared_preferences`](crate::CredentialFallbackLayer::with_shared_preferences).
///
/// A replica that starts knows at once what the others have learnt, and learns within a second or so what they learn from
/// then on. No call ever waits for it: each looks into memory, as without it, and a task in the background
/// reads and writes. While the log is down, each replica learns by itself; what it has learnt is written later.
///
/// What is shared are hashes of names, not the names. The number they were hashed with stands in the same log: whoever reads
/// it can check a guess. Replicas that hash differently (those of
/// another build, or those that were there before the log lost its seed) do not understand each other: each learns by
/// itself.
#[derive(Clone)]
pub struct SharedPreferences {
    pub(crate) memory: Arc<Memory>,
}

impl SharedPreferences {
    /// Reads the log, and keeps up with it from now on, until the last layer that was given this, and its services, are
    /// dropped.
    ///
    /// # Errors
    ///
    /// Those of the log. An application that would rather start without it goes on with a layer that shares nothing.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open(log: impl PreferenceLog) -> Result<Self, BoxError> {
        let (outbox, learnt) = mpsc::channel(CAPACITY);
        let seed = log.seed(fastrand::u64(..)).await?;
        let memory = Arc::new(Memory::shared(seed, outbox));
        let mut reader = Reader { log, after: None };
        reader.catch_up(&memory, &[]).await?;
        tokio::spawn(keep_up(reader, Arc::downgrade(&memory), learnt));
        Ok(Self { memory })
    }
}

impl fmt::Debug for SharedPreferences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPreferences").field("memory", &self.memory).finish()
    }
}

struct Reader<L> {
    log: L,
    /// The place of the last entry that was read.
    after: Option<String>,
}

impl<L: PreferenceLog> Reader<L> {
    /// Adopts what others have written. What is still `unwritten` here will stand behind that, and stays.
    async fn catch_up(&mut self, memory: &Memory, unwritten: &[Learnt]) -> Result<(), BoxError> {
        let unwritten: HashSet<u64> = unwritten.iter().map(|learnt| learnt.resource).collect();
        loop {
            let (learnt, Some(after)) = self.log.read(self.after.as_deref()).await? else { return Ok(()) };
            for learnt in learnt {
                if !unwritten.contains(&learnt.resource) {
                    memory.adopt(learnt.resource, learnt.slot);
                }
            }
            self.after = Some(after);
        }
    }
}

/// Writes what was learnt here, and reads what was learnt elsewhere, until the memory is gone.
async fn keep_up<L: PreferenceLog>(
    mut reader: Reader<L>,
    memory: Weak<Memory>,
    mut learnt: mpsc::Receiver<Learnt>,
) {
    let mut next_look = Instant::now() + INTERVAL;
    let mut unwritten = Vec::new();
    loop {
        if let Ok(0) = timeout_at(next_look, learnt.recv_many(&mut unwritten, CAPACITY)).await {
            // The memory, which has the sender, is gone.
            return;
        }
        // The oldest are the least of a loss.
        let excess = unwritten.len().saturating_sub(CAPACITY);
        unwritten.drain(..excess);
        // Written before the log is read: what was learnt here then stands behind what others wrote earlier, and the log's
        // order decides.
        if !unwritten.is_empty() && reader.log.append(&unwritten).await.is_ok() {
            unwritten.clear();
        }
        if Instant::now() >= next_look {
            let Some(memory) = memory.upgrade() else { return };
            // If it fails, the next time is soon enough.
            let _ = reader.catch_up(&memory, &unwritten).await;
            next_look = Instant::now() + INTERVAL;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http::Uri;

    use super::*;

    #[derive(Clone, Default)]
    struct TestLog(Arc<Inner>);

    #[derive(Default)]
    struct Inner {
        seed: Mutex<Option<u64>>,
        entries: Mutex<Vec<Learnt>>,
        is_down: AtomicBool,
        takes_nothing: AtomicBool,
        hangs: AtomicBool,
    }

    impl TestLog {
        async fn check(&self) -> Result<(), BoxError> {
            if self.0.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.0.is_down.load(Ordering::SeqCst) { Err("down".into()) } else { Ok(()) }
        }

        fn entries(&self) -> Vec<Learnt> {
            self.0.entries.lock().unwrap().clone()
        }
    }

    impl PreferenceLog for TestLog {
        fn seed(&self, proposed: u64) -> LogFuture<'_, u64> {
            Box::pin(async move {
                self.check().await?;
                Ok(*self.0.seed.lock().unwrap().get_or_insert(proposed))
            })
        }

        fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
            Box::pin(async move {
                self.check().await?;
                if self.0.takes_nothing.load(Ordering::SeqCst) {
                    return Err("full".into());
                }
                self.0.entries.lock().unwrap().extend_from_slice(learnt);
                Ok(())
            })
        }

        fn read<'a>(&'a self, after: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
            Box::pin(async move {
                self.check().await?;
                let from = after.map_or(0, |after| after.parse().unwrap());
                // In pieces, as a real one.
                let found: Vec<Learnt> = self.entries().into_iter().skip(from).take(3).collect();
                let after = (!found.is_empty()).then(|| (from + found.len()).to_string());
                Ok((found, after))
            })
        }
    }

    async fn replica(log: &TestLog) -> Arc<Memory> {
        SharedPreferences::open(log.clone()).await.unwrap().memory
    }

    fn key(memory: &Memory, name: &str) -> u64 {
        memory.key(&Uri::from_static("https://api.example.com/v1"), Some(name))
    }

    fn slot(memory: &Memory, name: &str) -> Slot {
        memory.recall(key(memory, name)).and_then(|known| known.slot).unwrap_or(Slot::Primary)
    }

    fn learn(memory: &Memory, key: u64, slot: Slot) {
        memory.learn(key, slot, memory.version());
    }

    async fn a_while() {
        tokio::time::sleep(INTERVAL * 2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_starts_where_the_others_are_and_hears_what_they_learn() {
        let log = TestLog::default();
        let first = replica(&log).await;
        for n in 0..10 {
            learn(&first, key(&first, &n.to_string()), Slot::Fallback);
        }
        a_while().await;
        let second = replica(&log).await;
        assert!((0..10).all(|n| slot(&second, &n.to_string()) == Slot::Fallback));
        assert_eq!(slot(&second, "11"), Slot::Primary);

        learn(&second, key(&second, "11"), Slot::Fallback);
        learn(&second, key(&second, "3"), Slot::Primary);
        a_while().await;
        assert_eq!((slot(&first, "11"), slot(&first, "3")), (Slot::Fallback, Slot::Primary));
        assert!(first.has_moved(key(&first, "11")));
        assert_eq!(log.entries().len(), 12, "what was heard is not said again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_already_is_not_said_again() {
        let log = TestLog::default();
        let memory = replica(&log).await;
        for _ in 0..100 {
            learn(&memory, key(&memory, "a"), Slot::Fallback);
            learn(&memory, key(&memory, "never moved"), Slot::Primary);
        }
        a_while().await;
        let told = [("a", Slot::Fallback), ("never moved", Slot::Primary)];
        assert_eq!(log.entries(), told.map(|(name, slot)| Learnt::new(key(&memory, name), slot)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_still_to_be_written_is_newer_than_what_is_read() {
        let log = TestLog::default();
        let (ours, theirs) = (replica(&log).await, replica(&log).await);
        log.0.takes_nothing.store(true, Ordering::SeqCst);
        learn(&ours, key(&ours, "a"), Slot::Primary);
        a_while().await;
        // Another replica's older evidence arrives meanwhile.
        log.0.entries.lock().unwrap().push(Learnt::new(key(&theirs, "a"), Slot::Fallback));
        a_while().await;
        assert_eq!((slot(&ours, "a"), slot(&theirs, "a")), (Slot::Primary, Slot::Fallback));
        log.0.takes_nothing.store(false, Ordering::SeqCst);
        a_while().await;
        assert_eq!((slot(&ours, "a"), slot(&theirs, "a")), (Slot::Primary, Slot::Primary));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_down_holds_nobody_up_and_hears_of_it_later() {
        let log = TestLog::default();
        let memory = replica(&log).await;
        a_while().await;
        log.0.is_down.store(true, Ordering::SeqCst);
        assert!(SharedPreferences::open(log.clone()).await.is_err());
        learn(&memory, key(&memory, "a"), Slot::Fallback);
        assert_eq!(slot(&memory, "a"), Slot::Fallback);
        a_while().await;
        for n in 0..3 * CAPACITY {
            learn(&memory, n as u64 * 2, Slot::Fallback);
            if n % 1_000 == 0 {
                a_while().await;
            }
        }
        log.0.is_down.store(false, Ordering::SeqCst);
        a_while().await;
        // As many again may wait in the channel.
        assert!((1..=LOG_CAPACITY).contains(&log.entries().len()), "{}", log.entries().len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_hangs_holds_nobody_up() {
        let log = TestLog::default();
        let memory = replica(&log).await;
        log.0.hangs.store(true, Ordering::SeqCst);
        a_while().await;
        for n in 0..3 * CAPACITY {
            learn(&memory, n as u64 * 2, Slot::Fallback);
        }
        assert_eq!(slot(&memory, "a"), Slot::Primary);
    }

    #[tokio::test(start_paused = true)]
    async fn with_its_memory_the_task_ends() {
        let log = TestLog::default();
        let memory = replica(&log).await;
        learn(&memory, key(&memory, "a"), Slot::Fallback);
        drop(memory);
        a_while().await;
        assert_eq!(Arc::strong_count(&log.0), 1, "nobody holds the log");
    }
}
