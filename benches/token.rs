//! The token cache: reads under contention, beside locks that do the same; and a cold start with a thousand calls.

mod common;

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use serde_json::json;
use tower_credential_fallback::{AuthProvider, Credential, TokenCache};

const READS: usize = 400_000;
const WORKERS: usize = 2;
const ROUNDS: usize = 7;

fn token() -> Credential {
    let token = Credential::bearer("token").expect("a valid token");
    token.with_expiry(SystemTime::now() + Duration::from_secs(3_600))
}

/// Nanoseconds of one worker for one read, with so many tasks at it: the median of the rounds.
async fn read_by<F>(tasks: usize, read: F) -> f64
where
    F: Fn() + Clone + Send + 'static,
{
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let read = read.clone();
                tokio::spawn(async move { (0..READS / tasks).for_each(|_| read()) })
            })
            .collect();
        let busy = tasks.len().min(WORKERS);
        for task in tasks {
            task.await.expect("no read panics");
        }
        rounds.push(started.elapsed().as_nanos() as f64 * busy as f64 / READS as f64);
    }
    common::median(rounds)
}

/// How long the calls waited beyond the mint itself, and how many mints there were.
async fn cold_start(calls: usize) -> (Duration, u64) {
    const MINT: Duration = Duration::from_millis(20);
    let cache = TokenCache::new(|| async {
        tokio::time::sleep(MINT).await;
        Ok(token())
    });
    let started = Instant::now();
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                cache.get().await.expect("it mints");
                started.elapsed()
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for call in calls {
        longest = longest.max(call.await.expect("no call panics"));
    }
    (longest.saturating_sub(MINT), cache.mints())
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let cache = TokenCache::new(|| async { Ok(token()) });
    cache.get().await.expect("it mints");
    let head = Arc::new(http::Request::new(()).into_parts().0);
    let cached = move || drop(std::hint::black_box(cache.credential(&head).now_or_never()));
    let lock = Arc::new(RwLock::new(token()));
    let locked = move || drop(std::hint::black_box(lock.read().map(|token| token.clone())));
    let mutex = Arc::new(std::sync::Mutex::new(token()));
    let mutexed = move || drop(std::hint::black_box(mutex.lock().map(|token| token.clone())));

    let mut rows = Vec::new();
    for tasks in [1, 2, 64] {
        rows.push(json!({
            "tasks": tasks,
            "ours": read_by(tasks, cached.clone()).await,
            "rwlock": read_by(tasks, locked.clone()).await,
            "mutex": read_by(tasks, mutexed.clone()).await,
        }));
    }
    let (beyond, mints) = cold_start(1_000).await;
    common::save(
        "token",
        &json!({ "reads": rows, "cold": { "calls": 1_000, "beyond_ms": beyond.as_secs_f64() * 1e3, "mints": mints } }),
    );
}
