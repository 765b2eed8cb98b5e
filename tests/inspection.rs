//! The verdict on an answer depends on its bytes. It is reached in bounded time.
#![cfg(feature = "json")]

#[path = "support/script.rs"]
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Either, Full, StreamBody};
use script::{Script, get, layer};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::{
    BoxError, JsonCodeClassifier, Order, Outcome, RejectionKind, ReplayBody, Slot, Verdict,
};

const URI: &str = "https://api.example/v1/things/7";

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
