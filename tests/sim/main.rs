//! The simulation: the real parts of the programs in one thread, on simulated time, over disks and a network that fail,
//! with everything decided by a seed. A seed that breaks an invariant is printed, and breaks it again whenever it is
//! run.
//!
//! ```text
//! VIGIE_SIM_SEED=4711 cargo nextest run --workspace -E 'binary(sim) and test(one_seed)' --no-capture
//! VIGIE_SIM_SEEDS=100000 cargo nextest run --workspace -E 'binary(sim) and test(many_seeds)' --no-capture
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test")]

mod aftermath;
mod agent;
mod chance;
mod controller;
mod executor;
mod faults;
mod ledger;
mod link;
mod mutants;
mod operator;
mod platter;
mod seed;
mod world;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mutants::Mutant;
use seed::{Ran, run};

/// Seeds that found something once.
const FAILED: &str = include_str!("failed_seeds.txt");

/// What continuous integration gives it.
const SEEDS: u64 = 500;
const LONGEST: Duration = Duration::from_secs(300);

/// A seed that broke something: what, the end of its trace, and how to see it again.
fn report(seed: u64, ran: &Ran) -> String {
    let tail = ran.trace.len().saturating_sub(120);
    format!(
        "seed {seed} breaks: {}\n{}\n{}\nagain: VIGIE_SIM_SEED={seed} cargo nextest run --workspace -E 'binary(sim) and test(one_seed)' --no-capture",
        ran.violations.join("; "),
        ran.trace[tail..].join("\n"),
        "-".repeat(80),
    )
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// The seed of `VIGIE_SIM_SEED` with its whole trace; the first one otherwise.
#[test]
fn one_seed() {
    let wanted = number("VIGIE_SIM_SEED");
    let ran = run(wanted.unwrap_or(1), None);
    if wanted.is_some() {
        eprintln!("{}", ran.trace.join("\n"));
    }
    assert!(ran.violations.is_empty(), "{}", report(wanted.unwrap_or(1), &ran));
}

/// `VIGIE_SIM_SEEDS` of them, from `VIGIE_SIM_FIRST` on.
#[test]
fn many_seeds() {
    let (first, seeds) = (number("VIGIE_SIM_FIRST").unwrap_or(1), number("VIGIE_SIM_SEEDS"));
    let until = seeds.is_none().then(|| Instant::now() + LONGEST);
    let end = first + seeds.unwrap_or(SEEDS);
    let began = Instant::now();
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let (failed, totals) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::<_, u64>::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) && until.is_none_or(|until| Instant::now() < until) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    let ran = run(seed, None);
                    let mut totals = totals.lock().unwrap();
                    *totals.entry("seeds").or_default() += 1;
                    for (what, times) in &ran.totals {
                        *totals.entry(what).or_default() += times;
                    }
                    if !ran.violations.is_empty() {
                        eprintln!("seed {seed} breaks: {}", ran.violations.join("; "));
                        failed.lock().unwrap().push((seed, report(seed, &ran)));
                        stop.store(number("VIGIE_SIM_ALL").is_none(), Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap();
    let rate = totals["seeds"] as f64 / began.elapsed().as_secs_f64();
    eprintln!("{rate:.1} seeds a second");
    for (what, times) in &totals {
        eprintln!("{times:>9} {what}");
    }
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} seeds failed\n{}", failed.len(), failed[0].1);
}

#[test]
fn every_seed_that_ever_failed_holds() {
    let seeds = FAILED.lines().filter_map(|line| line.split('#').next()?.trim().parse().ok());
    for seed in seeds {
        let ran = run(seed, None);
        assert!(ran.violations.is_empty(), "{}", report(seed, &ran));
    }
}

#[test]
fn a_seed_is_repeated_exactly() {
    let mut lines = 0;
    for seed in 1..=12 {
        let (once, again) = (run(seed, None), run(seed, None));
        lines += once.trace.len();
        let differs = once.trace.iter().zip(&again.trace).position(|(one, other)| one != other);
        if let Some(line) = differs {
            panic!(
                "seed {seed} differs at line {line}:\n{}\n--\n{}",
                once.trace[line.saturating_sub(10)..=line].join("\n"),
                again.trace[line]
            );
        }
        assert_eq!(once.trace.len(), again.trace.len(), "seed {seed}");
    }
    assert!(lines > 2_000, "{lines} lines are no proof");
}

/// A bug that is switched on is found within so many seeds, and by the invariant that it breaks.
fn finds(mutant: Mutant, within: u64, says: &[&str]) {
    for seed in 1..=within {
        let ran = run(seed, Some(mutant));
        if !ran.violations.is_empty() {
            eprintln!("{mutant:?}: found by seed {seed}: {}", ran.violations[0]);
            assert!(
                ran.violations.iter().any(|found| says.iter().any(|says| found.contains(says))),
                "{}",
                report(seed, &ran)
            );
            return;
        }
    }
    panic!("{mutant:?} is not found within {within} seeds");
}

#[test]
fn a_journal_that_does_not_sync_is_found() {
    finds(Mutant::NoSync, 5, &["its start is not on the disk"]);
}

#[test]
fn a_journal_that_forgets_is_found() {
    // It does the same again, or says of what it did that it never will.
    finds(Mutant::Amnesia, 100, &["time", "and it was done"]);
}

#[test]
fn an_acknowledgement_before_the_commit_is_found() {
    finds(Mutant::EarlyCommit, 10, &["is not on the disk"]);
}

#[test]
fn a_fencing_epoch_that_is_forgotten_is_found() {
    finds(Mutant::OneEpoch, 300, &["epoch"]);
}

#[test]
fn a_late_start_is_found() {
    finds(Mutant::StoppedClock, 100, &["too late"]);
}

#[test]
fn a_false_refusal_is_found() {
    finds(Mutant::FalseRefusal, 5, &["it was done"]);
}

#[test]
fn a_retry_past_a_doubt_is_found() {
    finds(Mutant::HiddenDoubt, 100, &["past a doubt"]);
}
