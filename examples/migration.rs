//! A rehearsed migration: concurrent traffic over many bots while they move, one by one, from a personal account
//! to an enterprise, and back again. First through the layer, then the same through the recipe with two clients.
//!
//! ```text
//! cargo run --example migration --features simulator
//! cargo run --release --example migration --features simulator -- --seconds 12 --bots 100 --chart out.svg
//! ```

#[path = "migration/chart.rs"]
mod chart;
#[path = "migration/clients.rs"]
mod clients;
#[path = "migration/rehearsal.rs"]
mod rehearsal;
#[path = "migration/traffic.rs"]
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use tower_credential_fallback::BoxError;

use clients::{Layered, Recipe};
use rehearsal::{Phase, Report, Stage};

/// What can be set on the command line.
struct Options {
    bots: usize,
    seconds: u64,
    workers: usize,
    mixed_refusals: bool,
    chart: PathBuf,
}

const USAGE: &str = "\
options:
  --bots N           bots to talk to, each in a workspace of its own (default 1000)
  --seconds N        length of each of the two runs (default 24)
  --workers N        concurrent callers (default 16)
  --mixed-refusals   refuse with every code in turn, not only 4101; the recipe does not know them all
  --chart FILE       where the chart goes (default migration.svg)";

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            bots: 1_000,
            seconds: 24,
            workers: 16,
            mixed_refusals: false,
            chart: "migration.svg".into(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--mixed-refusals" {
                options.mixed_refusals = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name}: expected a value\n{USAGE}"))?;
            let number = || match value.parse::<u64>() {
                Ok(number @ 1..=1_000_000) => Ok(number),
                _ => Err(format!("{name}: expected a number from 1 to 1000000, not `{value}`")),
            };
            match name.as_str() {
                "--bots" => options.bots = number()? as usize,
                "--seconds" => options.seconds = number()?,
                "--workers" => options.workers = number()? as usize,
                "--chart" => options.chart = value.into(),
                _ => return Err(format!("{name}: no such option\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return Ok(ExitCode::from(2));
        }
    };
    let stage = Stage::set(&options).await?;
    let client = Layered::new(&stage)?;
    let handle = client.handle();
    let layered = rehearsal::run("one layer", &stage, client, &options).await?;
    let told = handle.report();
    let stage = Stage::set(&options).await?;
    let recipe = rehearsal::run("two clients", &stage, Recipe::new(&stage)?, &options).await?;

    println!("{}", table(&layered, &recipe));
    chart::draw(&options.chart, [("one layer", &layered), ("two clients", &recipe)])?;
    println!("answers by credential over time: {}\n", options.chart.display());
    println!("What the layer itself reports:\n{told}\n");
    let is_same = told.primary.attempts() + told.fallback.attempts() == layered.requests()
        && told.since_start().calls() == layered.calls();
    println!("Its numbers {} the simulator's.", if is_same { "equal" } else { "DIFFER from" });
    for failure in layered.failures.iter().chain(&recipe.failures) {
        println!("failed call: {failure}");
    }
    Ok(if layered.failed() == 0 && is_same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(layered: &Report, recipe: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "",
        "one layer (this crate)",
        "two clients (the recipe)",
    ]);
    let mut row = |name: &str, value: &dyn Fn(&Report) -> String| {
        table.add_row([name.to_owned(), value(layered), value(recipe)]);
    };
    row("calls", &|report| report.calls().to_string());
    row("failed calls", &|report| report.failed().to_string());
    for phase in Phase::ALL {
        row(&format!("upstream requests per call, {}", phase.name()), &|report| {
            format!("{:.3}", report.requests_per_call(phase))
        });
    }
    row("upstream requests per call, all in all", &|report| {
        format!("{:.3}", report.requests() as f64 / report.calls() as f64)
    });
    row("answers by the personal credential", &|report| report.by_primary.to_string());
    row("answers by the enterprise credential", &|report| report.by_fallback.to_string());
    row("tokens minted, personal + enterprise", &|report| {
        format!("{} + {}", report.minted.0, report.minted.1)
    });
    row("connections opened", &|report| report.connections.to_string());
    table
}
