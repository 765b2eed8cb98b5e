//! Any body, any limit, any moment of the refusal: the second attempt sends the original bytes, or none.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, StreamBody};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tower::{BoxError, Layer, Service};
use tower_credential_fallback::{
    CannotRewind, Credential, CredentialFallbackLayer, NoReplay, Order, Outcome, ReplayBody, Slot,
};

/// How a body behaves, and when what happens to it.
#[derive(Clone, Debug)]
struct Case {
    steps: Vec<Step>,
    /// Whether the body says its length.
    is_exact: bool,
    has_trailers: bool,
    /// It fails before this step.
    fails_before: Option<usize>,
    limit: usize,
    /// How often the first attempt asks for a frame before its end is decided.
    polls: usize,
    then: Then,
    /// How often the first attempt asks while it is held.
    polls_while_held: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Data(usize),
    Pending,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    TakeOver,
    HoldAndTakeOver,
    DropFirstAndTakeOver,
    Release,
    HoldAndRelease,
    GiveUp,
    HoldAndGiveUp,
}

fn cases() -> impl Strategy<Value = Case> {
    let size = prop_oneof![4 => 0..4_usize, 2 => 500..520_usize, 1 => 0..3_000_usize];
    let step = prop_oneof![3 => size.prop_map(Step::Data), 1 => Just(Step::Pending)];
    let steps = prop_oneof![
        9 => prop::collection::vec(step.clone(), 0..8),
        // Enough for small pieces to be copied together.
        1 => prop::collection::vec(prop_oneof![3 => (0..3_usize).prop_map(Step::Data), 1 => step], 60..90),
    ];
    let then = prop_oneof![
        Just(Then::TakeOver),
        Just(Then::HoldAndTakeOver),
        Just(Then::DropFirstAndTakeOver),
        Just(Then::Release),
        Just(Then::HoldAndRelease),
        Just(Then::GiveUp),
        Just(Then::HoldAndGiveUp),
    ];
    let limit = prop_oneof![3 => Just(usize::MAX), 1 => Just(0), 3 => 0..1_200_usize];
    let failure = prop_oneof![4 => Just(None), 1 => (0..10_usize).prop_map(Some)];
    (steps, any::<bool>(), any::<bool>(), failure, limit, 0..100_usize, then, 0..3_usize).prop_map(
        |(steps, is_exact, has_trailers, fails_before, limit, polls, then, polls_while_held)| {
            // Mostly within the body, sometimes behind its end.
            let polls = polls % (steps.len() + 3);
            Case { steps, is_exact, has_trailers, fails_before, limit, polls, then, polls_while_held }
        },
    )
}

fn trailers() -> HeaderMap {
    [("x-sum".parse().unwrap(), "9".parse().unwrap())].into_iter().collect()
}

/// Panics if it is asked after its end.
struct Scripted {
    steps: VecDeque<Poll<Result<Frame<Bytes>, io::Error>>>,
    length: Option<u64>,
    is_over: bool,
}

impl Case {
    fn body(&self) -> Scripted {
        let mut nth = 0_u8;
        let data = self.steps.iter().map(|step| match step {
            Step::Pending => Poll::Pending,
            Step::Data(size) => {
                let content: Vec<u8> = (0..*size)
                    .map(|_| {
                        nth = nth.wrapping_add(1);
                        nth
                    })
                    .collect();
                Poll::Ready(Ok(Frame::data(content.into())))
            }
        });
        let mut steps: VecDeque<_> = data.collect();
        if self.has_trailers {
            steps.push_back(Poll::Ready(Ok(Frame::trailers(trailers()))));
        }
        if let Some(nth) = self.fails_before {
            steps.truncate(nth.min(self.steps.len()));
            steps.push_back(Poll::Ready(Err(io::Error::other("of the source"))));
        }
        let length = self.is_exact.then(|| self.content().len() as u64);
        Scripted { steps, length, is_over: false }
    }

    /// All bytes that it would yield were there no failure.
    fn content(&self) -> Vec<u8> {
        let size: usize =
            self.steps.iter().map(|step| if let Step::Data(size) = step { *size } else { 0 }).sum();
        (0..size).map(|nth| (nth + 1) as u8).collect()
    }

    /// What a whole reading of it has to bring.
    fn expected(&self) -> Read {
        let mut body = self.body();
        let mut read = Read::default();
        while let Some(step) = body.steps.pop_front() {
            match step {
                Poll::Ready(Ok(frame)) => read.add(frame),
                Poll::Ready(Err(_)) => read.has_failed = true,
                Poll::Pending => {}
            }
        }
        read
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        assert!(!self.is_over, "asked after its end");
        let step = self.steps.pop_front();
        match step {
            Some(Poll::Pending) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Poll::Ready(step)) => {
                self.is_over = step.as_ref().map_or(true, Frame::is_trailers);
                if let (Ok(frame), Some(length)) = (&step, &mut self.length) {
                    *length -= frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(Some(step))
            }
            None => {
                self.is_over = true;
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What was read of a body.
#[derive(Clone, Debug, Default, PartialEq)]
struct Read {
    content: Vec<u8>,
    trailers: Option<HeaderMap>,
    has_failed: bool,
}

impl Read {
    fn add(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                assert!(self.trailers.is_none() && !self.has_failed);
                self.content.extend_from_slice(&data);
            }
            Err(other) => self.trailers = Some(other.into_trailers().unwrap()),
        }
    }

    /// Asks once more; says whether there may be more to come.
    fn poll(&mut self, body: &mut ReplayBody<Scripted>) -> bool {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => self.add(frame),
            Poll::Ready(Some(Err(_))) => self.has_failed = true,
            Poll::Ready(None) => return false,
            Poll::Pending => {}
        }
        true
    }

    fn read_on(mut self, body: &mut ReplayBody<Scripted>) -> Self {
        for _ in 0..1_000 {
            if !self.poll(body) {
                return self;
            }
        }
        panic!("it never ends");
    }
}

/// A whole body, told from its length and from what was read of it.
fn is_whole(read: &Read, whole: &Read) -> bool {
    read == whole && !whole.has_failed
}

fn replay_by_hand(case: &Case) {
    let whole = case.expected();
    let (mut first, rewind) = ReplayBody::new(case.body()).rewindable(case.limit);
    let is_in_memory = first.content().is_some();
    let mut sent = Read::default();
    if case.is_exact {
        assert_eq!(first.size_hint().exact(), Some(case.content().len() as u64));
    }
    let has_ended = !(0..case.polls).all(|_| sent.poll(&mut first));
    assert!(whole.content.starts_with(&sent.content), "the first attempt sends the original");

    let is_held = matches!(case.then, Then::HoldAndTakeOver | Then::HoldAndRelease | Then::HoldAndGiveUp);
    let held = if is_held { rewind.hold() } else { Ok(()) };
    if is_held && held.is_ok() && !is_in_memory {
        let before = sent.clone();
        for _ in 0..case.polls_while_held {
            sent.poll(&mut first);
        }
        assert_eq!(sent, before, "nothing passes while it is held");
    }
    let mut first = Some(first);
    let second = match case.then {
        Then::Release | Then::HoldAndRelease => {
            rewind.release();
            None
        }
        Then::GiveUp | Then::HoldAndGiveUp => {
            drop(rewind);
            None
        }
        Then::DropFirstAndTakeOver => {
            first = None;
            Some(rewind.rewind())
        }
        Then::TakeOver | Then::HoldAndTakeOver => Some(rewind.rewind()),
    };

    let too_large = !is_in_memory && sent.content.len() > case.limit;
    match second {
        Some(Ok(mut second)) => {
            assert!(!too_large && !sent.has_failed);
            if case.is_exact {
                assert_eq!(second.size_hint().exact(), Some(case.content().len() as u64));
            }
            assert_eq!(Read::default().read_on(&mut second), whole, "the second attempt sends the original");
            assert!(second.is_end_stream());
            if let Some(mut first) = first {
                let is_over = has_ended || first.is_end_stream();
                let was = sent.clone();
                let first = sent.read_on(&mut first);
                if is_in_memory {
                    assert_eq!(first, whole);
                } else {
                    assert_eq!(first.has_failed, !is_over, "the first is cut off by an error or was whole");
                    assert_eq!((first.content, first.trailers), (was.content, was.trailers));
                }
            }
        }
        Some(Err(because)) => {
            let expected = if sent.has_failed { CannotRewind::Failed } else { CannotRewind::TooLarge };
            assert!(too_large || sent.has_failed);
            assert_eq!(because, if too_large { CannotRewind::TooLarge } else { expected });
            if let Some(mut first) = first {
                assert_eq!(sent.read_on(&mut first), whole, "the first goes on alone");
            }
        }
        None => {
            let mut first = first.expect("it was not dropped");
            if case.then == Then::HoldAndGiveUp && held.is_ok() && !is_in_memory {
                let end = sent.clone().read_on(&mut first);
                assert_eq!(end.content, sent.content);
                assert!(end.has_failed || is_whole(&end, &whole), "cut off and taken for whole: {end:?}");
            } else {
                assert_eq!(sent.read_on(&mut first), whole, "the first goes on alone");
            }
        }
    }
}

/// Reads so much of the first attempt and refuses it; reads all of the second, and accepts it.
#[derive(Clone)]
struct Refusing {
    polls: usize,
    attempts: Arc<Mutex<Vec<Read>>>,
}

impl Service<Request<ReplayBody<Scripted>>> for Refusing {
    type Response = Response<Empty<Bytes>>;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody<Scripted>>) -> Self::Future {
        let (polls, attempts) = (self.polls, Arc::clone(&self.attempts));
        Box::pin(async move {
            let is_first = request.headers()["authorization"] == "Bearer old";
            let mut body = request.into_body();
            let read = if is_first {
                let mut read = Read::default();
                let _ = (0..polls).all(|_| read.poll(&mut body));
                // The upload goes on behind the answer's back.
                tokio::spawn(async move {
                    let mut rest = Read::default();
                    poll_fn(|cx| {
                        while let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                            match frame {
                                Some(Ok(frame)) => rest.add(frame),
                                _ => return Poll::Ready(()),
                            }
                        }
                        Poll::Pending
                    })
                    .await;
                });
                read
            } else {
                Read::default().read_on(&mut body)
            };
            attempts.lock().unwrap().push(read);
            let status = if is_first { 401 } else { 200 };
            Ok(Response::builder().status(status).body(Empty::new()).unwrap())
        })
    }
}

async fn replay_through_the_layer(case: &Case) {
    let whole = case.expected();
    let inner = Refusing { polls: case.polls, attempts: Arc::default() };
    let mut service = layer().with_replay_limit(case.limit).layer(inner.clone());
    let call = service.call(Request::post("https://api.example/").body(case.body()).unwrap());
    if case.then == Then::GiveUp {
        // Given up at its first wait, if it has one.
        drop(call.now_or_never());
        return;
    }
    let response = call.await.unwrap();
    let attempts = inner.attempts.lock().unwrap();
    match Outcome::of(&response).no_replay() {
        None => {
            assert_eq!(response.status(), 200);
            assert_eq!(attempts[1], whole, "the second attempt sends the original");
        }
        Some(reason) => {
            assert_eq!((response.status().as_u16(), attempts.len()), (401, 1));
            let has_failed = attempts[0].has_failed;
            let too_large = attempts[0].content.len() > case.limit;
            assert!(match reason {
                NoReplay::BodyTooLarge => too_large,
                NoReplay::BodyFailed => has_failed && !too_large,
                _ => false,
            });
        }
    }
}

fn layer() -> CredentialFallbackLayer<Credential, Credential> {
    CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), Credential::bearer("new").unwrap())
        .unwrap()
        .with_order(Order::PrimaryFirst)
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn whatever_the_body_and_the_moment_the_second_attempt_sends_the_original_bytes_or_none() {
    runner(100_000)
        .run(&cases(), |case| {
            replay_by_hand(&case);
            Ok(())
        })
        .unwrap();
}

#[test]
fn through_the_layer_as_well() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runner(30_000)
        .run(&cases(), |case| {
            runtime.block_on(replay_through_the_layer(&case));
            Ok(())
        })
        .unwrap();
}

/// So many frames of one byte, and a count of those that were asked for.
fn counted(frames: usize) -> (impl Body<Data = Bytes, Error = io::Error> + Unpin, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let asked = Arc::clone(&count);
    let stream = futures::stream::iter(0..frames).map(move |nth| {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok(Frame::data(Bytes::copy_from_slice(&[nth as u8])))
    });
    (StreamBody::new(stream), count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_races_with_its_take_over_loses_and_doubles_nothing() {
    const ROUNDS: usize = 1_000;
    const FRAMES: usize = 2_000;
    let expected: Vec<u8> = (0..FRAMES).map(|nth| nth as u8).collect();
    let mut in_the_middle = 0;
    for round in 0..ROUNDS {
        let (body, asked) = counted(FRAMES);
        let (mut first, rewind) = ReplayBody::new(body).rewindable(usize::MAX);
        let is_taken = Arc::<AtomicBool>::default();
        // On a busy machine, uploads are often over before it is this thread's turn: every other one waits with its last
        // frame.
        let waits_for = (round % 2 == 0).then(|| Arc::clone(&is_taken));
        let uploading = std::thread::spawn(move || {
            let mut sent = Vec::new();
            loop {
                while sent.len() + 1 == FRAMES
                    && waits_for.as_ref().is_some_and(|taken| !taken.load(Ordering::SeqCst))
                {
                    std::thread::yield_now();
                }
                match first.frame().now_or_never().expect("it never waits") {
                    Some(Ok(frame)) => sent.extend_from_slice(&frame.into_data().unwrap()),
                    Some(Err(_)) => return (sent, true),
                    None => return (sent, false),
                }
            }
        });
        while asked.load(Ordering::SeqCst) < round % (FRAMES / 4) {
            std::hint::spin_loop();
        }
        let second = rewind.rewind().unwrap();
        is_taken.store(true, Ordering::SeqCst);
        let second = second.collect().await.unwrap().to_bytes();
        let (sent, was_cut_off) = uploading.join().unwrap();
        assert_eq!(second, expected);
        assert!(expected.starts_with(&sent) && was_cut_off == (sent.len() < FRAMES));
        in_the_middle += usize::from(was_cut_off && !sent.is_empty());
    }
    assert!(in_the_middle >= ROUNDS / 4, "only {in_the_middle} of {ROUNDS} were taken over in their middle");
}

/// Ends before the length that it says.
struct Short(VecDeque<&'static str>);

impl Body for Short {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.pop_front().map(|text| Ok(Frame::data(Bytes::from(text)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(10)
    }
}

#[tokio::test]
async fn a_body_that_ends_before_its_length_is_never_made_a_shorter_whole_one() {
    for (frames, polls) in
        [(&["four"][..], 0), (&["four"], 1), (&["four"], 2), (&["a", "b"], 1), (&["a", "b"], 3)]
    {
        let (mut first, rewind) =
            ReplayBody::new(Short(frames.iter().copied().collect())).rewindable(usize::MAX);
        assert_eq!(first.size_hint().exact(), Some(10));
        assert!(first.content().is_none());
        for _ in 0..polls {
            let _ = first.frame().await;
        }
        match rewind.rewind() {
            Ok(second) => {
                assert_eq!(second.size_hint().exact(), Some(10), "whoever sends it notices");
                assert!(!second.is_end_stream());
            }
            Err(because) => assert_eq!(because, CannotRewind::Failed),
        }
    }
}

#[tokio::test]
async fn the_caller_learns_by_which_credential_the_stream_was_accepted() {
    let case = Case {
        steps: vec![Step::Data(10), Step::Pending, Step::Data(5)],
        is_exact: false,
        has_trailers: false,
        fails_before: None,
        limit: 100,
        polls: 1,
        then: Then::TakeOver,
        polls_while_held: 0,
    };
    let inner = Refusing { polls: case.polls, attempts: Arc::default() };
    let request = Request::post("https://api.example/").body(case.body()).unwrap();
    let response = layer().layer(inner).call(request).await.unwrap();
    assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Fallback));
}
