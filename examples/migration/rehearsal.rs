//! The rehearsal: a stage with a Coze on it, three phases, and a report.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tower_credential_fallback::coze::simulator::{AccountId, Fault, OAuthApp, Refusal, Simulator, WorkspaceId};
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
        let workspaces: Vec<_> = (0..options.workspaces).map(|_| simulator.create_workspace(&person)).collect();
        let in_turn = workspaces.iter().cycle().take(options.bots);
        let bots = in_turn.map(|workspace| simulator.create_bot(workspace)).collect();
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
    During,
    After,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Before => "before the move",
            Self::During => "during the move",
            Self::After => "after the move",
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
    /// When the moves began and ended.
    pub(crate) moves: (Duration, Duration),
}

impl Report {
    pub(crate) fn calls(&self) -> u64 {
        self.phases.iter().map(|(_, calls, _)| calls).sum()
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
    by_primary: AtomicU64,
    by_fallback: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
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

/// Runs the three phases, a quarter, a half and a quarter of the time. Between two phases every call has
/// ended, so that each request belongs to one.
pub(crate) async fn run<C: Caller>(
    name: &str,
    stage: &Stage,
    caller: C,
    options: &Options,
) -> Result<Report, BoxError> {
    let counts = Arc::new(Counts::default());
    let quarter = Duration::from_secs(options.seconds) / 4;
    let bar = ProgressBar::new(options.seconds * 10).with_style(ProgressStyle::with_template(
        "{prefix:11} [{bar:30}] {elapsed_precise} {msg}",
    )?);
    bar.set_prefix(name.to_owned());
    let started = Instant::now();
    let sampler = tokio::spawn(sample(Arc::clone(&counts), bar.clone(), started));

    let (mut phases, mut moves) = (Vec::new(), (Duration::ZERO, Duration::ZERO));
    for (phase, length) in [(Phase::Before, quarter), (Phase::During, 2 * quarter), (Phase::After, quarter)] {
        let (calls, requests) = (counts.next.load(Ordering::SeqCst), stage.api_requests());
        let end = Instant::now() + length;
        let callers: Vec<_> = (0..options.workers)
            .map(|_| tokio::spawn(keep_calling(stage_of(stage), caller.clone(), Arc::clone(&counts), end)))
            .collect();
        if phase == Phase::During {
            moves.0 = started.elapsed();
            move_all(stage, length, options.mixed_refusals).await;
            moves.1 = started.elapsed();
        }
        for caller in callers {
            caller.await?;
        }
        let calls = counts.next.load(Ordering::SeqCst) - calls;
        phases.push((phase, calls as u64, stage.api_requests() - requests));
    }
    sampler.abort();
    let points = sampler.await.err().map_or_else(Vec::new, |_| Vec::new());
    drop(points);
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
        points: Vec::new(),
        moves,
    })
}
