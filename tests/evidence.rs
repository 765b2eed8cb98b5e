//! Only evidence teaches: one credential rejected, the other accepted. Nothing else changes a preference, here or in
//! another replica.
#![cfg(feature = "json")]

#[path = "support/script.rs"]
mod script;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Request;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use script::{Log, Script, answer, get, layer};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::{
    BoxError, Credential, CredentialChoice, CredentialError, CredentialFallbackLayer, NoReplay, Outcome,
    ReplayBody, SharedPreferences, Slot, provider_fn,
};

const URI: &str = "https://api.example/v1/things/7";

/// Long enough for replicas to hear of each other.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn an_inconclusive_answer_of_the_other_credential_changes_nothing() {
    for status in [302, 307, 400, 402, 404, 405, 408, 409, 410, 422, 429, 451, 500, 502, 503, 504] {
        // `old` serves everything, but for one 403.
        let server = Script::statuses(move |asked| match (asked.is_new(), asked.nth) {
            (true, _) => status,
            (false, 1) => 403,
            (false, _) => 200,
        });
        let log = Log::default();
        let shared = SharedPreferences::open(log.clone()).await.unwrap();
        let layer = layer().with_shared_preferences(&shared);
        let (client, handle) = (layer.layer(server.clone()), layer.handle());
        assert_eq!(client.clone().oneshot(get(URI)).await.unwrap().status(), 200);
        let before = handle.report().can_retire_primary();
        let response = client.clone().oneshot(get(URI)).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(Outcome::of(&response).served_by(), None);
        assert_eq!(server.tokens(), ["old", "old", "new"]);
        for path in ["", "/another"] {
            assert_eq!(client.clone().oneshot(get(&format!("{URI}{path}"))).await.unwrap().status(), 200);
        }
        assert_eq!(server.tokens(), ["old", "old"], "{status}");
        a_while().await;
        assert!(log.0.lock().unwrap().is_empty(), "{status}");
        assert_eq!((handle.report().moved, handle.report().can_retire_primary()), (0, before), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_403_that_is_a_rate_limit_is_passed_on_and_counts_as_neither() {
    for (name, value) in [("retry-after", "1"), ("x-ratelimit-remaining", "0")] {
        for is_moved in [false, true] {
            let is_limited = Arc::new(AtomicBool::new(false));
            let limited = Arc::clone(&is_limited);
            let server = Script::new(move |asked| {
                let is_served = asked.is_new() == is_moved;
                let is_limited = limited.load(Ordering::SeqCst);
                async move {
                    let status = if is_served && !is_limited {
                        200
                    } else if is_served {
                        403
                    } else {
                        401
                    };
                    let mut response = answer(status, "slow down");
                    if status == 403 {
                        response.headers_mut().insert(name, value.parse().unwrap());
                    }
                    Ok(response)
                }
            });
            let layer = layer();
            let (client, handle) = (layer.layer(server.clone()), layer.handle());
            client.clone().oneshot(get(URI)).await.unwrap();
            let served = if is_moved { "new" } else { "old" };
            server.tokens();

            is_limited.store(true, Ordering::SeqCst);
            let response = client.clone().oneshot(get(URI)).await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()[name]),
                (403, &value.parse().unwrap())
            );
            assert_eq!(server.tokens(), [served], "not replayed");
            let slot = if is_moved { Slot::Fallback } else { Slot::Primary };
            let report = handle.report();
            assert_eq!((report.slot(slot).inconclusive, report.slot(slot).refused_in_all()), (1, 0));
            assert_eq!((report.refused, report.failed), (0, 0));

            is_limited.store(false, Ordering::SeqCst);
            assert_eq!(client.oneshot(get(URI)).await.unwrap().status(), 200);
            assert_eq!(server.tokens(), [served]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_abandoned_second_attempt_the_callers_next_call_begins_with_it() {
    const SECOND: Duration = Duration::from_secs(1);
    // `old` takes 3 s to reject, and `new` as long to serve.
    let server = Script::new(|asked| async move {
        tokio::time::sleep(3 * SECOND).await;
        Ok(answer(if asked.is_new() { 200 } else { 401 }, ""))
    });
    let client = layer().layer(server.clone());
    let patient = |uri: &str| tokio::time::timeout(5 * SECOND, client.clone().oneshot(get(uri)));
    assert!(patient(URI).await.is_err());
    assert_eq!(server.tokens(), ["old", "new"]);
    // Another request is another matter.
    assert!(patient("https://api.example/v1/other").await.is_err());
    assert_eq!(server.tokens(), ["old", "new"]);
    assert_eq!(patient(URI).await.unwrap().unwrap().status(), 200);
    assert_eq!(
        patient("https://api.example/v1/third").await.unwrap().unwrap().status(),
        200,
        "learnt by now"
    );
    assert_eq!(server.tokens(), ["new", "new"]);
}

#[tokio::test(start_paused = true)]
async fn a_hint_lasts_for_one_call_unless_that_succeeds() {
    let new_says = Arc::new(AtomicU16::new(404));
    let says = Arc::clone(&new_says);
    let server =
        Script::statuses(move |asked| if asked.is_new() { says.load(Ordering::SeqCst) } else { 401 });
    let client = layer().with_replay_limit(1).layer(server.clone());
    let nth = AtomicUsize::new(0);
    let upload = async || {
        // Each form that is built has a boundary of its own, and each attempt a trace.
        let nth = nth.fetch_add(1, Ordering::SeqCst);
        let mut request = stream(Ok("xy"));
        let form = format!("multipart/form-data; boundary={nth}").parse().unwrap();
        request.headers_mut().insert("content-type", form);
        request.headers_mut().insert("x-request-id", nth.into());
        client.clone().oneshot(request).await.unwrap()
    };

    let first = upload().await;
    assert!(matches!(Outcome::of(&first).no_replay(), Some(NoReplay::BodyTooLarge)));
    assert_eq!(upload().await.status(), 404);
    assert_eq!(server.tokens(), ["old", "new"], "the hint");
    upload().await;
    assert_eq!(server.tokens(), ["old"], "it is used up, and has taught nothing");
    new_says.store(200, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(upload().await.status(), 200);
    }
    assert_eq!(server.tokens(), ["new", "new", "new"]);
}

/// An upload that is not in memory.
fn stream(
    second: Result<&'static str, &'static str>,
) -> Request<impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin> {
    let frames = [Ok("x"), second].map(|text| match text {
        Ok(text) => Ok(Frame::data(Bytes::from(text))),
        Err(error) => Err(BoxError::from(error)),
    });
    Request::post(URI).body(StreamBody::new(futures::stream::iter(frames))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_upload_that_cannot_be_replayed_does_not_give_up_the_slot_that_serves() {
    // The old credential may do everything but upload. The server answers before it has read the upload.
    let inner = |status: fn(&Request<_>) -> u16| {
        let log = Arc::<Mutex<Vec<String>>>::default();
        let asked = Arc::clone(&log);
        let service = tower::service_fn(move |mut request: Request<ReplayBody<_>>| {
            let token = request.headers()["authorization"].to_str().unwrap().to_owned();
            asked.lock().unwrap().push(token);
            let status = status(&request);
            async move {
                while let Some(Ok(_)) = request.body_mut().frame().await {}
                Ok::<_, BoxError>(answer(status, ""))
            }
        });
        (service, log)
    };
    for second in [Ok("more than is kept"), Err("the caller's file cannot be read")] {
        let (service, log) = inner(|request| match request.method().as_str() {
            "GET" if request.headers()["authorization"] == "Bearer old" => 200,
            _ => 401,
        });
        let layer = layer().with_replay_limit(4);
        let (client, handle) = (layer.layer(service), layer.handle());
        let get = || {
            let body = UnsyncBoxBody::new(BodyExt::map_err(Full::<Bytes>::default(), BoxError::from));
            Request::get(URI).body(body).unwrap()
        };
        let upload = || stream(second).map(UnsyncBoxBody::new);
        assert_eq!(client.clone().oneshot(get()).await.unwrap().status(), 200);
        assert_eq!(client.clone().oneshot(upload()).await.unwrap().status(), 401);
        assert_eq!(handle.report().moved, 0, "{second:?}");
        for _ in 0..3 {
            assert_eq!(client.clone().oneshot(get()).await.unwrap().status(), 200);
        }
        assert_eq!(*log.lock().unwrap(), ["Bearer old"; 5], "{second:?}");
        assert_eq!(handle.report().moved, 0, "{second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_second_attempt_does_not_overwrite_what_was_learnt_meanwhile() {
    // First `old` is rejected for the resource, and `new` serves it, slowly. Then it moves back.
    let is_back = Arc::new(AtomicBool::new(false));
    let back = Arc::clone(&is_back);
    let server = Script::new(move |asked| {
        let is_served = asked.is_new() != back.load(Ordering::SeqCst);
        async move {
            if asked.nth == 1 {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            Ok(answer(if is_served { 200 } else { 401 }, ""))
        }
    });
    let client = layer().layer(server.clone());
    let mut slow = Box::pin(client.clone().oneshot(get(URI)));
    assert!((&mut slow).now_or_never().is_none());

    is_back.store(true, Ordering::SeqCst);
    let mut pinned = get(URI);
    pinned.extensions_mut().insert(CredentialChoice::First(Slot::Fallback));
    assert_eq!(Outcome::of(&client.clone().oneshot(pinned).await.unwrap()).served_by(), Some(Slot::Primary));
    assert_eq!(Outcome::of(&slow.await.unwrap()).served_by(), Some(Slot::Fallback));
    server.tokens();
    client.oneshot(get(URI)).await.unwrap();
    assert_eq!(server.tokens(), ["old"]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_without_a_credential_changes_no_preference() {
    // Both serve the resource; the old credential cannot be had for a while.
    let is_out = Arc::new(AtomicBool::new(true));
    let out = Arc::clone(&is_out);
    let primary = provider_fn(move |_: &http::request::Parts| {
        std::future::ready(match out.load(Ordering::SeqCst) {
            true => Err(CredentialError::new("the vault is sealed")),
            false => Ok(Credential::bearer("old").unwrap()),
        })
    });
    let server = Script::statuses(|_| 200);
    let layer = CredentialFallbackLayer::new(primary, Credential::bearer("new").unwrap()).unwrap();
    let client = layer.layer(server.clone());
    client.clone().oneshot(get(URI)).await.unwrap();
    is_out.store(false, Ordering::SeqCst);
    client.clone().oneshot(get(URI)).await.unwrap();
    assert_eq!(server.tokens(), ["new", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_after_the_move_begins_lists_with_the_fallback() {
    fn named<'r>(head: &'r http::request::Parts, _: &'r [u8]) -> Option<&'r str> {
        head.uri.path().strip_prefix("/v1/things/")
    }
    let server = Script::statuses(|asked| if asked.is_new() { 200 } else { 401 });
    let log = Log::default();
    let replica = async || {
        let shared = SharedPreferences::open(log.clone()).await.unwrap();
        layer().with_resource_key(named).with_shared_preferences(&shared).layer(server.clone())
    };
    for attempts in [2, 1] {
        let client = replica().await;
        let call = async |path: &str| {
            let response = client.clone().oneshot(get(&format!("https://api.example{path}"))).await.unwrap();
            Outcome::of(&response).attempts().count()
        };
        for nth in 0..16 {
            assert_eq!(call(&format!("/v1/things/{nth}")).await, attempts);
        }
        assert_eq!(call("/v1/list").await, 1, "most is moved");
        a_while().await;
    }
}
