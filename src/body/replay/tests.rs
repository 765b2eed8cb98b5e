use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use futures::{StreamExt, stream};
use http::HeaderMap;
use http_body_util::{BodyExt, Empty, Full, StreamBody, channel::Channel};

use super::*;
use crate::body::script::{Script, Step, data};
use crate::body::stream::TakenOver;

const LIMIT: usize = 1024;

fn trailers() -> HeaderMap {
    [("x-sum".parse().unwrap(), "9".parse().unwrap())].into_iter().collect()
}

/// One that is not ready when it is wrapped, so that nothing is known of it at the start.
fn stream(steps: impl IntoIterator<Item = Step>) -> ReplayBody<Script> {
    ReplayBody::new(Script::new([Poll::Pending].into_iter().chain(steps)))
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<B>(body: &mut ReplayBody<B>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

fn next<B>(body: &mut ReplayBody<B>) -> Bytes
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    match poll(body) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().expect("data"),
        other => panic!("expected data: {other:?}"),
    }
}

fn assert_taken_over(body: &mut ReplayBody<Script>) {
    assert!(!body.is_end_stream());
    match poll(body) {
        Poll::Ready(Some(Err(error))) => {
            assert!(error.is::<TakenOver>());
            #[cfg(feature = "http2")]
            assert_eq!(
                error.source().unwrap().downcast_ref::<h2::Error>().unwrap().reason(),
                Some(h2::Reason::CANCEL)
            );
        }
        other => panic!("expected an error: {other:?}"),
    }
    assert!(body.is_end_stream());
    assert!(matches!(poll(body), Poll::Ready(None)));
}

#[tokio::test]
async fn a_body_in_memory_is_sent_twice_as_the_very_same_bytes_of_the_same_length() {
    let content = Bytes::from(vec![7; 4096]);
    let (mut first, rewind) = ReplayBody::new(Full::new(content.clone())).rewindable(0);
    for body in [&mut first, &mut rewind.rewind().unwrap()] {
        assert_eq!(body.content(), Some(&content[..]));
        assert_eq!(body.size_hint().exact(), Some(4096));
        assert!(!body.is_end_stream());
        assert_eq!(next(body).as_ptr(), content.as_ptr());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(matches!(poll(body), Poll::Ready(None)), "it is handed out once");
    }
}

#[tokio::test]
async fn an_empty_body_is_at_its_end_at_once_before_and_after_the_replay() {
    let (first, rewind) = ReplayBody::new(Empty::<Bytes>::new()).rewindable(0);
    for body in [first, rewind.rewind().unwrap()] {
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert_eq!(body.collect().await.unwrap().to_bytes(), Bytes::new());
    }
    assert!(ReplayBody::new(Full::new(Bytes::new())).is_end_stream());
    assert!(
        ReplayBody::new(StreamBody::new(stream::empty::<Result<Frame<Bytes>, Infallible>>())).is_end_stream()
    );
}

#[tokio::test]
async fn a_body_never_partly_or_wholly_polled_is_replayed_frame_for_frame_with_its_trailers() {
    for polls in 0..6 {
        let frames = [data("one"), data("two"), Poll::Pending, Poll::Ready(Ok(Frame::trailers(trailers())))];
        let (mut first, rewind) = stream(frames).rewindable(LIMIT);
        let ended = (0..polls).any(|_| matches!(poll(&mut first), Poll::Ready(None)));
        let mut second = rewind.rewind().unwrap();
        if ended {
            assert!(matches!(poll(&mut first), Poll::Ready(None)), "it was wholly sent: no error");
        } else if polls < 4 {
            assert_taken_over(&mut first);
        } else {
            assert!(first.is_end_stream());
        }
        assert_eq!(next(&mut second), "one");
        assert_eq!(next(&mut second), "two");
        assert_eq!(second.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers());
        assert!(second.frame().await.is_none());
        assert!(second.is_end_stream());
    }
}

#[tokio::test]
async fn a_body_of_trailers_alone_is_replayed_as_that() {
    for polls in 0..3 {
        let only = || [Poll::Ready(Ok(Frame::trailers(trailers())))];
        for body in [stream(only()), ReplayBody::new(Script::new(only()))] {
            let (mut first, rewind) = body.rewindable(LIMIT);
            (0..polls).for_each(|_| drop(poll(&mut first)));
            let second = rewind.rewind().unwrap().collect().await.unwrap();
            assert_eq!(second.trailers(), Some(&trailers()));
            assert_eq!(second.to_bytes(), "");
        }
    }
}

#[test]
fn what_passes_is_the_very_same_memory_in_both_attempts() {
    let pieces: Vec<_> = (1..200_usize).map(|nth| Bytes::from(vec![0; 512 + nth])).collect();
    let steps = pieces.iter().map(|piece| Poll::Ready(Ok(Frame::data(piece.clone()))));
    let (mut first, rewind) = stream(steps).rewindable(1 << 20);
    pieces.iter().for_each(|piece| assert_eq!(next(&mut first).as_ptr(), piece.as_ptr()));
    let mut second = rewind.rewind().unwrap();
    pieces.iter().for_each(|piece| assert_eq!(next(&mut second).as_ptr(), piece.as_ptr()));
}

#[test]
fn the_limit_counts_to_the_byte_and_what_is_beyond_it_streams_on() {
    for (limit, frames, fits) in [
        (6, &["one", "two"][..], true),
        (5, &["one", "two"], false),
        (4, &["one", "two"], false),
        (3, &["one", "two"], false),
        (2, &["one", "two"], false),
        (0, &["one"], false),
        (0, &[], true),
    ] {
        let steps: Vec<_> =
            frames.iter().map(|text| data(text)).chain([Poll::Pending, data("rest")]).collect();
        let (mut first, rewind) = stream(steps).rewindable(limit);
        frames.iter().for_each(|text| assert_eq!(next(&mut first), *text));
        assert!(poll(&mut first).is_pending(), "not at its end");
        match rewind.hold() {
            Ok(()) => assert!(fits, "limit {limit}, {frames:?}"),
            Err(because) => {
                assert!(!fits, "limit {limit}, {frames:?}");
                assert_eq!(because, CannotRewind::TooLarge);
                assert_eq!(rewind.rewind().unwrap_err(), CannotRewind::TooLarge);
                assert_eq!(next(&mut first), "rest");
                assert!(matches!(poll(&mut first), Poll::Ready(None)));
            }
        }
    }
}

#[tokio::test]
async fn a_failed_source_is_never_replayed_as_a_shorter_complete_body() {
    let broken = || [data("some"), Poll::Ready(Err(io::Error::other("disk"))), data("never to be seen")];
    let (mut first, rewind) = stream(broken()).rewindable(LIMIT);
    assert_eq!(next(&mut first), "some");
    assert_eq!(first.frame().await.unwrap().unwrap_err().to_string(), "disk");
    assert!(first.frame().await.is_none(), "nothing comes after an error");
    assert_eq!(rewind.rewind().unwrap_err(), CannotRewind::Failed);

    // Taken over before it failed, it fails where it would have.
    let (_first, rewind) = stream(broken()).rewindable(LIMIT);
    assert_eq!(rewind.rewind().unwrap().collect().await.unwrap_err().to_string(), "disk");

    // And if the error was what was there to be read at first.
    let steps = [Poll::Ready(Err(io::Error::other("disk"))), data("never to be seen")];
    let (_first, rewind) = ReplayBody::new(Script::new(steps)).rewindable(LIMIT);
    assert_eq!(rewind.rewind().unwrap().collect().await.unwrap_err().to_string(), "disk");
}

#[test]
fn a_held_body_passes_nothing_until_it_is_released_and_its_sender_hears_of_it() {
    let (mut first, rewind) = stream([data("one"), data("two")]).rewindable(LIMIT);
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    rewind.hold().unwrap();
    rewind.hold().unwrap();
    assert!(Pin::new(&mut first).poll_frame(&mut Context::from_waker(&waker)).is_pending());
    assert!(poll(&mut first).is_pending());
    assert!(Pin::new(&mut first).poll_frame(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    rewind.release();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "the last waker is the one to be woken");
    assert_eq!(next(&mut first), "one");
    assert_eq!(next(&mut first), "two");
}

#[test]
fn a_sender_that_waits_hears_of_the_take_over() {
    let (mut first, rewind) = stream([data("one"), Poll::Pending]).rewindable(LIMIT);
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    assert_eq!(next(&mut first), "one");
    assert!(Pin::new(&mut first).poll_frame(&mut Context::from_waker(&waker)).is_pending());
    let before = woken.0.load(Ordering::SeqCst);
    let _second = rewind.rewind().unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), before + 1);
    assert_taken_over(&mut first);
}

#[test]
fn giving_up_while_it_is_held_stops_the_first_body_and_drops_the_source() {
    let source = Bytes::from(vec![1; 100]);
    let (mut first, rewind) = stream([Poll::Ready(Ok(Frame::data(source.clone())))]).rewindable(LIMIT);
    rewind.hold().unwrap();
    assert!(!source.is_unique());
    drop(rewind);
    assert!(source.is_unique());
    assert_taken_over(&mut first);

    let (mut first, rewind) = stream([data("one")]).rewindable(LIMIT);
    drop(rewind);
    assert_eq!(next(&mut first), "one", "dropped without having been held: the first goes on");
}

#[test]
fn what_was_kept_is_let_go_as_soon_as_nobody_needs_it_while_the_upload_goes_on() {
    for release in [true, false] {
        let piece = Bytes::from(vec![1; 100]);
        let steps = [Poll::Ready(Ok(Frame::data(piece.clone()))), Poll::Pending, data("two")];
        let (mut first, rewind) = stream(steps).rewindable(LIMIT);
        drop(next(&mut first));
        assert!(!piece.is_unique());
        if release {
            rewind.release()
        } else {
            drop(rewind)
        }
        assert!(piece.is_unique(), "still kept");
        assert!(poll(&mut first).is_pending());
        assert!(matches!(first.kind, Kind::Stream(Stream::Alone(_))), "still behind a lock");
        assert_eq!(next(&mut first), "two");
    }
}

#[test]
fn the_length_is_exact_at_both_attempts_if_it_was_and_unknown_if_it_was() {
    for polls in 0..4 {
        let steps = || [Poll::Pending, data("abc"), data("de")];
        let (mut first, rewind) = ReplayBody::new(Script::new(steps()).with_length()).rewindable(LIMIT);
        assert_eq!(first.size_hint().exact(), Some(5));
        (0..polls).for_each(|_| drop(poll(&mut first)));
        assert_eq!(rewind.rewind().unwrap().size_hint().exact(), Some(5), "after {polls} polls");

        let (mut first, rewind) = ReplayBody::new(Script::new(steps())).rewindable(LIMIT);
        (0..polls).for_each(|_| drop(poll(&mut first)));
        assert_eq!(rewind.rewind().unwrap().size_hint().exact(), None, "after {polls} polls");
    }
    let known = Script::new([data("abc"), data("de"), data("f")]).with_length();
    let mut body = ReplayBody::new(known);
    assert_eq!(body.size_hint().exact(), Some(6), "its first frame was read ahead");
    next(&mut body);
    assert_eq!(body.size_hint().exact(), Some(3));
}

#[tokio::test]
async fn a_body_can_be_taken_over_again_and_again() {
    let (mut body, mut rewind) = stream([data("one"), data("two"), data("three")]).rewindable(LIMIT);
    for polls in [0, 2, 1, 3] {
        (0..polls).for_each(|_| drop(poll(&mut body)));
        (body, rewind) = rewind.rewind().unwrap().rewindable(LIMIT);
    }
    assert_eq!(body.collect().await.unwrap().to_bytes(), "onetwothree");

    let (body, _rewind) = stream([data("one")]).rewindable(LIMIT);
    let (_body, other) = body.rewindable(LIMIT);
    assert_eq!(other.hold().unwrap_err(), CannotRewind::AlreadyRewindable);
    assert_eq!(other.rewind().unwrap_err(), CannotRewind::AlreadyRewindable);
}

#[tokio::test]
async fn a_body_that_is_not_ready_is_left_to_whoever_sends_it() {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let (first, rewind) = ReplayBody::new(body).rewindable(LIMIT);
    let reading = tokio::spawn(first.collect());
    tokio::task::yield_now().await;
    sender.send_data(Bytes::from_static(b"late")).await.unwrap();
    drop(sender);
    assert_eq!(reading.await.unwrap().unwrap().to_bytes(), "late");
    assert_eq!(rewind.rewind().unwrap().collect().await.unwrap().to_bytes(), "late");
}

#[tokio::test]
async fn a_body_that_panics_fails_and_is_not_sent_again() {
    thread_local!(static CALLS: Cell<usize> = const { Cell::new(0) });
    let panics = stream::poll_fn(|_| {
        CALLS.set(CALLS.get() + 1);
        match CALLS.get() {
            1 => Poll::Pending,
            2 => Poll::Ready(Some(Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"one"))))),
            _ => panic!("of the user's making"),
        }
    });
    let (mut first, rewind) = ReplayBody::new(StreamBody::new(panics)).rewindable(LIMIT);
    assert_eq!(next(&mut first), "one");
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll(&mut first)));
    assert!(unwound.is_err());
    assert_eq!(rewind.hold().unwrap_err(), CannotRewind::Failed);
    assert!(first.frame().await.unwrap().is_err(), "never taken for the end");
    assert!(first.frame().await.is_none());
}

#[tokio::test]
async fn data_that_is_not_bytes_is_made_bytes_once() {
    let steps =
        ["one", "two"].map(|text| Ok::<_, Infallible>(Frame::data(VecDeque::from(text.as_bytes().to_vec()))));
    let (first, rewind) = ReplayBody::new(StreamBody::new(stream::iter(steps))).rewindable(LIMIT);
    assert_eq!(first.collect().await.unwrap().to_bytes(), "onetwo");
    assert_eq!(rewind.rewind().unwrap().collect().await.unwrap().to_bytes(), "onetwo");
}

#[test]
fn an_endless_stream_is_kept_within_its_limit() {
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))).boxed();
    let (mut first, rewind) = ReplayBody::new(StreamBody::new(endless)).rewindable(LIMIT);
    (0..10 * LIMIT).for_each(|_| drop(next(&mut first)));
    assert!(matches!(first.kind, Kind::Stream(Stream::Alone(_))), "nothing is kept, and no lock is taken");
    assert_eq!(rewind.hold().unwrap_err(), CannotRewind::TooLarge);
}

/// If `bytes` comes to lay its `Bytes` out in another way, this may fail. Then nothing is lost but time.
#[test]
fn a_body_is_no_larger_than_its_content() {
    assert_eq!(size_of::<ReplayBody<Full<Bytes>>>(), size_of::<Bytes>());
}

#[test]
fn nothing_of_the_content_is_shown() {
    let (first, rewind) = stream([data("s3cret")]).rewindable(LIMIT);
    let memory = ReplayBody::new(Full::new(Bytes::from_static(b"s3cret")));
    assert!(!format!("{first:?} {rewind:?} {memory:?}").contains("s3cret"));
}
