//! Bodies that follow a script, and the answers that the server may give, each with the verdict that the documentation
//! promises for it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::StatusCode;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};
use tower_credential_fallback::{BoxError, Rejection, RejectionKind, Verdict};

/// The layer's inspect limit in this world, in bytes: its default.
pub(crate) const INSPECT_LIMIT: usize = 8 * 1024;

/// One frame, or the error that ends the body, after a wait.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) wait: Duration,
    /// `None`: the body fails.
    pub(crate) data: Option<Bytes>,
}

impl Step {
    pub(crate) fn new(wait: Duration, data: impl Into<Bytes>) -> Self {
        Self { wait, data: Some(data.into()) }
    }

    pub(crate) fn error(wait: Duration) -> Self {
        Self { wait, data: None }
    }
}

/// All data in these steps.
pub(crate) fn content(steps: &[Step]) -> Vec<u8> {
    let frames: Vec<&[u8]> = steps.iter().filter_map(|step| step.data.as_deref()).collect();
    frames.concat()
}

/// A body of either direction.
pub(crate) struct ScriptBody {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// How many steps have been polled out.
    told: Arc<AtomicUsize>,
}

impl ScriptBody {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>, told: Arc<AtomicUsize>) -> Self {
        Self { steps: steps.into_iter().collect(), sleep: None, told }
    }
}

impl Body for ScriptBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(step) = self.steps.front() else { return Poll::Ready(None) };
        let wait = step.wait;
        if !wait.is_zero() {
            ready!(self.sleep.get_or_insert_with(|| Box::pin(sleep(wait))).as_mut().poll(cx));
            self.sleep = None;
        }
        self.told.fetch_add(1, Ordering::Relaxed);
        let data = self.steps.pop_front().and_then(|step| step.data);
        Poll::Ready(Some(data.map(Frame::data).ok_or_else(|| "the body broke off".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }
}

/// An answer, and what it says of the credential.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) steps: Vec<Step>,
    pub(crate) verdict: Verdict,
    pub(crate) decided: Decided,
}

/// When the verdict can be known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decided {
    Head,
    /// When so many steps of the body have come.
    Steps(usize),
    /// When `patience()` is over.
    Patience,
}

/// How the body of a JSON answer comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    AtOnce,
    /// In pieces cut anywhere, slowly, but within `patience()`.
    Pieces,
    /// The code is the last of several KiB.
    BehindData,
    /// The code is behind the inspect limit.
    BeyondLimit,
    /// The code comes when `patience()` is over.
    SlowBefore,
    /// The body fails before the code.
    CutBefore,
    /// The rest comes long after the code.
    SlowAfter,
    /// The body fails a while after the code.
    CutAfter,
    /// The body fails together with the code.
    CutWith,
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn rejected(kind: RejectionKind, status: u16) -> Verdict {
    Verdict::Rejected(Rejection::new(kind, StatusCode::from_u16(status).unwrap()))
}

/// An answer that is no JSON: the status decides, with the `headers`.
fn plain(rng: &mut Rng, status: u16, headers: &[(&'static str, &'static str)]) -> Reply {
    let verdict = match status {
        200..300 | 304 => Verdict::Accepted,
        401 => rejected(RejectionKind::Unauthenticated, 401),
        403 if headers.iter().any(|(_, value)| matches!(*value, "0" | "1")) => Verdict::Inconclusive,
        403 => rejected(RejectionKind::Forbidden, 403),
        _ => Verdict::Inconclusive,
    };
    let mut steps = Vec::new();
    if !matches!(status, 204 | 304) {
        steps.push(Step::new(millis(0), "some"));
        match rng.u8(..20) {
            0 => steps.push(Step::new(millis(2_000), " text")),
            1 => steps.push(Step::error(millis(5))),
            2 => steps.push(Step::error(millis(0))),
            _ => {}
        }
    }
    Reply { status, headers: headers.to_vec(), steps, verdict, decided: Decided::Head }
}

/// What the status says where there is no code, or a code of success.
fn by_status(status: u16) -> Verdict {
    match status {
        200 => Verdict::Accepted,
        401 => rejected(RejectionKind::Unauthenticated, 401),
        403 => rejected(RejectionKind::Forbidden, 403),
        _ => Verdict::Inconclusive,
    }
}

fn by_code(status: u16, code: i64) -> Verdict {
    let kind = match code {
        0 => return by_status(status),
        4100 => RejectionKind::Unauthenticated,
        4101 => RejectionKind::Forbidden,
        4200 => RejectionKind::NotFound,
        _ => return Verdict::Inconclusive,
    };
    Verdict::Rejected(Rejection::new(kind, StatusCode::from_u16(status).unwrap()).with_code(code))
}

/// A JSON answer with a code.
fn json(rng: &mut Rng, status: u16, code: i64, form: Form) -> Reply {
    use Form::*;
    let whole = match form {
        BehindData => format!(r#"{{"data":"{}","code":{code}}}"#, "x".repeat(rng.usize(3_000..8_000))),
        BeyondLimit => format!(r#"{{"data":"{}","code":{code}}}"#, "x".repeat(2 * INSPECT_LIMIT)),
        SlowBefore | CutBefore => format!(r#"{{"data":"some","code":{code}}}"#),
        _ => format!(r#"{{"code":{code},"msg":"some text"}}"#),
    };
    // The code has ended with the byte behind it.
    let end = whole.find("code").unwrap() + 6 + code.to_string().len() + 1;
    let mut cuts: Vec<(usize, u64)> = match form {
        AtOnce | CutWith => Vec::new(),
        Pieces => (0..rng.usize(1..5)).map(|_| (rng.usize(1..whole.len()), rng.u64(0..150))).collect(),
        BehindData | BeyondLimit => (0..rng.usize(0..4)).map(|_| (rng.usize(1..whole.len()), 0)).collect(),
        SlowBefore => vec![(rng.usize(0..end), rng.u64(1_100..4_000))],
        CutBefore => vec![(rng.usize(0..end - 1), 0)],
        SlowAfter => vec![(end, rng.u64(1..4_000))],
        CutAfter => vec![(end, 10)],
    };
    cuts.sort_unstable();
    let (mut steps, mut from, mut wait) = (Vec::new(), 0, 0);
    for (cut, pause) in cuts {
        steps.push(Step::new(millis(wait), whole[from..cut].to_owned()));
        (from, wait) = (cut, pause);
    }
    steps.push(match form {
        CutBefore | CutAfter => Step::error(millis(wait)),
        _ => Step::new(millis(wait), whole[from..].to_owned()),
    });
    if form == CutWith {
        steps.push(Step::error(millis(0)));
    }
    let no_proof = |verdict| if verdict == Verdict::Accepted { Verdict::Inconclusive } else { verdict };
    let (verdict, decided) = match form {
        AtOnce | Pieces | BehindData | SlowAfter | CutAfter | CutWith => {
            (by_code(status, code), Decided::Steps(steps_until(&steps, end)))
        }
        BeyondLimit => (by_status(status), Decided::Steps(steps_until(&steps, INSPECT_LIMIT))),
        SlowBefore => (no_proof(by_status(status)), Decided::Patience),
        CutBefore => (no_proof(by_status(status)), Decided::Steps(steps.len())),
    };
    let types = ["application/json", "application/json; charset=utf-8", "application/problem+json"];
    let headers = vec![("content-type", types[rng.usize(..types.len())])];
    Reply { status, headers, steps, verdict, decided }
}

/// How many steps bring so many bytes.
fn steps_until(steps: &[Step], bytes: usize) -> usize {
    let sums = steps.iter().scan(0, |sum, step| {
        *sum += step.data.as_ref().map_or(0, Bytes::len);
        Some(*sum)
    });
    1 + sums.take_while(|sum| *sum < bytes).count()
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

/// The credential serves the request.
pub(crate) fn success(rng: &mut Rng) -> Reply {
    use Form::*;
    match rng.u8(..10) {
        0..5 => {
            let status = pick(rng, &[200, 200, 200, 201, 204, 304]);
            plain(rng, status, &[])
        }
        _ => {
            let form =
                pick(rng, &[AtOnce, AtOnce, Pieces, BehindData, BeyondLimit, SlowAfter, CutAfter, CutWith]);
            json(rng, 200, 0, form)
        }
    }
}

/// The server rejects the credential.
pub(crate) fn rejection(rng: &mut Rng) -> Reply {
    use Form::*;
    match rng.u8(..10) {
        0..2 => plain(rng, 401, &[]),
        2..4 => plain(rng, 403, &[]),
        4 => plain(rng, 403, &[("x-ratelimit-remaining", "7")]),
        5 => {
            let form = pick(rng, &[AtOnce, SlowBefore, CutBefore, CutWith]);
            json(rng, 401, 0, form)
        }
        _ => {
            let form = pick(rng, &[AtOnce, Pieces, BehindData, SlowAfter, CutAfter, CutWith]);
            let (status, code) =
                pick(rng, &[(200, 4101), (200, 4101), (401, 4100), (200, 4200), (404, 4101)]);
            json(rng, status, code, form)
        }
    }
}

/// The answer says nothing of the credential.
pub(crate) fn inconclusive(rng: &mut Rng) -> Reply {
    use Form::*;
    match rng.u8(..10) {
        0..4 => {
            let status = pick(rng, &[302, 400, 404, 409, 410, 422, 429, 500, 502, 503, 504]);
            plain(rng, status, &[])
        }
        4 => plain(rng, 403, &[("retry-after", "1")]),
        5 => plain(rng, 403, &[("x-ratelimit-remaining", "0")]),
        6 => {
            let form = pick(rng, &[SlowBefore, CutBefore]);
            json(rng, 200, 0, form)
        }
        _ => {
            let form = pick(rng, &[AtOnce, Pieces, BehindData, SlowAfter, CutAfter, CutWith]);
            let code = pick(rng, &[4000, 4009, 5000]);
            let status = pick(rng, &[200, 200, 200, 401]);
            json(rng, status, code, form)
        }
    }
}
