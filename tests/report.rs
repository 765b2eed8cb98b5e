//! The report equals what the server saw, and the order may change under load.
#![cfg(feature = "simulator")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use support::{Protocol, hyper_client};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::simulator::{AccountId, Refusal, Simulator, WorkspaceId};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::{
    BoxError, Credential, CredentialError, CredentialFallbackLayer, FallbackHandle, Order, Outcome, RECENT,
    RejectionKind, ReplayBody, Slot, provider_fn,
};

type Layered = CredentialFallbackLayer<Credential, Credential>;

/// A Coze with bots, each in a workspace of its own.
struct Stage {
    coze: Simulator,
    person: AccountId,
    enterprise: AccountId,
    bots: Vec<(WorkspaceId, String)>,
    layer: Layered,
}

impl Stage {
    async fn set(bots: usize) -> Self {
        let coze = Simulator::start().await.unwrap();
        let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
        let bots = (0..bots).map(|_| {
            let workspace = coze.create_workspace(&person);
            let bot = coze.create_bot(&workspace);
            (workspace, bot)
        });
        let bots = bots.collect();
        let (old, new) = (coze.create_token(&person), coze.create_token(&enterprise));
        let region = Region::custom(coze.base_url()).unwrap();
        let layer = coze::tokens(&region, old, new).unwrap();
        Self { coze, person, enterprise, bots, layer }
    }

    fn url(&self, nth: usize) -> String {
        format!("{}/v1/bots/{}", self.coze.base_url(), self.bots[nth % self.bots.len()].1)
    }

    /// Requests that the account's token was sent with, accepted and refused.
    fn seen(&self, account: &AccountId) -> (u64, u64) {
        let requests = self.coze.requests();
        let of_account: Vec<_> =
            requests.iter().filter(|request| request.account.as_ref() == Some(account)).collect();
        let accepted = of_account.iter().filter(|request| request.code == Some(0)).count();
        (accepted as u64, (of_account.len() - accepted) as u64)
    }

    fn assert_reported(&self, handle: &FallbackHandle) {
        let report = handle.report();
        let told = |slot| (report.slot(slot).accepted, report.slot(slot).refused_in_all());
        assert_eq!(told(Slot::Primary), self.seen(&self.person), "{report}");
        assert_eq!(told(Slot::Fallback), self.seen(&self.enterprise), "{report}");
        assert_eq!(report.primary.attempts() + report.fallback.attempts(), self.coze.request_count());
    }
}

/// Calls every bot in turn until told to stop; returns how many calls there were and how many were refused.
async fn keep_calling(stage: Arc<Stage>, next: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> (u64, u64) {
    let client = stage.layer.layer(hyper_client::<ReplayBody<Full<Bytes>>>(Protocol::Http1));
    let (mut calls, mut refused) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let url = stage.url(next.fetch_add(1, Ordering::SeqCst));
        let response =
            client.clone().oneshot(Request::get(url).body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        refused += u64::from(Outcome::of(&response).is_refused());
        response.into_body().collect().await.unwrap();
        calls += 1;
    }
    (calls, refused)
}

async fn under_load(stage: &Arc<Stage>, during: impl AsyncFnOnce()) -> (u64, u64) {
    let (next, stop) = (Arc::default(), Arc::<AtomicBool>::default());
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        callers.spawn(keep_calling(Arc::clone(stage), Arc::clone(&next), Arc::clone(&stop)));
    }
    during().await;
    stop.store(true, Ordering::SeqCst);
    let ended = callers.join_all().await;
    ended.into_iter().fold((0, 0), |sum, (calls, refused)| (sum.0 + calls, sum.1 + refused))
}

/// Lets the callers call: until so many more requests have arrived.
async fn let_arrive(coze: &Simulator, requests: u64) {
    let until = coze.request_count() + requests;
    while coze.request_count() < until {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_equals_the_servers_own_record_while_bots_move_there_and_back() {
    let stage = Arc::new(Stage::set(40).await);
    let handle = stage.layer.handle();
    let (calls, refused) = under_load(&stage, async || {
        let_arrive(&stage.coze, 100).await;
        for (nth, (workspace, _)) in stage.bots.iter().enumerate() {
            let shapes = [(200, 4101), (401, 4100), (200, 4200)];
            let (status, code) = shapes[nth % 3];
            stage.coze.set_refusal(Some(Refusal::json(status, code)));
            stage.coze.move_workspace(workspace, &stage.enterprise);
            let_arrive(&stage.coze, 20).await;
        }
        let_arrive(&stage.coze, 100).await;
        for (workspace, _) in &stage.bots[..10] {
            stage.coze.move_workspace(workspace, &stage.person);
        }
        let_arrive(&stage.coze, 200).await;
    })
    .await;
    assert_eq!(refused, 0);
    stage.assert_reported(&handle);
    let report = handle.report();
    assert_eq!(report.since_start().calls(), calls);
    assert_eq!(report.since_start().success_rate(), Some(1.0));
    assert_eq!(report.recent, report.since_start(), "all of it was lately");
    assert_eq!((report.moved, report.not_moved, report.has_more_resources), (30, 10, false));
    assert_eq!(report.replays, stage.coze.request_count() - calls);
    assert!(report.primary.refused(RejectionKind::NotFound) > 0);
    assert_eq!(report.can_retire_primary(), Some(false), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changing_the_order_under_load_loses_no_call() {
    let stage = Arc::new(Stage::set(20).await);
    stage.bots[..10]
        .iter()
        .for_each(|(workspace, _)| stage.coze.move_workspace(workspace, &stage.enterprise));
    let handle = stage.layer.handle();
    let (calls, refused) = under_load(&stage, async || {
        for _ in 0..10 {
            for order in [Order::Adaptive, Order::PrimaryFirst, Order::FallbackFirst] {
                handle.set_order(order);
                assert_eq!(handle.order(), order);
                let_arrive(&stage.coze, 40).await;
            }
        }
    })
    .await;
    assert_eq!(refused, 0, "every bot is served by one of the two, whatever the order");
    assert_eq!(handle.report().since_start().calls(), calls);
    stage.assert_reported(&handle);

    let (calls, refused) = under_load(&stage, async || {
        for order in [Order::PrimaryOnly, Order::FallbackOnly, Order::Adaptive] {
            handle.set_order(order);
            let_arrive(&stage.coze, 100).await;
        }
    })
    .await;
    assert!(refused > 0 && refused < calls, "with one credential, half of the bots are refused");
    assert_eq!(handle.report().refused, refused);
    stage.assert_reported(&handle);
}

#[tokio::test(start_paused = true)]
async fn the_report_says_in_words_whether_the_old_credential_can_go() {
    let is_moved = Arc::new(AtomicBool::new(false));
    let moved = Arc::clone(&is_moved);
    let inner = tower::service_fn(move |request: Request<ReplayBody<Empty<Bytes>>>| {
        let right = if moved.load(Ordering::SeqCst) { "Bearer new" } else { "Bearer old" };
        let status = if request.headers()["authorization"] == right { 200 } else { 403 };
        std::future::ready(Ok::<_, BoxError>(
            Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap(),
        ))
    });
    let token = |text| Credential::bearer(text).unwrap();
    let layer = CredentialFallbackLayer::new(token("old"), token("new")).unwrap();
    let (client, handle) = (layer.layer(inner), layer.handle());
    let call = async || {
        let request = Request::get("https://api.example/").body(Empty::new()).unwrap();
        client.clone().oneshot(request).await.unwrap();
    };
    let assert_says = |can: Option<bool>, text: &str| {
        let report = handle.report();
        assert_eq!(report.can_retire_primary(), can, "{report}");
        assert!(report.to_string().contains(text), "{report}");
    };

    call().await;
    assert_says(Some(false), "No: the new one has not been accepted for anything yet.");
    is_moved.store(true, Ordering::SeqCst);
    call().await;
    assert_says(None, "Not known: the old one is still asked first (Adaptive)");
    assert_says(None, "resources: 1 moved, 0 not yet");
    assert_says(None, "calls accepted in the last 15 min: 100.00 % of 2");

    handle.set_order(Order::FallbackFirst);
    tokio::time::advance(Duration::from_secs(60)).await;
    call().await;
    assert_says(None, "Not known: in the last 15 min the old one has answered 1 calls");
    assert_says(None, "resources: 1 moved, 0 not yet");

    tokio::time::advance(RECENT).await;
    assert_says(None, "Not known: there were no calls in the last 15 min.");
    call().await;
    assert_says(Some(true), "Yes, as far as the last 15 min show");

    is_moved.store(false, Ordering::SeqCst);
    call().await;
    assert_says(Some(false), "No: it was needed 0 s ago, where the new one was refused or not to be had.");
}

#[tokio::test(start_paused = true)]
async fn the_old_credential_is_not_said_to_be_free_while_the_new_one_is_refused() {
    /// Says to the new credential what the path says, and to the old one what the query says.
    async fn inner(request: Request<ReplayBody<Empty<Bytes>>>) -> Result<Response<Empty<Bytes>>, BoxError> {
        let uri = request.uri();
        let is_new = request.headers()["authorization"] == "Bearer new";
        let answer = if is_new { &uri.path()[1..] } else { uri.query().unwrap_or("200") };
        match answer.parse::<u16>() {
            Ok(status) => Ok(Response::builder().status(status).body(Empty::new()).unwrap()),
            Err(_) => Err("reset".into()),
        }
    }
    let token = |text| Credential::bearer(text).unwrap();
    for (order, path, expected) in [
        (Order::FallbackOnly, "/403", None),
        (Order::FallbackFirst, "/403?503", None),
        (Order::FallbackFirst, "/403?reset", None),
        (Order::FallbackFirst, "/401?429", None),
        (Order::FallbackFirst, "/403?200", Some(false)),
        // Refused to both, or to nobody's knowledge: that says nothing for the old one.
        (Order::FallbackFirst, "/403?403", Some(true)),
        (Order::FallbackFirst, "/503?200", Some(true)),
        (Order::FallbackFirst, "/reset?200", Some(true)),
        (Order::FallbackFirst, "/200", Some(true)),
    ] {
        let layer = CredentialFallbackLayer::new(token("old"), token("new")).unwrap().with_order(order);
        let (client, handle) = (layer.layer(tower::service_fn(inner)), layer.handle());
        let call = async |path: &str| {
            let request = Request::get(format!("https://api.example{path}")).body(Empty::new()).unwrap();
            drop(client.clone().oneshot(request).await);
        };
        tokio::time::advance(2 * RECENT).await;
        for _ in 0..50 {
            call("/200").await;
        }
        call(path).await;
        // Another request's acceptance is no answer to that.
        call("/200").await;
        let report = handle.report();
        assert_eq!(report.can_retire_primary(), expected, "{order:?} {path}: {report}");
        let is_open = report.to_string().contains("has had no clear answer from the new one");
        assert_eq!(is_open, expected.is_none(), "{report}");
        tokio::time::advance(RECENT).await;
        call("/200").await;
        assert_eq!(handle.report().can_retire_primary(), Some(true), "it is forgotten after a while");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_the_order_what_only_the_primary_was_asked_is_open() {
    /// Serves `/moved` to the new credential; answers 503 to whoever asks for `/troubled`.
    async fn inner(request: Request<ReplayBody<Empty<Bytes>>>) -> Result<Response<Empty<Bytes>>, BoxError> {
        let is_new = request.headers()["authorization"] == "Bearer new";
        let status = match request.uri().path() {
            "/troubled" => 503,
            _ if is_new => 200,
            _ => 401,
        };
        Ok(Response::builder().status(status).body(Empty::new()).unwrap())
    }
    fn path<'r>(head: &'r http::request::Parts, _: &'r [u8]) -> Option<&'r str> {
        Some(head.uri.path())
    }
    let token = |text| Credential::bearer(text).unwrap();
    let layer = CredentialFallbackLayer::new(token("old"), token("new")).unwrap().with_resource_key(path);
    let (client, handle) = (layer.layer(tower::service_fn(inner)), layer.handle());
    let call = async |path: &str| {
        let request = Request::get(format!("https://api.example{path}")).body(Empty::new()).unwrap();
        drop(client.clone().oneshot(request).await);
    };
    call("/moved").await;
    tokio::time::advance(2 * RECENT).await;
    call("/moved").await;
    call("/troubled").await;
    handle.set_order(Order::FallbackFirst);
    assert_eq!(handle.report().can_retire_primary(), None);
    tokio::time::advance(RECENT).await;
    call("/moved").await;
    assert_eq!(handle.report().can_retire_primary(), Some(true));
}

#[tokio::test(start_paused = true)]
async fn calls_in_vain_are_not_reported_as_no_calls() {
    let inner = tower::service_fn(async |_: Request<ReplayBody<Empty<Bytes>>>| {
        Ok::<_, BoxError>(Response::builder().status(503).body(Empty::<Bytes>::new()).unwrap())
    });
    let token = |text| Credential::bearer(text).unwrap();
    let layer = CredentialFallbackLayer::new(token("old"), token("new")).unwrap();
    let layer = layer.with_order(Order::FallbackFirst);
    let (client, handle) = (layer.layer(inner), layer.handle());
    // One that was accepted, long ago.
    let accepting = layer.layer(tower::service_fn(async |_: Request<ReplayBody<Empty<Bytes>>>| {
        Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
    }));
    let request = || Request::get("https://api.example/").body(Empty::new()).unwrap();
    accepting.oneshot(request()).await.unwrap();
    tokio::time::advance(2 * RECENT).await;
    client.oneshot(request()).await.unwrap();
    let text = handle.report().to_string();
    assert!(text.contains("Not known: what was asked 0 s ago has had no clear answer"), "{text}");
    assert!(text.contains("calls accepted in the last 15 min: none, and 1 inconclusive"), "{text}");
}

#[tokio::test]
async fn a_resource_that_only_the_new_credential_answers_for_by_now_has_moved() {
    let inner = tower::service_fn(async |_: Request<ReplayBody<Empty<Bytes>>>| {
        Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
    });
    let token = |text| Credential::bearer(text).unwrap();
    let layer = CredentialFallbackLayer::new(token("old"), token("new")).unwrap();
    let (client, handle) = (layer.layer(inner), layer.handle());
    let call = async |host: &str| {
        let request = Request::get(format!("https://{host}/")).body(Empty::new()).unwrap();
        client.clone().oneshot(request).await.unwrap();
    };
    call("a.example").await;
    call("b.example").await;
    assert_eq!(handle.report().not_moved, 2);
    handle.set_order(Order::FallbackFirst);
    call("a.example").await;
    assert_eq!(handle.report().not_moved, 1);
}

#[tokio::test]
async fn whatever_the_end_of_a_call_it_is_counted_once() {
    let inner = tower::service_fn(|request: Request<ReplayBody<Empty<Bytes>>>| async move {
        match request.uri().path() {
            "/fails" => Err(BoxError::from("reset")),
            "/hangs" => std::future::pending().await,
            "/refuses" => Ok(Response::builder().status(401).body(Empty::<Bytes>::new()).unwrap()),
            _ => Ok(Response::new(Empty::new())),
        }
    });
    let none =
        provider_fn(|_: &http::request::Parts| std::future::ready(Err(CredentialError::new("sealed"))));
    let old = Credential::bearer("old").unwrap();
    let origins = ["https://api.example".parse().unwrap(), "http://plain.example".parse().unwrap()];
    let layer = CredentialFallbackLayer::new(old, none).unwrap().with_origins(origins);
    let (client, handle) = (layer.layer(inner), layer.handle());
    let call = |uri: &str| client.clone().oneshot(Request::get(uri).body(Empty::new()).unwrap());

    assert!(call("https://api.example/fails").await.is_err());
    assert!(call("http://plain.example/").await.is_err(), "no credential over plaintext");
    assert!(futures::future::poll_immediate(call("https://api.example/hangs")).await.is_none());
    call("https://api.example/refuses").await.unwrap();
    call("https://api.example/").await.unwrap();
    call("https://elsewhere.example/").await.unwrap();
    assert!(call("https://elsewhere.example/fails").await.is_err());
    assert!(futures::future::poll_immediate(call("https://elsewhere.example/hangs")).await.is_none());
    drop(tower::Service::call(
        &mut client.clone(),
        Request::get("https://api.example/").body(Empty::new()).unwrap(),
    ));

    let report = handle.report();
    assert_eq!((report.failed, report.abandoned, report.refused, report.unsigned), (2, 2, 1, 3));
    let primary = &report.primary;
    assert_eq!((primary.accepted, primary.failed, primary.abandoned, primary.refused_in_all()), (1, 1, 2, 1));
    assert_eq!(primary.refused(RejectionKind::Unauthenticated), 1);
    assert_eq!(report.fallback.unavailable, 1);
    assert_eq!(report.no_replay().collect::<Vec<_>>(), [("provider_unavailable", 1)]);
    assert_eq!(report.since_start().calls(), 4);
    assert_eq!(report.since_start().success_rate(), Some(0.25));
    let text = report.to_string();
    assert!(text.contains("accepted 1, refused 1 (unauthenticated 1), failed 1, abandoned 2"), "{text}");
    assert!(
        text.contains("not replayed: provider_unavailable 1; calls abandoned by their callers: 2"),
        "{text}"
    );
}
