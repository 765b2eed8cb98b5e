//! What the layers, services and handles of one provider share, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_credential_fallback::observe::{CallEvent, Observe, ObserveCall, TokenEvent};
use tower_credential_fallback::{
    AuthProvider, Credential, CredentialFallbackLayer, Learnt, LogFuture, Order, Outcome, PreferenceLog,
    Rejection, RejectionKind, ReplayBody, SharedPreferences, Slot, TokenCache,
};

fn token(text: &str) -> Credential {
    Credential::bearer(text).unwrap()
}

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(token("old"), token("new")).unwrap()
}

/// Counts mints. How many there are of it is seen by its count.
#[derive(Clone, Default)]
struct Mints(Arc<AtomicUsize>);

impl Mints {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Observers that are alive, this one not counted.
    fn alive(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl Observe for Mints {
    fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
        Box::new(Nothing)
    }

    fn token(&self, _: Slot, event: &TokenEvent<'_>) {
        if matches!(event, TokenEvent::Minted { .. }) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Nothing;

impl ObserveCall for Nothing {
    fn event(&mut self, _: &CallEvent<'_>) {}
}

fn cache() -> TokenCache {
    TokenCache::builder(|| async { Ok(token("minted")) })
        .with_remint_interval(Duration::ZERO)
        .build()
        .unwrap()
}

/// Makes the cache mint once more.
async fn mint(cache: &TokenCache) {
    let given = cache.get().await.unwrap();
    cache.rejected(&given, &Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED));
    cache.get().await.unwrap();
}

/// Accepts every request.
fn accepting() -> impl Service<
    Request<ReplayBody<Empty<Bytes>>>,
    Response = Response<Empty<Bytes>>,
    Error = BoxError,
    Future: Send,
> + Clone {
    service_fn(async |_| Ok(Response::new(Empty::new())))
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("https://api.example/").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_thousand_dropped_layers_leave_no_observer_and_one_event_a_mint() {
    let (cache, mints) = (cache(), Mints::default());
    cache.get().await.unwrap();
    let layer = || {
        let layer = CredentialFallbackLayer::new(cache.clone(), token("new")).unwrap();
        layer.with_observer(mints.clone())
    };
    for _ in 0..1_000 {
        let layer = layer();
        drop((layer.clone().layer(accepting()), layer));
    }
    assert_eq!(mints.alive(), 0);
    let living = layer();
    mint(&cache).await;
    assert_eq!((mints.count(), mints.alive()), (1, 1));
    drop(living);
    mint(&cache).await;
    assert_eq!((mints.count(), mints.alive()), (1, 0));
}

#[tokio::test]
async fn a_service_keeps_its_layers_observer_and_so_does_a_call() {
    let (cache, mints) = (cache(), Mints::default());
    let layer = CredentialFallbackLayer::new(cache.clone(), token("new")).unwrap();
    let client = layer.with_observer(mints.clone()).layer(accepting());
    assert_eq!(mints.alive(), 1);
    // The first poll starts the mint.
    let call = client.oneshot(request());
    assert_eq!(mints.alive(), 1);
    call.await.unwrap();
    assert_eq!((mints.count(), mints.alive()), (1, 0));
}

#[tokio::test]
async fn an_observer_hears_once_of_a_slots_token_however_often_it_is_added() {
    let (cache, mints) = (cache(), Mints::default());
    let observer: Arc<dyn Observe> = Arc::new(mints.clone());
    for _ in 0..3 {
        cache.observed_by(Slot::Primary, &observer);
    }
    cache.get().await.unwrap();
    assert_eq!(mints.count(), 1);
    // Of two slots, each has its event.
    cache.observed_by(Slot::Fallback, &observer);
    mint(&cache).await;
    assert_eq!(mints.count(), 3);
}

#[tokio::test]
async fn an_observer_that_panics_keeps_no_token_event_from_the_next() {
    struct Broken;
    impl Observe for Broken {
        fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
            Box::new(Nothing)
        }

        fn token(&self, _: Slot, _: &TokenEvent<'_>) {
            panic!("a mistake");
        }
    }
    let (cache, mints) = (cache(), Mints::default());
    let observers: [Arc<dyn Observe>; 2] = [Arc::new(Broken), Arc::new(mints.clone())];
    observers.iter().for_each(|observer| cache.observed_by(Slot::Primary, observer));
    mint(&cache).await;
    assert_eq!(mints.count(), 2);
}

#[tokio::test]
async fn a_handle_made_before_with_order_controls_the_layers_clients() {
    let layer = layer();
    let (handle, clone) = (layer.handle(), layer.clone());
    let client = layer.with_order(Order::FallbackOnly).layer(accepting());
    assert_eq!((handle.order(), clone.handle().order()), (Order::FallbackOnly, Order::FallbackOnly));
    let answered_by = async || {
        let response = client.clone().oneshot(request()).await.unwrap();
        Outcome::of(&response).answered_by()
    };
    assert_eq!(answered_by().await, Some(Slot::Fallback));
    handle.set_order(Order::PrimaryOnly);
    assert_eq!(answered_by().await, Some(Slot::Primary));
    assert_eq!(
        handle.report().slot(Slot::Primary).attempts() + handle.report().slot(Slot::Fallback).attempts(),
        2
    );
}

/// A log in memory, for one process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Learnt>>>);

impl PreferenceLog for Log {
    fn seed(&self, proposed: u64) -> LogFuture<'_, u64> {
        Box::pin(async move { Ok(proposed) })
    }

    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
        self.0.lock().unwrap().extend(learnt);
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, _: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
        Box::pin(async { Ok((Vec::new(), None)) })
    }
}

#[tokio::test(start_paused = true)]
async fn shared_preferences_and_order_may_be_set_in_either_order() {
    /// Serves the new token alone.
    async fn moved(request: Request<ReplayBody<Empty<Bytes>>>) -> Result<Response<Empty<Bytes>>, BoxError> {
        let is_new = request.headers()["authorization"] == "Bearer new";
        Ok(Response::builder().status(if is_new { 200 } else { 403 }).body(Empty::new()).unwrap())
    }
    for shares_first in [true, false] {
        let log = Log::default();
        let preferences = SharedPreferences::open(log.clone()).await.unwrap();
        let layer = layer();
        let handle = layer.handle();
        let layer = if shares_first {
            layer.with_shared_preferences(&preferences).with_order(Order::PrimaryFirst)
        } else {
            layer.with_order(Order::PrimaryFirst).with_shared_preferences(&preferences)
        };
        layer.layer(service_fn(moved)).oneshot(request()).await.unwrap();
        assert_eq!((handle.order(), handle.report().replays), (Order::PrimaryFirst, 1));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(log.0.lock().unwrap().len(), 1, "it was told to other replicas");
    }
}

#[tokio::test]
async fn other_preferences_given_later_begin_anew_with_the_same_order() {
    let [first, second] = [SharedPreferences::open(Log::default()), SharedPreferences::open(Log::default())];
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let layer = layer().with_order(Order::FallbackFirst).with_shared_preferences(&first);
    let known = layer.handle();
    // The same again changes nothing.
    let layer = layer.with_shared_preferences(&first);
    layer.layer(accepting()).oneshot(request()).await.unwrap();
    assert_eq!(known.report().slot(Slot::Fallback).attempts(), 1);

    let other = layer.clone().with_shared_preferences(&second);
    other.layer(accepting()).oneshot(request()).await.unwrap();
    assert_eq!(
        (other.handle().order(), known.report().slot(Slot::Fallback).attempts()),
        (Order::FallbackFirst, 1)
    );
}
