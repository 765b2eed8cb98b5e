//! Gathers what the other benchmarks have measured, counts allocations, and writes `benches/README.md` and its
//! chart. `benches/run` runs all of them, and this last.

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use common::{CALLS, CASES, Case, Way, request, run};
use plotters::prelude::*;
use serde_json::Value;

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// Medians in nanoseconds, by group and function.
type Times = BTreeMap<(String, String), f64>;

const KEYS: [&str; 4] = ["bare", "ours", "retry", "recipe"];

fn main() -> Result<(), Box<dyn Error>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
    let times = criterion_times(&target.join("criterion"))?;
    let instructions = instructions(target)?;
    let allocations = allocations();
    let result = |name: &str| -> Result<Value, Box<dyn Error>> {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("results/{name}.json"));
        Ok(serde_json::from_str(
            &fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?,
        )?)
    };
    let (token, loopback) = (result("token")?, result("loopback")?);

    let mut page = include_str!("report/head.md")
        .replace("CONDITIONS", &conditions()?)
        .replace("ANSWER", &common::ACCEPTED.len().to_string())
        .replace("CALLS", &CALLS.to_string());
    hot_path(&mut page, &times, &instructions, &allocations)?;
    budget(&mut page, &instructions, &allocations, &token, &loopback)?;
    replay(&mut page, &times)?;
    token_reads(&mut page, &token)?;
    loopback_tables(&mut page, &loopback)?;
    page.push_str(include_str!("report/tail.md"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    chart(&folder.join("hot_path.svg"), &instructions)?;
    fs::write(folder.join("README.md"), &page)?;
    println!("{page}");
    Ok(())
}

/// Of the machine that it runs on.
fn conditions() -> Result<String, Box<dyn Error>> {
    let compiler = std::process::Command::new("rustc").arg("--version").output()?;
    let compiler = String::from_utf8(compiler.stdout)?;
    let version = compiler.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores, {} on {}, {version}", std::env::consts::OS, std::env::consts::ARCH))
}

fn criterion_times(folder: &Path) -> Result<Times, Box<dyn Error>> {
    let mut times = Times::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        folders.extend(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()));
        let read = |name: &str| -> Option<Value> {
            serde_json::from_str(&fs::read_to_string(folder.join(name)).ok()?).ok()
        };
        if !folder.ends_with("new") {
            continue;
        }
        if let (Some(id), Some(estimates)) = (read("benchmark.json"), read("estimates.json")) {
            let text = |field: &str| id[field].as_str().unwrap_or_default().to_owned();
            let median = estimates["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN);
            times.insert((text("group_id"), text("function_id")), median);
        }
    }
    if times.is_empty() { Err("no results of criterion: run benches/run".into()) } else { Ok(times) }
}

/// Instructions of one call.
#[derive(Clone, Copy)]
struct Count {
    all: u64,
    /// Of them, in the allocator.
    allocator: u64,
}

/// By way and case.
type Counts = BTreeMap<(usize, usize), Count>;

fn instructions(target: &Path) -> Result<Counts, Box<dyn Error>> {
    let mut counts = BTreeMap::new();
    for (way, key) in KEYS.iter().enumerate() {
        for case in 0..CASES.len() {
            let name = format!("call.{key}_{case}");
            let file: PathBuf = target
                .join("gungraun/tower-credential-fallback/instructions/calls")
                .join(&name)
                .join(format!("callgrind.{name}.out"));
            let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            counts.insert((way, case), count(&text).ok_or("no totals in callgrind's output")?);
        }
    }
    Ok(counts)
}

/// Reads callgrind's output: its total, and the lines that stand under the allocator's sources.
fn count(output: &str) -> Option<Count> {
    let total =
        output.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    let (mut allocator, mut is_allocator, mut is_call) = (0, false, false);
    for line in output.lines() {
        if let Some(file) = ["fl=", "fi=", "fe="].iter().find_map(|key| line.strip_prefix(key)) {
            is_allocator = file.contains("malloc/");
        } else if line.starts_with("calls=") {
            // The next line's costs are the callee's.
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '*'))
            && !std::mem::take(&mut is_call)
            && is_allocator
        {
            // A position, then the instructions.
            allocator += line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        }
    }
    let all = total.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(Count { all: all / CALLS, allocator: allocator / CALLS })
}

/// Blocks for each way and case, of a client that has been used before.
fn allocations() -> BTreeMap<(usize, usize), u64> {
    let _profiler = dhat::Profiler::builder().testing().build();
    let count = |way: Way, case: Case| {
        let mut run = run(way, case);
        (0..3).for_each(|_| run(request(case)));
        let request = request(case);
        let before = dhat::HeapStats::get().total_blocks;
        run(request);
        dhat::HeapStats::get().total_blocks - before
    };
    let ways = Way::ALL.into_iter().enumerate();
    ways.flat_map(|(nth, way)| {
        CASES.into_iter().enumerate().map(move |(case, what)| ((nth, case), count(way, what)))
    })
    .collect()
}

fn hot_path(
    page: &mut String,
    times: &Times,
    instructions: &Counts,
    allocations: &BTreeMap<(usize, usize), u64>,
) -> std::fmt::Result {
    writeln!(page, "## Hot path: one call\n\nRatios of time are to the bare client of the same row.\n")?;
    writeln!(page, "| | | bare | ours | tower::retry | recipe |\n| --- | --- | ---: | ---: | ---: | ---: |")?;
    for (nth, case) in CASES.iter().enumerate() {
        let group = format!("hot_path/{}", case.name);
        let time = |way: Way| times.get(&(group.clone(), way.name().to_owned())).copied().unwrap_or(f64::NAN);
        let ratios = Way::ALL.map(|way| format!("{:.2}", time(way) / time(Way::Bare)));
        let counts = [0, 1, 2, 3].map(|way| instructions[&(way, nth)]);
        let added = |part: fn(&Count) -> u64| {
            counts.each_ref().map(|count| format!("{:+}", part(count) as i64 - part(&counts[0]) as i64))
        };
        let (mut all, mut allocator) = (added(|count| count.all), added(|count| count.allocator));
        (all[0], allocator[0]) = (counts[0].all.to_string(), counts[0].allocator.to_string());
        let blocks = [0, 1, 2, 3].map(|way| allocations[&(way, nth)].to_string());
        writeln!(page, "| {} | time | {} |", case.name, ratios.join(" | "))?;
        writeln!(page, "| | instructions | {} |", all.join(" | "))?;
        writeln!(page, "| | … in the allocator | {} |", allocator.join(" | "))?;
        writeln!(page, "| | allocations | {} |", blocks.join(" | "))?;
    }
    writeln!(page, "\n![Instructions added to a call](hot_path.svg)\n")
}

/// What the design asks for, and what there is. Nothing is left out because it falls short.
fn budget(
    page: &mut String,
    instructions: &Counts,
    allocations: &BTreeMap<(usize, usize), u64>,
    token: &Value,
    loopback: &Value,
) -> std::fmt::Result {
    // "4 KiB, JSON", with the code behind the data and before it: the worse of the two counts.
    let all = |way: usize, case: usize| instructions[&(way, case)].all as f64;
    let added = |way: usize, case: usize| all(way, case) - all(0, case);
    let share =
        |way: usize| [1, 2].map(|case| added(1, case) / added(way, case)).into_iter().fold(0.0, f64::max);
    let of_loopback = |phase: &str, way: &str, field: &str| {
        let row = rows(loopback, phase).iter().find(|row| row["way"] == way);
        row.and_then(|row| row[field].as_f64()).unwrap_or(f64::NAN)
    };
    let rate = |phase: &str, way: &str| of_loopback(phase, way, "per_second");
    let read = |nth: usize| token["reads"][nth]["ours"].as_f64().unwrap_or(f64::NAN);
    let more = allocations[&(1, 1)].saturating_sub(allocations[&(0, 1)]) as f64;
    let asked = [
        ("allocations more than bare", 1.0, more, false),
        ("instructions added, of those that tower::retry adds", 0.4, share(2), false),
        ("instructions added, of those that the recipe adds", 0.15, share(3), false),
        ("a cache read by 64 tasks, of one by 1", 1.25, read(2) / read(0), false),
        (
            "cold start: wait beyond the mint, ms",
            5.0,
            token["cold"]["beyond_ms"].as_f64().unwrap_or(f64::NAN),
            false,
        ),
        ("cold start: mints", 1.0, token["cold"]["mints"].as_f64().unwrap_or(f64::NAN), false),
        ("calls per second before the move, of bare", 0.97, rate("before", "hyper: ours"), true),
        (
            "calls per second after the move, of the recipe",
            1.8,
            rate("after", "hyper: ours") / rate("after", "hyper: recipe"),
            true,
        ),
    ];
    writeln!(
        page,
        "## Budget\n\nOf the success path with 4 KiB in memory, 7 dynamic headers and a JSON answer that is inspected.\n"
    )?;
    writeln!(page, "| | asked for | there is | |\n| --- | ---: | ---: | --- |")?;
    for (what, limit, value, is_floor) in asked {
        let holds = if is_floor { value >= limit } else { value <= limit };
        let (sign, verdict) =
            (if is_floor { "≥" } else { "≤" }, if holds { "holds" } else { "**falls short**" });
        writeln!(page, "| {what} | {sign} {limit} | {value:.3} | {verdict} |")?;
    }
    writeln!(
        page,
        "\nBefore the move, the standard error is {:.3}: what is nearer than that to the goal, either side of it, another run may see on the other.\n",
        of_loopback("before", "hyper: ours", "error")
    )
}

fn replay(page: &mut String, times: &Times) -> std::fmt::Result {
    const WAYS: [&str; 6] = [
        "once: bare",
        "once: ours, accepted at once",
        "once: ours, kept",
        "once: shared_http_body",
        "twice: ours",
        "twice: shared_http_body",
    ];
    writeln!(
        page,
        "## Replay: a stream of frames of 4 KiB\n\nTime, in ratio to reading the bare stream once.\n"
    )?;
    writeln!(page, "| frames | {} |\n| ---: {}|", WAYS.join(" | "), "| ---: ".repeat(WAYS.len()))?;
    for frames in [1, 16, 1_000] {
        let time = |way: &str| {
            times.get(&(format!("replay/{frames} frames"), way.to_owned())).copied().unwrap_or(f64::NAN)
        };
        let ratios = WAYS.map(|way| format!("{:.2}", time(way) / time(WAYS[0])));
        writeln!(page, "| {frames} | {} |", ratios.join(" | "))?;
    }
    writeln!(page)
}

fn token_reads(page: &mut String, token: &Value) -> std::fmt::Result {
    writeln!(page, "## Token cache: time of a read, in ratio to ours by 1 task\n")?;
    writeln!(page, "| tasks | ours | `RwLock` | `Mutex` |\n| ---: | ---: | ---: | ---: |")?;
    let reads = token["reads"].as_array().map(Vec::as_slice).unwrap_or_default();
    let alone = reads.first().and_then(|row| row["ours"].as_f64()).unwrap_or(f64::NAN);
    for row in reads {
        let ratio = |way: &str| row[way].as_f64().unwrap_or(f64::NAN) / alone;
        writeln!(
            page,
            "| {} | {:.2} | {:.2} | {:.2} |",
            row["tasks"],
            ratio("ours"),
            ratio("rwlock"),
            ratio("mutex")
        )?;
    }
    writeln!(
        page,
        "\nCold start: {} calls at once, {} mint, none waited longer than the mint itself plus {:.1} ms.\n",
        token["cold"]["calls"],
        token["cold"]["mints"],
        token["cold"]["beyond_ms"].as_f64().unwrap_or(f64::NAN)
    )
}

/// What was measured in a phase, a row for each way.
fn rows<'v>(loopback: &'v Value, phase: &str) -> &'v [Value] {
    loopback[phase].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn loopback_tables(page: &mut String, loopback: &Value) -> std::fmt::Result {
    writeln!(
        page,
        "## Loopback: real clients and a real server\n\n{} callers, bodies of {} bytes, HTTP/1.1; {} bots, of which each call asks one. Rates and latencies are in ratio to the bare client of the same kind and phase, whose calls are refused for what has moved. Everything is a median of {} processes; *least – most* is what single ones saw of the rate. There are two bare clients of hyper, whose mean all others are compared with: what differs between these two is noise.\n",
        loopback["callers"], loopback["body"], loopback["bots"], loopback["processes"]
    )?;
    for (phase, title) in
        [("before", "Before the move"), ("during", "During the move"), ("after", "After the move")]
    {
        writeln!(
            page,
            "| {title} | calls per second | least – most | median latency | 99 % | requests per call | calls accepted |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for row in rows(loopback, phase) {
            let number = |field: &str| row[field].as_f64().unwrap_or(f64::NAN);
            writeln!(
                page,
                "| {} | {:.3} | {:.3} – {:.3} | {:.2} | {:.2} | {:.2} | {:.2} |",
                row["way"].as_str().unwrap_or_default(),
                number("per_second"),
                number("least"),
                number("most"),
                number("latency_50"),
                number("latency_99"),
                number("requests_per_call"),
                number("accepted")
            )?;
        }
        writeln!(page)?;
    }
    Ok(())
}

/// Instructions added, as bars: ours, `tower::retry` and the recipe for each case.
fn chart(file: &Path, instructions: &Counts) -> Result<(), Box<dyn Error>> {
    const COLOURS: [RGBColor; 3] = [RGBColor(31, 119, 180), RGBColor(255, 127, 14), RGBColor(150, 150, 150)];
    let all = |way: usize, case: usize| instructions[&(way, case)].all;
    let added = |way: usize, case: usize| all(way, case).saturating_sub(all(0, case));
    let most = (1..4).flat_map(|way| (0..CASES.len()).map(move |case| added(way, case))).max().unwrap_or(1);
    let area = SVGBackend::new(file, (1080, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Instructions added to a call, beside the bare client's", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..CASES.len() as f64, 0..most + most / 10)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(CASES.len() * 2 + 1)
        .x_label_formatter(&|x| match (x.fract() * 10.0).round() as usize {
            5 => CASES.get(*x as usize).map_or_else(String::new, |case| case.name.to_owned()),
            _ => String::new(),
        })
        .draw()?;
    for way in 1..4 {
        let colour = COLOURS[way - 1];
        let bars = (0..CASES.len()).map(|case| {
            let left = case as f64 + 0.14 + 0.24 * (way - 1) as f64;
            Rectangle::new([(left, 0), (left + 0.22, added(way, case))], colour.filled())
        });
        chart
            .draw_series(bars)?
            .label(Way::ALL[way].name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
