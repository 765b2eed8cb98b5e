use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::{Request, StatusCode};

use super::*;

/// A clock that the test turns; whole seconds.
#[derive(Clone, Debug, Default)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        at(self.0.load(Ordering::SeqCst))
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn refusal(kind: RejectionKind) -> Rejection {
    Rejection::new(kind, StatusCode::UNAUTHORIZED)
}

struct Rig {
    mints: Arc<AtomicUsize>,
    clock: TestClock,
    /// What each further mint does: lifetime in seconds, or a failure.
    next: Arc<Mutex<Result<u64, CredentialError>>>,
    cache: TokenCache<Box<dyn Fn() -> MintFuture + Send + Sync>>,
}

/// Every mint takes 50 ms.
fn rig() -> Rig {
    let (mints, clock) = (Arc::<AtomicUsize>::default(), TestClock::default());
    let next = Arc::new(Mutex::new(Ok(100)));
    let (count, wall, plan) = (Arc::clone(&mints), clock.clone(), Arc::clone(&next));
    let source = move || -> MintFuture {
        let nth = count.fetch_add(1, Ordering::SeqCst) + 1;
        let (wall, plan) = (wall.clone(), Arc::clone(&plan));
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let lifetime = plan.lock().unwrap().clone()?;
            let token = Credential::bearer(format!("s3cret-{nth}")).unwrap();
            Ok(token.with_expiry(wall.now() + Duration::from_secs(lifetime)))
        })
    };
    let cache = TokenCache::new(Box::new(source) as Box<dyn Fn() -> MintFuture + Send + Sync>)
        .with_clock(clock.clone());
    Rig { mints, clock, next, cache }
}

impl Rig {
    fn ask(&self) -> CredentialFuture {
        self.cache.credential(&Request::new(()).into_parts().0)
    }

    fn mints(&self) -> usize {
        self.mints.load(Ordering::SeqCst)
    }

    fn then(&self, next: Result<u64, CredentialError>) {
        *self.next.lock().unwrap() = next;
    }

    /// Lets a background mint come to its end.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_concurrent_first_calls_mint_one_token_and_share_it() {
    let rig = rig();
    let calls: Vec<_> = (0..1_000).map(|_| tokio::spawn(rig.ask())).collect();
    let mut generations = std::collections::HashSet::new();
    for call in calls {
        generations.insert(call.await.unwrap().unwrap().generation());
    }
    assert_eq!((rig.mints(), generations.len()), (1, 1));
    assert!(format!("{:?}", rig.ask()).contains("ready"), "a kept token is at hand");
}

#[tokio::test(start_paused = true)]
async fn waiters_share_one_failure_and_calls_in_the_backoff_fail_at_once() {
    let rig = rig();
    rig.then(Err(CredentialError::new("identity server says no")));
    let calls: Vec<_> = (0..100).map(|_| tokio::spawn(rig.ask())).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().to_string(), "identity server says no");
    }
    assert!(format!("{:?}", rig.ask()).contains("ready"));
    assert_eq!(rig.ask().await.unwrap_err().to_string(), "identity server says no");
    assert_eq!(rig.mints(), 1);
    rig.then(Ok(100));
    tokio::time::advance(BACKOFF_MIN).await;
    rig.ask().await.unwrap();
    assert_eq!(rig.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_identity_server_down_for_an_hour_gets_a_bounded_number_of_calls() {
    let rig = rig();
    rig.then(Err(CredentialError::new("down")));
    for _ in 0..36_000 {
        let _ = rig.ask().await;
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    let (fewest, most) = (3_600 / 60, 3_600 / 30 + 10);
    assert!((fewest..=most).contains(&rig.mints()), "{}", rig.mints());
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_and_capped() {
    for (asked, waited) in [(90, 90), (100_000, 600)] {
        let rig = rig();
        rig.then(Err(CredentialError::new("slow down").with_retry_after(Duration::from_secs(asked))));
        rig.ask().await.unwrap_err();
        tokio::time::advance(Duration::from_secs(waited - 1)).await;
        rig.ask().await.unwrap_err();
        assert_eq!(rig.mints(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        rig.ask().await.unwrap_err();
        assert_eq!(rig.mints(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_token_is_fetched_in_the_background_while_the_old_one_serves() {
    let rig = rig();
    let first = rig.ask().await.unwrap();
    rig.clock.set(69);
    rig.ask().await.unwrap();
    rig.settle().await;
    assert_eq!(rig.mints(), 1, "renewed before its last three tenths");
    rig.clock.set(80);
    for _ in 0..100 {
        assert_eq!(rig.ask().await.unwrap().generation(), first.generation());
    }
    rig.settle().await;
    assert_eq!(rig.mints(), 2);
    assert_ne!(rig.ask().await.unwrap().generation(), first.generation());
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_leaves_the_valid_token_and_makes_no_storm() {
    let rig = rig();
    let first = rig.ask().await.unwrap();
    rig.then(Err(CredentialError::new("down")));
    rig.clock.set(85);
    for _ in 0..200 {
        assert_eq!(rig.ask().await.unwrap().generation(), first.generation());
        tokio::time::advance(Duration::from_millis(50)).await;
    }
    assert!((2..=10).contains(&rig.mints()), "{}", rig.mints());
    rig.clock.set(96);
    assert_eq!(rig.ask().await.unwrap_err().to_string(), "down", "an expired token was sent");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_sent_even_after_a_suspend() {
    let rig = rig();
    let first = rig.ask().await.unwrap();
    // The wall clock jumps, the monotonic one does not.
    rig.clock.set(1_000_000);
    assert_ne!(rig.ask().await.unwrap().generation(), first.generation());
    assert_eq!(rig.mints(), 2);
    // Back again: the token has longer to live than it was given, which the server will tell.
    rig.clock.set(999_000);
    rig.ask().await.unwrap();
    assert_eq!(rig.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_arrives_expired_is_a_clear_error_and_no_tight_loop() {
    let rig = rig();
    rig.then(Ok(0));
    let error = rig.ask().await.unwrap_err().to_string();
    assert!(error.contains("expired") && error.contains("clock"), "{error}");
    for _ in 0..1_000 {
        rig.ask().await.unwrap_err();
    }
    assert_eq!(rig.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_with_two_seconds_to_live_serves_without_a_tight_loop() {
    let rig = rig();
    rig.then(Ok(2));
    for second in 0..20 {
        rig.clock.set(second);
        for _ in 0..50 {
            rig.ask().await.unwrap();
        }
        rig.settle().await;
    }
    assert!(rig.mints() <= 20, "{}", rig.mints());
}

#[tokio::test(start_paused = true)]
async fn a_late_401_for_an_old_token_keeps_the_new_one() {
    let rig = rig();
    let old = rig.ask().await.unwrap();
    rig.cache.rejected(&old, &refusal(RejectionKind::Unauthenticated));
    let new = rig.ask().await.unwrap();
    assert_ne!(new.generation(), old.generation());
    tokio::time::advance(REMINT_INTERVAL * 2).await;
    for _ in 0..5 {
        rig.cache.rejected(&old, &refusal(RejectionKind::Unauthenticated));
        assert_eq!(rig.ask().await.unwrap().generation(), new.generation());
    }
    assert_eq!(rig.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_minted_anew_at_most_once_per_interval() {
    let rig = rig();
    for _ in 0..100 {
        let token = rig.ask().await.unwrap();
        rig.cache.rejected(&token, &refusal(RejectionKind::Unauthenticated));
    }
    assert_eq!(rig.mints(), 2);
    tokio::time::advance(REMINT_INTERVAL).await;
    let token = rig.ask().await.unwrap();
    rig.cache.rejected(&token, &refusal(RejectionKind::Unauthenticated));
    rig.ask().await.unwrap();
    assert_eq!(rig.mints(), 3);
}

#[tokio::test(start_paused = true)]
async fn being_forbidden_says_nothing_about_the_token() {
    let rig = rig();
    let token = rig.ask().await.unwrap();
    for kind in [RejectionKind::Forbidden, RejectionKind::NotFound] {
        rig.cache.rejected(&token, &refusal(kind));
        assert_eq!(rig.ask().await.unwrap().generation(), token.generation());
    }
}

#[tokio::test(start_paused = true)]
async fn a_mint_goes_on_when_the_call_that_began_it_is_dropped() {
    let rig = rig();
    drop(rig.ask());
    rig.settle().await;
    assert!(format!("{:?}", rig.ask()).contains("ready"));
    assert_eq!(rig.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_hangs_is_ended_by_its_own_limit() {
    let cache = TokenCache::new(std::future::pending::<Minted>).with_load_timeout(Duration::from_secs(3));
    let head = Request::new(()).into_parts().0;
    let error = cache.credential(&head).await.unwrap_err().to_string();
    assert!(error.contains("3s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_source_fails_that_call_and_the_next_one_works() {
    let calls = AtomicUsize::new(0);
    let cache = TokenCache::new(move || {
        let nth = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(nth > 0, "the first mint panics");
            Ok(Credential::bearer("token").unwrap())
        }
    });
    let head = Request::new(()).into_parts().0;
    assert!(cache.credential(&head).await.unwrap_err().to_string().contains("stopped"));
    cache.credential(&head).await.unwrap();
}

#[test]
fn a_runtime_that_shuts_down_in_mid_mint_leaves_the_gate_open() {
    let rig = rig();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let waiting = {
        let _inside = first.enter();
        rig.ask()
    };
    drop(first);
    let second = runtime();
    assert!(second.block_on(waiting).unwrap_err().to_string().contains("stopped"));
    second.block_on(async { rig.ask().await }).unwrap();
    assert_eq!(rig.mints(), 1, "the first was dropped before it was polled");
}

#[test]
fn outside_a_runtime_a_call_that_has_to_mint_fails_with_a_clear_error() {
    let error = futures::executor::block_on(rig().ask()).unwrap_err();
    assert!(error.to_string().contains("Tokio runtime"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_leaves_no_task_behind() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let cache = TokenCache::new(move || {
        let held = Arc::clone(&held);
        async move {
            let _held = held;
            std::future::pending().await
        }
    });
    let waiting = cache.credential(&Request::new(()).into_parts().0);
    tokio::task::yield_now().await;
    drop(cache);
    assert!(waiting.await.is_err());
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test(start_paused = true)]
async fn debug_shows_no_token() {
    let rig = rig();
    let token = rig.ask().await.unwrap();
    assert!(!format!("{:?} {token:?}", rig.cache).contains("s3cret"));
}
