//! The rehearsal: a stage with a Coze on it, five phases, and a report.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use indicatif::{ProgressBar, ProgressStyle};
use tower_credential_fallback::coze::simulator::{
    AccountId, Fault, OAuthApp, Refusal, Simulator, WorkspaceId,
};
use tower_credential_fallback::{BoxError, Slot};

use crate::Options;
use crate::clients::Caller;
use crate::traffic::Ask;

/// How often the chart gets a point.
const SAMPLE: Duration = Duration::from_millis(100);

/// How far away the simulated Coze is.
const LATENCY: Duration = Duration::from_millis(2);

/// A Coze with bots, and an app that both accounts have authorised.
pub(crate) struct Stage {
    pub(crate) simulator: Simulator,
    pub(crate) person: AccountId,
    pub(crate) enterprise: AccountId,
    pub(crate) app: OAuthApp,
    workspaces: Vec<WorkspaceId>,
    bots: Vec<String>,
}

impl Stage {
    pub(crate) async fn set(options: &Options) -> Result<Self, BoxError> {
        let simulator = Simulator::start().await?;
        let (person, enterprise) = (simulator.create_account(), simulator.create_enterprise());
        let app = simulator.create_oauth_app(&person)?;
        simulator.authorise_app(&app, &enterprise);
        let workspaces: Vec<_> = (0..options.bots).map(|_| simulator.create_workspace(&person)).collect();
        let bots = workspaces.iter().map(|workspace| simulator.create_bot(workspace)).collect();
        simulator.inject(Fault::latency(LATENCY));
        Ok(Self { simulator, person, enterprise, app, workspaces, bots })
    }

    /// Requests to the API: all but those for tokens.
    fn api_requests(&self) -> u64 {
        let minted = self.minted();
        self.simulator.request_count() - minted.0 - minted.1
    }

    fn minted(&self) -> (u64, u64) {
        (self.simulator.minted(&self.person), self.simulator.minted(&self.enterprise))
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    Before,
    There,
    After,
    Back,
    Again,
}

impl Phase {
    /// In order.
    pub(crate) const ALL: [Self; 5] = [Self::Before, Self::There, Self::After, Self::Back, Self::Again];

    /// Eighths of the time.
    fn share(self) -> u32 {
        match self {
            Self::Before | Self::Again => 1,
            Self::There | Self::After | Self::Back => 2,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Before => "before the move",
            Self::There => "during the move",
            Self::After => "after the move",
            Self::Back => "during the move back",
            Self::Again => "after the move back",
        }
    }
}

/// A point of the chart: answers within one sample.
pub(crate) struct Point {
    pub(crate) at: Duration,
    pub(crate) by_primary: u64,
    pub(crate) by_fallback: u64,
}

/// What was measured.
pub(crate) struct Report {
    /// Calls and upstream requests of each phase.
    phases: Vec<(Phase, u64, u64)>,
    pub(crate) by_primary: u64,
    pub(crate) by_fallback: u64,
    failed: u64,
    /// The first few, in words.
    pub(crate) failures: Vec<String>,
    pub(crate) minted: (u64, u64),
    pub(crate) connections: u64,
    pub(crate) points: Vec<Point>,
    /// When the moves began and ended, there and back.
    pub(crate) moves: Vec<(Duration, Duration)>,
}

impl Report {
    pub(crate) fn calls(&self) -> u64 {
        self.phases.iter().map(|(_, calls, _)| calls).sum()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.phases.iter().map(|(_, _, requests)| requests).sum()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    pub(crate) fn requests_per_call(&self, phase: Phase) -> f64 {
        let of_phase = self.phases.iter().find(|(known, ..)| *known == phase);
        of_phase.map_or(f64::NAN, |(_, calls, requests)| *requests as f64 / *calls as f64)
    }
}

/// Counted by the callers as they go.
#[derive(Default)]
struct Counts {
    next: AtomicUsize,
    /// The next bot of a round in which each is asked once. There is none going on if it is beyond the last.
    round: AtomicUsize,
    calls: AtomicU64,
    by_primary: AtomicU64,
    by_fallback: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Counts {
    fn answered(&self) -> (u64, u64) {
        (self.by_primary.load(Ordering::SeqCst), self.by_fallback.load(Ordering::SeqCst))
    }

    fn fail(&self, why: String) {
        self.failed.fetch_add(1, Ordering::SeqCst);
        let mut failures = self.failures.lock().expect("no holder panics");
        if failures.len() < 5 {
            failures.push(why);
        }
    }
}

/// Runs the phases. Between two of them every call has ended, so that each request belongs to one.
pub(crate) async fn run<C: Caller>(
    name: &str,
    stage: &Stage,
    caller: C,
    options: &Options,
) -> Result<Report, BoxError> {
    let counts = Arc::new(Counts::default());
    let eighth = Duration::from_secs(options.seconds) / 8;
    let bar = ProgressBar::new(options.seconds * 10)
        .with_style(ProgressStyle::with_template("{prefix:11} [{bar:30}] {elapsed_precise} {msg}")?);
    bar.set_prefix(name.to_owned());
    let started = Instant::now();
    let sampler = tokio::spawn(sample(Arc::clone(&counts), bar.clone(), started));
    let bots: Arc<[String]> = stage.bots.clone().into();

    let (mut phases, mut moves) = (Vec::new(), Vec::new());
    for phase in Phase::ALL {
        let length = eighth * phase.share();
        let (calls, requests) = (counts.calls.load(Ordering::SeqCst), stage.api_requests());
        let end = Instant::now() + length;
        // Each bot is known before it moves, and has been asked since when the move is over: "after the move" is about what
        // a moved bot costs from its second call on.
        if phase == Phase::Before {
            counts.round.store(0, Ordering::SeqCst);
        }
        let call = |_| {
            let (url, bots) = (stage.simulator.base_url().to_owned(), Arc::clone(&bots));
            tokio::spawn(keep_calling(caller.clone(), url, bots, Arc::clone(&counts), end))
        };
        let callers: Vec<_> = (0..options.workers).map(call).collect();
        let to = match phase {
            Phase::There => Some(&stage.enterprise),
            Phase::Back => Some(&stage.person),
            Phase::Before | Phase::After | Phase::Again => None,
        };
        if let Some(to) = to {
            let from = started.elapsed();
            move_all(stage, to, length, options.mixed_refusals).await;
            moves.push((from, started.elapsed()));
            counts.round.store(0, Ordering::SeqCst);
        }
        for caller in callers {
            caller.await?;
        }
        let calls = counts.calls.load(Ordering::SeqCst) - calls;
        phases.push((phase, calls, stage.api_requests() - requests));
    }
    counts.is_over.store(true, Ordering::SeqCst);
    let points = sampler.await?;
    bar.finish();
    let (by_primary, by_fallback) = counts.answered();
    println!("{name}: {} answers, {} failed", by_primary + by_fallback, counts.failed.load(Ordering::SeqCst));
    Ok(Report {
        phases,
        by_primary,
        by_fallback,
        failed: counts.failed.load(Ordering::SeqCst),
        failures: counts.failures.lock().expect("no holder panics").clone(),
        minted: stage.minted(),
        connections: stage.simulator.connection_count(),
        points,
        moves,
    })
}

/// Calls, one after the other, until the phase ends and each bot of a round has been asked.
async fn keep_calling<C: Caller>(
    caller: C,
    base_url: String,
    bots: Arc<[String]>,
    counts: Arc<Counts>,
    end: Instant,
) {
    while Instant::now() < end || counts.round.load(Ordering::SeqCst) < bots.len() {
        let nth = counts.next.fetch_add(1, Ordering::SeqCst);
        let text = format!("call {nth}");
        let (ask, bot) = match bots.get(counts.round.fetch_add(1, Ordering::SeqCst)) {
            Some(bot) => (Ask::Chat, bot),
            // Any bot, but the same for the nth call of each run.
            None => (Ask::nth(nth), &bots[fastrand::Rng::with_seed(nth as u64).usize(..bots.len())]),
        };
        let asked = async {
            let first = call(&caller, &counts, ask.request(&base_url, bot, &text)?).await?;
            ask.check(&first, bot, &text)?;
            let mut polls = 0;
            while let Some(request) = ask.follow_up(&base_url, &first, polls) {
                ask.check_follow_up(&call(&caller, &counts, request?).await?, polls, &text)?;
                polls += 1;
            }
            Ok::<_, BoxError>(())
        };
        if let Err(error) = asked.await {
            counts.fail(error.to_string());
        }
    }
}

/// Makes one call and counts it.
async fn call<C: Caller>(
    caller: &C,
    counts: &Counts,
    request: Request<Full<Bytes>>,
) -> Result<Bytes, BoxError> {
    counts.calls.fetch_add(1, Ordering::SeqCst);
    let answer = caller.call(request).await?;
    let by = match answer.slot {
        Slot::Primary => &counts.by_primary,
        Slot::Fallback => &counts.by_fallback,
    };
    by.fetch_add(1, Ordering::SeqCst);
    Ok(answer.body)
}

/// Moves the workspaces one by one, spread over nine tenths of the phase.
async fn move_all(stage: &Stage, to: &AccountId, length: Duration, mixed_refusals: bool) {
    let shapes = [(200, 4101), (401, 4100), (401, 700_012_006), (200, 4200)];
    // The timer is not as fine as the pauses would have to be.
    let (started, length) = (Instant::now(), length.mul_f64(0.9));
    let each = stage.workspaces.iter().zip(shapes.into_iter().cycle()).enumerate();
    for (nth, (workspace, (status, code))) in each {
        tokio::time::sleep_until((started + length / stage.workspaces.len() as u32 * nth as u32).into())
            .await;
        if mixed_refusals {
            stage.simulator.set_refusal(Some(Refusal::json(status, code)));
        }
        stage.simulator.move_workspace(workspace, to);
    }
}

/// Takes a point of the chart at each tick, and keeps the bar up to date.
async fn sample(counts: Arc<Counts>, bar: ProgressBar, started: Instant) -> Vec<Point> {
    let mut ticks = tokio::time::interval(SAMPLE);
    let (mut points, mut last) = (Vec::new(), (0, 0));
    while !counts.is_over.load(Ordering::SeqCst) {
        ticks.tick().await;
        let now = counts.answered();
        points.push(Point { at: started.elapsed(), by_primary: now.0 - last.0, by_fallback: now.1 - last.1 });
        last = now;
        bar.inc(1);
        let failed = counts.failed.load(Ordering::SeqCst);
        bar.set_message(format!("{} personal, {} enterprise, {failed} failed", now.0, now.1));
    }
    points
}
