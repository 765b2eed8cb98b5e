use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use http::{Request, StatusCode};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, advance, sleep};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A wall clock that runs with tokio's (paused) clock, and can be set.
#[derive(Clone, Debug)]
struct Wall {
    start: Instant,
    shown: Arc<Mutex<SystemTime>>,
}

impl Wall {
    fn new() -> Self {
        let shown = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Self { start: Instant::now(), shown: Arc::new(Mutex::new(shown)) }
    }

    fn set_forward(&self, by: Duration) {
        *self.shown.lock().unwrap() += by;
    }

    fn set_back(&self, by: Duration) {
        *self.shown.lock().unwrap() -= by;
    }
}

impl Clock for Wall {
    fn now(&self) -> SystemTime {
        *self.shown.lock().unwrap() + self.start.elapsed()
    }
}

fn head() -> request::Parts {
    Request::new(()).into_parts().0
}

fn unauthenticated() -> Rejection {
    Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED)
}

fn token(number: u64) -> Credential {
    Credential::bearer(format!("secret-token-{number}")).unwrap()
}

/// The answer without waiting for anything.
fn at_hand(cache: &TokenCache) -> Option<Credential> {
    let mut future = cache.credential(&head());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(&mut future).poll(&mut cx) {
        std::task::Poll::Ready(result) => result.ok(),
        std::task::Poll::Pending => None,
    }
}

/// Lets spawned tasks run without letting time pass.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// A cache of tokens that live for `lifetime`, minted in no time.
fn cache_of(wall: &Wall, lifetime: Duration) -> TokenCache {
    builder_of(wall, lifetime).build().unwrap()
}

fn builder_of(wall: &Wall, lifetime: Duration) -> TokenCacheBuilder {
    let clock = wall.clone();
    let number = Arc::new(AtomicU64::new(0));
    TokenCache::builder(move || {
        let minted = token(number.fetch_add(1, Ordering::SeqCst)).with_expiry(clock.now() + lifetime);
        async move { Ok(minted) }
    })
    .with_clock(wall.clone())
}

/// A cache whose source does as the switch says.
fn switched(wall: &Wall, lifetime: Duration) -> (TokenCache, Arc<Mutex<Result<(), CredentialError>>>) {
    let switch = Arc::new(Mutex::new(Ok(())));
    let (clock, source) = (wall.clone(), Arc::clone(&switch));
    let cache = TokenCache::builder(move || {
        let result = source.lock().unwrap().clone();
        let minted = result.map(|()| token(0).with_expiry(clock.now() + lifetime));
        async move { minted }
    })
    .with_clock(wall.clone())
    .build()
    .unwrap();
    (cache, switch)
}

fn down() -> Result<(), CredentialError> {
    Err(CredentialError::new("identity server down"))
}

async fn many(cache: &TokenCache, calls: usize) -> Vec<Result<Credential, CredentialError>> {
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.credential(&head()).await })
        })
        .collect();
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await.unwrap());
    }
    results
}

#[test]
fn public_types_cross_threads() {
    fn crosses<T: Send + Sync + Clone + 'static>() {}
    crosses::<TokenCache>();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_concurrent_first_calls_mint_one_token() {
    let cache = TokenCache::new(|| async {
        sleep(Duration::from_millis(20)).await;
        Ok(token(1))
    });
    let results = many(&cache, 1_000).await;
    let generation = results[0].as_ref().unwrap().generation();
    assert!(results.iter().all(|result| result.as_ref().unwrap().generation() == generation));
    assert_eq!(cache.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_concurrent_calls_on_an_expired_token_mint_one() {
    let wall = Wall::new();
    let cache = cache_of(&wall, MINUTE);
    cache.get().await.unwrap();
    wall.set_forward(2 * MINUTE);
    let results = many(&cache, 1_000).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(cache.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_share_one_failure() {
    let cache = TokenCache::new(|| async {
        sleep(SECOND).await;
        Err(CredentialError::new("out of order"))
    });
    let results = many(&cache, 1_000).await;
    assert!(results.iter().all(|result| result.as_ref().unwrap_err().to_string() == "out of order"));
    assert_eq!(cache.mints(), 1);
    assert_eq!(cache.last_error().unwrap().to_string(), "out of order");
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_is_given_without_waiting() {
    let wall = Wall::new();
    let cache = cache_of(&wall, MINUTE);
    assert!(at_hand(&cache).is_none());
    let minted = cache.get().await.unwrap();
    assert_eq!(at_hand(&cache).unwrap().generation(), minted.generation());
    assert_eq!(format!("{:?}", cache.credential(&head())), "CredentialFuture(\"ready\")");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_minted_before_the_future_is_polled() {
    let cache = cache_of(&Wall::new(), MINUTE);
    drop(cache.credential(&head()));
    settle().await;
    assert_eq!(cache.mints(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mint_survives_the_cancellation_of_the_first_caller() {
    let cache = TokenCache::new(|| async {
        sleep(SECOND).await;
        Ok(token(1))
    });
    assert!(tokio::time::timeout(SECOND / 2, cache.get()).await.is_err());
    let second = cache.clone();
    let waiter = tokio::spawn(async move { second.get().await });
    assert!(waiter.await.unwrap().is_ok());
    assert!(at_hand(&cache).is_some());
    assert_eq!(cache.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_source_fails_that_call_and_the_next_works() {
    let calls = Arc::new(AtomicUsize::new(0));
    let cache = TokenCache::new(move || {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        assert!(call > 0, "panic in the closure itself: secret-token");
        async move {
            assert!(call > 1, "panic in the future: secret-token");
            Ok(token(1))
        }
    });
    for _ in 0..2 {
        let error = cache.get().await.unwrap_err();
        assert_eq!(error.to_string(), "the token source (or the clock) panicked");
        advance(2 * SECOND).await;
    }
    assert!(cache.get().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_panicking_clock_fails_that_call_and_the_next_works() {
    #[derive(Debug)]
    struct Broken(AtomicUsize);
    impl Clock for Broken {
        fn now(&self) -> SystemTime {
            // 0: `get`, 1: `obtain`, 2: in the flight.
            assert!(self.0.fetch_add(1, Ordering::SeqCst) != 2, "broken clock");
            SystemTime::now()
        }
    }
    let cache = TokenCache::builder(|| async { Ok(token(1)) })
        .with_clock(Broken(AtomicUsize::new(0)))
        .build()
        .unwrap();
    let error = cache.get().await.unwrap_err();
    assert_eq!(error.to_string(), "the token source (or the clock) panicked");
    advance(2 * SECOND).await;
    assert!(cache.get().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_hangs_is_given_up_after_the_load_timeout() {
    let cache = TokenCache::builder(pending).with_load_timeout(3 * SECOND).build().unwrap();
    let start = Instant::now();
    let error = cache.get().await.unwrap_err();
    assert_eq!(start.elapsed(), 3 * SECOND);
    assert!(error.to_string().contains("3s"), "{error}");
    advance(2 * SECOND).await;
    cache.get().await.unwrap_err();
    assert_eq!(cache.mints(), 2);
}

#[test]
fn a_load_timeout_of_zero_or_hours_is_refused() {
    for bad in [Duration::ZERO, Duration::MAX] {
        let error = TokenCache::builder(pending).with_load_timeout(bad).build().unwrap_err();
        assert_eq!(error.field(), Some("load_timeout"));
    }
}

#[test]
fn outside_of_a_runtime_a_mint_is_a_clear_error_and_a_cached_token_is_not() {
    let cache = TokenCache::new(|| async { Ok(token(1)) });
    let mut future = cache.get();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = std::pin::Pin::new(&mut future).poll(&mut cx) else {
        panic!("expected an error at once");
    };
    assert!(error.to_string().contains("tokio runtime"), "{error}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(cache.get()).unwrap();
    assert!(at_hand(&cache).is_some());
}

#[test]
fn a_runtime_that_shuts_down_frees_its_waiters_and_the_gate() {
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let second = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (entered, calls) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let notify = Arc::clone(&entered);
    let cache = TokenCache::new(move || {
        notify.notify_one();
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            if call == 0 {
                pending::<()>().await;
            }
            Ok(token(1))
        }
    });

    let on_first = cache.clone();
    first.spawn(async move { on_first.get().await });
    second.block_on(entered.notified());
    let on_second = cache.clone();
    let waiter = second.spawn(async move { on_second.get().await });
    // The waiter is queued before the runtime goes; if it is polled later, it finds the gate open.
    first.shutdown_background();
    match second.block_on(waiter).unwrap() {
        Err(error) => assert!(error.to_string().contains("shut down"), "{error}"),
        Ok(_) => assert_eq!(cache.mints(), 2),
    }
    second.block_on(cache.get()).unwrap();
}

#[test]
fn a_call_on_a_runtime_that_is_gone_does_not_lock_up() {
    let gone = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let handle = gone.handle().clone();
    drop(gone);
    let cache = TokenCache::new(|| async { Ok(token(1)) });
    let inside = handle.enter();
    let mut future = cache.get();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    // `spawn` drops the task at once; its destructor opens the gate.
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        std::pin::Pin::new(&mut future).poll(&mut cx).is_ready()
    }));
    drop((polled, inside));

    let alive = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    alive.block_on(cache.get()).unwrap();
}

#[test]
fn a_mint_on_a_runtime_that_stands_still_is_given_up() {
    let idle = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let busy =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let cache = TokenCache::new(|| async { Ok(token(1)) });
    // The first poll spawns the mint on `idle`, which nobody drives from here on.
    let mut first = cache.get();
    idle.block_on(async {
        std::future::poll_fn(|cx| {
            assert!(std::pin::Pin::new(&mut first).poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    });
    busy.block_on(async {
        let error = cache.get().await.unwrap_err();
        assert!(error.to_string().contains("stands still"), "{error}");
        sleep(2 * SECOND).await;
        cache.get().await.unwrap();
    });
    assert_eq!(cache.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_leaves_no_task_behind() {
    struct Guard(Arc<Semaphore>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }
    let ended = Arc::new(Semaphore::new(0));
    let signal = Arc::clone(&ended);
    let cache = TokenCache::new(move || {
        let guard = Guard(Arc::clone(&signal));
        async move {
            let _guard = guard;
            pending().await
        }
    });
    let waiter = tokio::spawn(cache.get());
    settle().await;
    assert_eq!(cache.mints(), 1);
    drop(cache);
    settle().await;
    assert_eq!(ended.available_permits(), 0, "a call still waits");
    waiter.abort();
    settle().await;
    assert_eq!(ended.available_permits(), 1);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_in_the_background_and_nobody_waits() {
    let wall = Wall::new();
    for lifetime in [2 * SECOND, MINUTE, 15 * MINUTE, 60 * MINUTE, 24 * 60 * MINUTE, 7 * 24 * 60 * MINUTE] {
        let cache = cache_of(&wall, lifetime);
        let first = cache.get().await.unwrap();
        let end = first.expires_at().unwrap();
        let start = Instant::now();
        let second = loop {
            advance((lifetime / 200).min(MINUTE)).await;
            assert!(wall.now() < end, "{lifetime:?}: no renewal before the end");
            let current = at_hand(&cache).expect("a valid token is always at hand");
            settle().await;
            if current.generation() != first.generation() {
                break current;
            }
        };
        assert!(start.elapsed() > lifetime.mul_f64(0.7), "{lifetime:?}: renewed after {:?}", start.elapsed());
        assert!(second.expires_at().unwrap() > end);
        assert_eq!(cache.mints(), 2, "{lifetime:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_reads_in_the_refresh_window_start_one_renewal() {
    let wall = Wall::new();
    let (clock, calls) = (wall.clone(), AtomicUsize::new(0));
    let cache = TokenCache::builder(move || {
        let slow = calls.fetch_add(1, Ordering::SeqCst) > 0;
        let clock = clock.clone();
        async move {
            if slow {
                sleep(SECOND).await;
            }
            Ok(token(1).with_expiry(clock.now() + MINUTE))
        }
    })
    .with_clock(wall.clone())
    .build()
    .unwrap();
    let first = cache.get().await.unwrap();
    advance(50 * SECOND).await;
    for _ in 0..1_000 {
        assert_eq!(at_hand(&cache).unwrap().generation(), first.generation());
    }
    settle().await;
    assert_eq!(cache.mints(), 2);
    sleep(2 * SECOND).await;
    assert_ne!(at_hand(&cache).unwrap().generation(), first.generation());
    assert_eq!(cache.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unused_cache_mints_nothing() {
    let wall = Wall::new();
    let cache = cache_of(&wall, MINUTE);
    cache.get().await.unwrap();
    sleep(60 * MINUTE).await;
    assert_eq!(cache.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_never_displaces_a_valid_token() {
    let wall = Wall::new();
    let (cache, switch) = switched(&wall, 10 * MINUTE);
    let first = cache.get().await.unwrap();
    *switch.lock().unwrap() = down();
    for _ in 0..594 {
        advance(SECOND).await;
        assert_eq!(at_hand(&cache).unwrap().generation(), first.generation());
        settle().await;
    }
    assert!(cache.last_error().is_some());
    assert!((3..=12).contains(&cache.mints()), "{} mints", cache.mints());
    // In its last five seconds it is not sent any more.
    advance(2 * SECOND).await;
    assert_eq!(cache.get().await.unwrap_err().to_string(), "identity server down");

    *switch.lock().unwrap() = Ok(());
    advance(2 * MINUTE).await;
    cache.get().await.unwrap();
    assert!(cache.last_error().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_identity_server_that_is_down_for_an_hour_gets_few_calls() {
    let wall = Wall::new();
    let (cache, switch) = switched(&wall, 10 * MINUTE);
    *switch.lock().unwrap() = down();
    for _ in 0..36_000 {
        let start = Instant::now();
        assert_eq!(cache.get().await.unwrap_err().to_string(), "identity server down");
        assert_eq!(start.elapsed(), Duration::ZERO, "a call during the back-off fails at once");
        advance(SECOND / 10).await;
    }
    assert!((50..=70).contains(&cache.mints()), "{} mints", cache.mints());
    *switch.lock().unwrap() = Ok(());
    advance(2 * MINUTE).await;
    cache.get().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured() {
    let wall = Wall::new();
    let (cache, switch) = switched(&wall, 10 * MINUTE);
    *switch.lock().unwrap() = Err(CredentialError::new("429").with_retry_after(5 * MINUTE));
    cache.get().await.unwrap_err();
    *switch.lock().unwrap() = Ok(());
    for _ in 0..299 {
        advance(SECOND).await;
        assert_eq!(cache.get().await.unwrap_err().retry_after(), Some(5 * MINUTE));
    }
    assert_eq!(cache.mints(), 1);
    advance(3 * SECOND).await;
    cache.get().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_arrives_expired_is_a_clear_error_and_no_loop() {
    let wall = Wall::new();
    let clock = wall.clone();
    let cache = TokenCache::builder(move || {
        let minted = token(1).with_expiry(clock.now() - MINUTE);
        async move { Ok(minted) }
    })
    .with_clock(wall.clone())
    .build()
    .unwrap();
    for _ in 0..600 {
        let error = cache.get().await.unwrap_err().to_string();
        assert!(error.contains("expired") && error.contains("clock"), "{error}");
        advance(SECOND / 10).await;
    }
    assert!(cache.mints() <= 8, "{} mints in a minute", cache.mints());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_ended_is_never_sent_not_even_by_a_call_that_waited_for_it() {
    let wall = Wall::new();
    let cache = cache_of(&wall, MINUTE);
    let mut call = cache.get();
    std::future::poll_fn(|cx| {
        assert!(std::pin::Pin::new(&mut call).poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    settle().await;
    let stale = at_hand(&cache).unwrap();
    wall.set_forward(2 * MINUTE);
    let given = call.await.unwrap();
    assert_ne!(given.generation(), stale.generation());
    assert!(given.expires_at().unwrap() > wall.now());
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_the_wall_clock_tells_that_the_token_has_ended() {
    let wall = Wall::new();
    let cache = cache_of(&wall, 15 * MINUTE);
    let first = cache.get().await.unwrap();
    // Suspended: the monotonic clock stood still.
    wall.set_forward(8 * 60 * MINUTE);
    assert!(at_hand(&cache).is_none());
    assert_ne!(cache.get().await.unwrap().generation(), first.generation());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_renews_the_token_once() {
    let wall = Wall::new();
    let cache = cache_of(&wall, 15 * MINUTE);
    cache.get().await.unwrap();
    wall.set_back(10 * MINUTE);
    for _ in 0..100 {
        assert!(at_hand(&cache).is_some());
        settle().await;
    }
    assert_eq!(cache.mints(), 2);
    // Back-off does not stretch with it.
    wall.set_back(24 * 60 * MINUTE);
    assert!(at_hand(&cache).is_some());
    settle().await;
    assert_eq!(cache.mints(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_small_step_of_the_clock_changes_nothing() {
    let wall = Wall::new();
    let cache = cache_of(&wall, 15 * MINUTE);
    cache.get().await.unwrap();
    wall.set_back(30 * SECOND);
    assert!(at_hand(&cache).is_some());
    wall.set_forward(MINUTE);
    assert!(at_hand(&cache).is_some());
    settle().await;
    assert_eq!(cache.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_during_the_back_off_does_not_shorten_it() {
    let wall = Wall::new();
    let (cache, switch) = switched(&wall, 10 * MINUTE);
    *switch.lock().unwrap() = Err(CredentialError::new("429").with_retry_after(MINUTE));
    cache.get().await.unwrap_err();
    wall.set_forward(60 * MINUTE);
    cache.get().await.unwrap_err();
    assert_eq!(cache.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_minted_anew() {
    let wall = Wall::new();
    let cache = cache_of(&wall, 15 * MINUTE);
    let first = cache.get().await.unwrap();
    cache.rejected(&first, &unauthenticated());
    assert!(at_hand(&cache).is_none());
    assert_ne!(cache.get().await.unwrap().generation(), first.generation());
}

#[tokio::test(start_paused = true)]
async fn a_late_401_for_an_old_token_keeps_the_new_one() {
    let wall = Wall::new();
    let cache = cache_of(&wall, 15 * MINUTE);
    let first = cache.get().await.unwrap();
    cache.rejected(&first, &unauthenticated());
    let second = cache.get().await.unwrap();
    advance(60 * MINUTE / 10).await;
    for _ in 0..5 {
        cache.rejected(&first, &unauthenticated());
        assert_eq!(at_hand(&cache).unwrap().generation(), second.generation());
    }
    settle().await;
    assert_eq!(cache.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_minted_anew_at_most_once_per_interval() {
    let wall = Wall::new();
    let cache = cache_of(&wall, 60 * MINUTE);
    for _ in 0..600 {
        let token = cache.get().await.unwrap();
        cache.rejected(&token, &unauthenticated());
        advance(SECOND / 10).await;
    }
    // At 0 s and at 30 s; the first token, and one after each.
    assert_eq!(cache.mints(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_remint_interval_can_be_set() {
    let wall = Wall::new();
    let cache = builder_of(&wall, 60 * MINUTE).with_remint_interval(Duration::ZERO).build().unwrap();
    for _ in 0..5 {
        let token = cache.get().await.unwrap();
        cache.rejected(&token, &unauthenticated());
    }
    assert_eq!(cache.mints(), 5);
}

#[tokio::test(start_paused = true)]
async fn forbidden_and_not_found_keep_the_token() {
    let wall = Wall::new();
    let cache = cache_of(&wall, 15 * MINUTE);
    let first = cache.get().await.unwrap();
    for kind in [RejectionKind::Forbidden, RejectionKind::NotFound] {
        cache.rejected(&first, &Rejection::new(kind, StatusCode::FORBIDDEN));
        assert_eq!(at_hand(&cache).unwrap().generation(), first.generation());
    }
    assert_eq!(cache.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_an_expiry_is_kept_until_it_is_refused() {
    let wall = Wall::new();
    let cache = TokenCache::builder(|| async { Ok(token(1)) }).with_clock(wall.clone()).build().unwrap();
    let first = cache.get().await.unwrap();
    sleep(365 * 24 * 60 * MINUTE).await;
    assert_eq!(at_hand(&cache).unwrap().generation(), first.generation());
    settle().await;
    assert_eq!(cache.mints(), 1);
    cache.rejected(&first, &unauthenticated());
    cache.get().await.unwrap();
    assert_eq!(cache.mints(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_are_never_two_mints_at_a_time() {
    let flying = Arc::new(AtomicUsize::new(0));
    let calls = Arc::new(AtomicUsize::new(0));
    let (count, number) = (Arc::clone(&flying), Arc::clone(&calls));
    let cache = TokenCache::builder(move || {
        let (count, number) = (Arc::clone(&count), Arc::clone(&number));
        async move {
            assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0);
            tokio::task::yield_now().await;
            number.fetch_add(1, Ordering::SeqCst);
            assert_eq!(count.fetch_sub(1, Ordering::SeqCst), 1);
            Ok(token(1).with_expiry(SystemTime::now() + MINUTE))
        }
    })
    .with_remint_interval(Duration::ZERO)
    .build()
    .unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let mut refused = 0;
                for _ in 0..500 {
                    // The others may refuse each token before this call has seen it: that is an error too.
                    if let Ok(token) = cache.get().await {
                        cache.rejected(&token, &unauthenticated());
                        refused += 1;
                    }
                }
                refused
            })
        })
        .collect();
    let mut refused = 0;
    for task in tasks {
        refused += task.await.unwrap();
    }
    assert!(refused > 0);
    assert_eq!(calls.load(Ordering::SeqCst) as u64, cache.mints());
    assert!(cache.last_error().is_none(), "{:?}", cache.last_error());
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_shown_holds_the_token() {
    let cache = TokenCache::new(|| async { Ok(token(7)) });
    let given = cache.get().await.unwrap();
    let shown = format!("{cache:?} {cache:#?} {given:?}");
    assert!(!shown.contains("secret-token"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn the_users_code_is_never_called_under_the_lock() {
    // Both the clock and the source call back into the cache, which would lock up.
    #[derive(Clone, Debug, Default)]
    struct Nosy(Arc<Mutex<Option<TokenCache>>>);
    impl Nosy {
        fn look(&self) {
            let cache = self.0.lock().unwrap().take();
            if let Some(cache) = cache {
                let _ = cache.last_error();
                *self.0.lock().unwrap() = Some(cache);
            }
        }
    }
    impl Clock for Nosy {
        fn now(&self) -> SystemTime {
            self.look();
            SystemTime::now()
        }
    }
    let nosy = Nosy::default();
    let source = nosy.clone();
    let cache = TokenCache::builder(move || {
        source.look();
        async { Ok(token(1).with_expiry(SystemTime::now() + MINUTE)) }
    })
    .with_clock(nosy.clone())
    .build()
    .unwrap();
    *nosy.0.lock().unwrap() = Some(cache.clone());
    let given = cache.get().await.unwrap();
    cache.rejected(&given, &unauthenticated());
    cache.get().await.unwrap();
    nosy.0.lock().unwrap().take();
}
