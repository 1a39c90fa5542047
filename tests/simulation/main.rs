//! The seeded simulator: the real engine over ports in memory, in virtual time, with faults.
//!
//! ```text
//! seed ──> plan ──> run: workers over ports with weather, faults by the clock ──> oracle
//! ```
//!
//! `LONGSHORE_SEED=123 cargo test --features testing --test simulation` replays one seed;
//! `LONGSHORE_SEEDS=N` runs that many and `LONGSHORE_MINUTES=N` for so long, `LONGSHORE_FIRST_SEED=N`
//! says with which to begin, and `LONGSHORE_FAILURES=N` after how many failures to stop.
//! `LONGSHORE_TRACE_LINES=N` shows that much of the trace. `LONGSHORE_IMPATIENT=1` waits two hours of
//! virtual time, not twelve, for an event that ends every process: where nothing finds it, twelve
//! are minutes for each seed.

#![allow(missing_docs, unreachable_pub)]

mod deferral;
mod families;
mod fleet;
mod foreign;
mod handler;
mod lanes;
mod lease_port;
mod operator;
mod oracle;
mod outage;
mod parking;
mod plan;
mod ports;
mod requests;
mod results;
mod run;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plan::Plan;
use run::{Report, run};
use world::KEPT_LINES;

/// Seeds of a test run that is told nothing else.
const DEFAULT_SEEDS: u64 = 3_000;

/// From this many seeds on, a run must have had enough of everything.
const ENOUGH_SEEDS: u64 = 3_000;

/// What a run of many seeds must have seen.
const EXPECTED: &[&str] = &[
    "checkpoint overwritten",
    "checkpoint reset",
    "crash",
    "cut from the broker",
    "cut from the store",
    "cut off for good",
    "paused",
    "died",
    "died of an event",
    "deadly event accused",
    "dead letter",
    "conflict",
    "lease conflict",
    "exit: drain cut",
    "exit: drained",
    "exit: lease lost",
    "exit: lost at the broker",
    "exit: refused for good",
    "exit: superseded",
    "foreign owner",
    "handled by a foreign owner",
    "hub recreated",
    "lease claimed",
    "lease given",
    "lease released",
    "lease taken",
    "lease taken by a foreign owner",
    "lease taken from a foreign owner",
    "links ended",
    "links hung",
    "log trimmed",
    "opens fail",
    "reads fail",
    "repeat: by an owner that is cut off",
    "repeat: crash or steal",
    "restart",
    "settled by an owner from before a reset",
    "sink down",
    "stores fail",
    "stores hang",
    "worker added",
    "worker leaves",
    "worker comes and dies",
    "fell asleep in a claim",
    "conflict of claims with one epoch",
    "hand-off called back",
    "settler that speaks early",
    "settler that speaks late",
    "settler dropped",
    "two settlers of an event",
    "settler of an event that its handler ends",
    "settled when the ownership had ended",
    "exit: aborted",
    "too few outcomes",
    "claim",
    "dead letter of an event that cannot be read",
    "dead letter that names a range",
    "row of more than half of the prefetch",
    "repeat: within a range above the checkpoint",
    "lane closed",
    "lane opened",
    "lanes capped anew",
    "lane full",
    "lane function panicked",
    "order within a lane judged",
    "closing of a lane asked for",
    "dead letter after a call that was no attempt",
    "put back",
    "lanes timed",
    "result acknowledged",
    "answer to a result lost",
    "parked",
    "came back from the store",
    "repeat: its record was left",
    "result too large",
    "letter replayed",
    "replay killed",
    "replay: done",
    "replay: failed again",
];

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} = {value} is not a number")))
}

fn run_seed(seed: u64, pulse: &Arc<AtomicU64>) -> Report {
    let lines = variable("LONGSHORE_TRACE_LINES").and_then(|lines| lines.try_into().ok());
    run(Plan::new(seed), lines.unwrap_or(KEPT_LINES), pulse)
}

/// A run that panics has failed, and others go on.
fn run_guarded(seed: u64, watched: &Watched) -> Summary {
    *watched.seed.lock().expect("lock") = Some(seed);
    let ran = catch_unwind(|| run_seed(seed, &watched.pulse));
    *watched.seed.lock().expect("lock") = None;
    match ran {
        Ok(report) => Summary::of(report),
        Err(_) => Summary {
            seeds: 1,
            failed: vec![(seed, "it panicked".to_owned())],
            ..Summary::default()
        },
    }
}

/// What a thread is at.
#[derive(Default)]
struct Watched {
    seed: Mutex<Option<u64>>,
    pulse: Arc<AtomicU64>,
}

/// How long virtual time may stand still while a seed runs.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// Ends the process where virtual time stands still: whatever spins cannot be stopped from outside.
fn watch(threads: &[Watched], is_over: &AtomicBool, failed: &Mutex<Vec<(u64, String)>>) {
    let begun = Instant::now();
    let mut beats: Vec<(Option<u64>, u64, Instant)> = vec![(None, 0, begun); threads.len()];
    while !is_over.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
        for (watched, last) in threads.iter().zip(&mut beats) {
            let now = (*watched.seed.lock().expect("lock"), watched.pulse.load(Relaxed));
            if (last.0, last.1) != now {
                *last = (now.0, now.1, Instant::now());
            } else if let Some(seed) = now.0
                && last.2.elapsed() > STANDS_STILL
            {
                let mut failed = std::mem::take(&mut *failed.lock().expect("lock"));
                failed.push((seed, "virtual time stands still: something spins".to_owned()));
                failed.sort();
                let seeds: Vec<_> = failed.iter().map(|(seed, _)| seed.to_string()).collect();
                println!("failing seeds: {}", seeds.join(" "));
                println!("{} seeds in {:?}", seed + 1, begun.elapsed());
                failed.iter().for_each(|(seed, violation)| {
                    println!("seed {seed}: {violation:.300}");
                });
                std::process::exit(101);
            }
        }
    }
}

/// What several runs came to.
#[derive(Default)]
struct Summary {
    seeds: u64,
    events: usize,
    calls: u64,
    faults: usize,
    seen: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, String)>,
}

impl Summary {
    fn of(report: Report) -> Self {
        let failed = report.violations.first().map(|first| (report.plan.seed, first.clone()));
        Self {
            seeds: 1,
            events: report.events,
            calls: report.calls,
            faults: report.plan.faults.len(),
            seen: report.seen,
            failed: failed.into_iter().collect(),
        }
    }

    fn and(mut self, other: Self) -> Self {
        for (what, count) in other.seen {
            *self.seen.entry(what).or_default() += count;
        }
        self.failed.extend(other.failed);
        Self {
            seeds: self.seeds + other.seeds,
            events: self.events + other.events,
            calls: self.calls + other.calls,
            faults: self.faults + other.faults,
            ..self
        }
    }
}

fn describe(report: &Report) -> String {
    format!(
        "LONGSHORE_SEED={} fails:\n  {}\nplan: {:#?}\ntrace, its end:\n  {}",
        report.plan.seed,
        report.violations.join("\n  "),
        report.plan,
        report.lines.join("\n  "),
    )
}

#[test]
fn every_seed_keeps_the_contract() {
    if let Some(seed) = variable("LONGSHORE_SEED") {
        let report = run_seed(seed, &Arc::default());
        assert!(report.violations.is_empty(), "{}", describe(&report));
        println!(
            "seed {seed}: {} events, {} calls, {:?}",
            report.events, report.calls, report.seen
        );
        return;
    }
    let first = variable("LONGSHORE_FIRST_SEED").unwrap_or(0);
    let time = variable("LONGSHORE_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let default = if time.is_some() { u64::MAX - first } else { DEFAULT_SEEDS };
    let seeds = variable("LONGSHORE_SEEDS").unwrap_or(default);
    let begun = Instant::now();
    let is_time_left = || time.is_none_or(|time| begun.elapsed() < time);
    let failures_left = AtomicU64::new(variable("LONGSHORE_FAILURES").unwrap_or(u64::MAX));
    // Each run has a runtime of its own; two of them know nothing of each other.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next_seed = AtomicU64::new(first);
    let failed_so_far = Mutex::new(Vec::new());
    let watched: Vec<Watched> = (0..threads).map(|_| Watched::default()).collect();
    let share = |watched| {
        std::iter::from_fn(|| {
            let goes_on = failures_left.load(Relaxed) > 0 && is_time_left();
            goes_on.then(|| next_seed.fetch_add(1, Relaxed))
        })
        .take_while(|seed| *seed < first + seeds)
        .map(|seed| run_guarded(seed, watched))
        .inspect(|one| {
            failed_so_far.lock().expect("lock").extend(one.failed.iter().cloned());
            let failed = one.failed.len() as u64;
            failures_left.fetch_sub(failed.min(failures_left.load(Relaxed)), Relaxed);
        })
        .fold(Summary::default(), Summary::and)
    };
    let is_over = AtomicBool::new(false);
    let shares: Vec<Summary> = std::thread::scope(|scope| {
        scope.spawn(|| watch(&watched, &is_over, &failed_so_far));
        let running: Vec<_> =
            watched.iter().map(|watched| scope.spawn(|| share(watched))).collect();
        let shares: Vec<_> = running.into_iter().map(|share| share.join()).collect();
        is_over.store(true, Relaxed);
        shares.into_iter().map(|share| share.expect("a run panicked")).collect()
    });
    let Summary { seeds, events, calls, faults, seen, mut failed } =
        shares.into_iter().fold(Summary::default(), Summary::and);
    failed.sort();
    if let Some((seed, _)) = failed.first() {
        // One that panics does so again, and its words are above.
        let again = catch_unwind(|| run_seed(*seed, &Arc::default()));
        println!("{}", again.map_or_else(|_| String::new(), |report| describe(&report)));
        let seeds: Vec<_> = failed.iter().map(|(seed, _)| seed.to_string()).collect();
        println!("failing seeds: {}", seeds.join(" "));
    }
    let took = begun.elapsed();
    println!("{seeds} seeds in {took:?}: {events} events, {calls} calls, {faults} planned faults");
    for (what, count) in &seen {
        println!("  {count:>9}  {what}");
    }
    for (seed, violation) in failed.iter().take(20) {
        println!("seed {seed}: {violation:.300}");
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds fail", failed.len());
    if seeds >= ENOUGH_SEEDS {
        assert!(events as u64 / seeds >= 500, "{} events a seed", events as u64 / seeds);
        assert!(faults as u64 / seeds >= 10, "{} faults a seed", faults as u64 / seeds);
        let missing: Vec<_> = EXPECTED.iter().filter(|what| !seen.contains_key(**what)).collect();
        assert!(missing.is_empty(), "never seen: {missing:?}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..100 {
        let (one, other) = (run_seed(seed, &Arc::default()), run_seed(seed, &Arc::default()));
        if one.hash != other.hash {
            let mut pairs = one.lines.iter().zip(&other.lines);
            let apart = pairs.find(|(one, other)| one != other);
            panic!("seed {seed} ran differently the second time: {apart:?}");
        }
    }
}
