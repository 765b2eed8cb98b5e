//! Only evidence teaches: one credential rejected, the other accepted. Nothing else changes a preference, another
//! replica's preference, or the report's verdict.
#![cfg(feature = "json")]

#[path = "support/script.rs"]
mod script;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use script::{Script, answer, get, layer};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::{
    BoxError, Credential, CredentialChoice, CredentialError, CredentialFallbackLayer, JsonCodeClassifier,
    Learnt, LogFuture, NoReplay, Order, Outcome, PreferenceLog, RECENT, RejectionKind, ReplayBody,
    SharedPreferences, Slot, Verdict, provider_fn,
};

const URI: &str = "https://api.example/v1/things/7";

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Learnt>>>);

impl PreferenceLog for Log {
    fn seed(&self, _: u64) -> LogFuture<'_, u64> {
        Box::pin(async { Ok(7) })
    }

    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
        self.0.lock().unwrap().extend_from_slice(learnt);
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, after: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
        let all = self.0.lock().unwrap().clone();
        let from = after.map_or(0, |after| after.parse().unwrap());
        let next = (from < all.len()).then(|| all.len().to_string());
        Box::pin(async move { Ok((all[from..].to_vec(), next)) })
    }
}

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
    let upload = async || client.clone().oneshot(stream(Ok("xy"))).await.unwrap();

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
async fn nothing_clear_from_the_fallback_leaves_open_whether_the_primary_can_go() {
    #[derive(Clone, Copy, Debug)]
    enum Trouble {
        NoCredential,
        Status(u16),
        Reset,
        Slow,
    }
    use Trouble::{NoCredential, Reset, Slow, Status};
    for order in [Order::FallbackOnly, Order::FallbackFirst] {
        for trouble in [NoCredential, Status(503), Status(429), Status(404), Reset, Slow] {
            if matches!((order, trouble), (Order::FallbackFirst, NoCredential)) {
                // The primary serves instead, and is needed.
                continue;
            }
            let is_down = Arc::new(AtomicBool::new(false));
            let (down, is_out) = (Arc::clone(&is_down), Arc::clone(&is_down));
            let server = Script::new(move |asked| {
                // All but one resource is served.
                let is_down = down.load(Ordering::SeqCst) && asked.uri.path() == "/troubled";
                async move {
                    match trouble {
                        Status(status) if is_down => Ok(answer(status, "")),
                        Reset if is_down => Err("reset".into()),
                        Slow if is_down => std::future::pending().await,
                        _ => Ok(answer(200, "")),
                    }
                }
            });
            let fallback = provider_fn(move |head: &http::request::Parts| {
                let is_out = matches!(trouble, NoCredential) && is_out.load(Ordering::SeqCst);
                let is_out = is_out && head.uri.path() == "/troubled";
                std::future::ready(match is_out {
                    true => Err(CredentialError::new("the vault is sealed")),
                    false => Ok(Credential::bearer("new").unwrap()),
                })
            });
            let primary = Credential::bearer("old").unwrap();
            let layer = CredentialFallbackLayer::new(primary, fallback).unwrap().with_order(order);
            let layer = layer.with_resource_key(path);
            let (client, handle) = (layer.layer(server), layer.handle());
            let call = async |path: &str| {
                let call = client.clone().oneshot(get(&format!("https://api.example{path}")));
                let _ = tokio::time::timeout(Duration::from_secs(9), call).await;
            };
            tokio::time::advance(2 * RECENT).await;
            call("/fine").await;
            assert_eq!(handle.report().can_retire_primary(), Some(true));
            is_down.store(true, Ordering::SeqCst);
            for _ in 0..20 {
                call("/troubled").await;
            }
            call("/fine").await;
            let report = handle.report();
            assert_eq!(report.can_retire_primary(), None, "{order:?} {trouble:?}: {report}");
            // A clear answer to the same closes the question; that there was no credential stays true for its time.
            is_down.store(false, Ordering::SeqCst);
            call("/troubled").await;
            if matches!(trouble, NoCredential) {
                assert_eq!(handle.report().can_retire_primary(), None, "{order:?} {trouble:?}");
                tokio::time::advance(RECENT).await;
                call("/fine").await;
            }
            assert_eq!(handle.report().can_retire_primary(), Some(true), "{order:?} {trouble:?}");
            // What was served lately is no question, whatever else its answers are.
            call("/troubled").await;
            is_down.store(true, Ordering::SeqCst);
            if let Status(_) = trouble {
                call("/troubled").await;
                assert_eq!(handle.report().can_retire_primary(), Some(true), "{order:?} {trouble:?}");
            }
        }
    }
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
async fn what_the_fallback_serves_at_once_counts_as_moved() {
    let server = Script::statuses(|_| 200);
    let layer = layer().with_order(Order::FallbackFirst);
    let (client, handle) = (layer.layer(server), layer.handle());
    for host in ["a", "b", "b"] {
        client.clone().oneshot(get(&format!("https://{host}.example/"))).await.unwrap();
    }
    assert_eq!((handle.report().moved, handle.report().not_moved), (2, 0));
    let mut pinned = get("https://b.example/");
    pinned.extensions_mut().insert(CredentialChoice::Only(Slot::Primary));
    client.oneshot(pinned).await.unwrap();
    assert_eq!((handle.report().moved, handle.report().not_moved), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_resource_has_moved_if_the_fallback_was_the_last_to_serve_it() {
    // Both serve it, the fallback slowly.
    let has_moved = Arc::new(AtomicBool::new(true));
    let moved = Arc::clone(&has_moved);
    let server = Script::new(move |asked| {
        let status = if asked.is_new() || !moved.load(Ordering::SeqCst) { 200 } else { 403 };
        async move {
            if asked.is_new() {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(answer(status, ""))
        }
    });
    let layer = layer();
    let (client, handle) = (layer.layer(server), layer.handle());
    client.clone().oneshot(get(URI)).await.unwrap();
    has_moved.store(false, Ordering::SeqCst);
    let slow = tokio::spawn(client.clone().oneshot(get(URI)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut pinned = get(URI);
    pinned.extensions_mut().insert(CredentialChoice::First(Slot::Primary));
    client.oneshot(pinned).await.unwrap();
    assert_eq!((handle.report().moved, handle.report().not_moved), (0, 1));
    assert_eq!(Outcome::of(&slow.await.unwrap().unwrap()).served_by(), Some(Slot::Fallback));
    assert_eq!((handle.report().moved, handle.report().not_moved), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_has_told_was_not_served_just_now() {
    // The fallback serves the resource, and a day later answers it with nothing but 503.
    let is_down = Arc::new(AtomicBool::new(false));
    let down = Arc::clone(&is_down);
    let server = Script::statuses(move |asked| match asked.uri.path() {
        _ if !asked.is_new() => 401,
        "/troubled" if down.load(Ordering::SeqCst) => 503,
        _ => 200,
    });
    let log = Log::default();
    let replica = async |order| {
        let shared = SharedPreferences::open(log.clone()).await.unwrap();
        layer().with_resource_key(path).with_shared_preferences(&shared).with_order(order)
    };
    let first = replica(Order::Adaptive).await;
    first.layer(server.clone()).oneshot(get("https://api.example/troubled")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(log.0.lock().unwrap().len(), 1);
    is_down.store(true, Ordering::SeqCst);
    let second = replica(Order::FallbackFirst).await;
    let (client, handle) = (second.layer(server), second.handle());
    tokio::time::advance(RECENT).await;
    for path in ["fine", "troubled"] {
        client.clone().oneshot(get(&format!("https://api.example/{path}"))).await.unwrap();
    }
    assert_eq!(handle.report().can_retire_primary(), None, "{}", handle.report());
}

fn path<'r>(head: &'r http::request::Parts, _: &'r [u8]) -> Option<&'r str> {
    Some(head.uri.path())
}

#[tokio::test(start_paused = true)]
async fn paths_that_both_reject_are_no_resources() {
    let server = Script::statuses(|_| 403);
    let layer = layer();
    let (client, handle) = (layer.layer(server), layer.handle());
    for nth in 0..20_000 {
        client.clone().oneshot(get(&format!("https://api.example/{nth}"))).await.unwrap();
    }
    let report = handle.report();
    assert_eq!((report.moved, report.not_moved, report.has_more_resources), (0, 0, false));
    assert_eq!(report.refused, 20_000);
}

#[tokio::test]
async fn an_outcome_tells_accepted_from_inconclusive() {
    for (status, verdict) in
        [(200, Verdict::Accepted), (304, Verdict::Accepted), (503, Verdict::Inconclusive)]
    {
        let server = Script::statuses(move |asked| if asked.is_new() { status } else { 401 });
        let response: Response<_> = layer().layer(server).oneshot(get(URI)).await.unwrap();
        let outcome = Outcome::of(&response);
        assert_eq!(outcome.answered_by(), Some(Slot::Fallback));
        assert_eq!(outcome.attempts().last().unwrap().verdict, verdict);
        assert_eq!(outcome.served_by().is_some(), verdict == Verdict::Accepted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_or_stalls_is_no_evidence() {
    let mode = Arc::new(AtomicUsize::new(0));
    let shown = Arc::clone(&mode);
    let inner = tower::service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let is_new = request.headers()["authorization"] == "Bearer new";
        let mode = shown.load(Ordering::SeqCst);
        async move {
            let frames: Vec<Result<_, BoxError>> = vec![Ok(Frame::data(Bytes::from(r#"{"data":[1,"#)))];
            let head = Response::builder().header("content-type", "application/json");
            let rest = match (is_new, mode) {
                (false, _) => {
                    let body = Either::Left(Full::from(r#"{"code":4101}"#));
                    return Ok::<_, BoxError>(head.body(body).unwrap());
                }
                (true, 0) => futures::stream::iter([Err("cut off".into())]).left_stream(),
                (true, _) => futures::stream::pending().right_stream(),
            };
            let body = StreamBody::new(Box::pin(futures::stream::iter(frames).chain(rest)));
            Ok(head.body(Either::Right(body)).unwrap())
        }
    });
    let classifier = JsonCodeClassifier::new("code").reject(4101, RejectionKind::Forbidden);
    let layer = layer().with_classifier(classifier);
    let (client, handle) = (layer.layer(inner), layer.handle());
    for nth in 0..2 {
        mode.store(nth, Ordering::SeqCst);
        let response = client.clone().oneshot(get(URI)).await.unwrap();
        let outcome = Outcome::of(&response);
        assert_eq!((outcome.answered_by(), outcome.served_by()), (Some(Slot::Fallback), None));
        assert_eq!(outcome.attempts().count(), 2, "nothing was learnt from the call before");
    }
    assert_eq!((handle.report().fallback.inconclusive, handle.report().moved), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn the_verdict_depends_on_the_bytes_not_on_their_frames() {
    const TEXTS: [&str; 8] = [
        r#"{"code":0,"data":[1,2]}"#,
        r#"{"data":{"code":4101},"code":0}"#,
        r#"{"data":"","code":4101,"msg":"no"}"#,
        r#"{"code":4000,"msg":"wrong"}"#,
        r#"{"data":[1,2],"msg":"#,
        r#"{"code":4101"#,
        "<html>",
        "",
    ];
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum End {
        Whole,
        Failed,
        Silent,
    }
    let mut random = fastrand::Rng::with_seed(7);
    let verdict = async |text: &'static str, cuts: Vec<usize>, pauses: bool, end: End| {
        let inner = tower::service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
            let mut cuts = cuts.clone();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            let frames = futures::stream::iter(pieces).then(move |piece| async move {
                if pauses {
                    tokio::task::yield_now().await;
                }
                Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece)))
            });
            let end = futures::stream::once(async move {
                match end {
                    End::Whole => None,
                    End::Failed => Some(Err("reset".into())),
                    End::Silent => std::future::pending().await,
                }
            });
            let body = StreamBody::new(Box::pin(frames.chain(end.filter_map(std::future::ready))));
            let head = Response::builder().header("content-type", "application/json");
            std::future::ready(Ok::<_, BoxError>(head.body(body).unwrap()))
        });
        let classifier = JsonCodeClassifier::new("code").reject(4101, RejectionKind::Forbidden);
        let layer = layer().with_classifier(classifier).with_order(Order::PrimaryOnly);
        let response = layer.layer(inner).oneshot(get(URI)).await.unwrap();
        Outcome::of(&response).attempts().next().unwrap().verdict
    };
    for text in TEXTS {
        for end in [End::Whole, End::Failed, End::Silent] {
            let expected = verdict(text, Vec::new(), false, end).await;
            for _ in 0..100 {
                let cuts: Vec<_> = (0..random.usize(0..6)).map(|_| random.usize(0..=text.len())).collect();
                let found = verdict(text, cuts.clone(), random.bool(), end).await;
                assert_eq!(found, expected, "{text} in pieces from {cuts:?}, {end:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn empty_frames_for_ever_do_not_stop_the_call() {
    let inner = tower::service_fn(async |_: Request<ReplayBody<Full<Bytes>>>| {
        let frames = futures::stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::new())));
        let head = Response::builder().status(401).header("content-type", "application/json");
        Ok::<_, BoxError>(head.body(StreamBody::new(frames)).unwrap())
    });
    let layer = layer().with_classifier(JsonCodeClassifier::new("code")).with_order(Order::PrimaryOnly);
    let call = layer.layer(inner).oneshot(get(URI));
    let ticking = async {
        // Time does not pass by itself while a task is ready to run.
        loop {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    let response = tokio::select! {
        response = call => response.unwrap(),
        () = ticking => unreachable!(),
    };
    assert!(Outcome::of(&response).is_refused());
}
