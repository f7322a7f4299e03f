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
mod common;
mod controller;
mod executor;
mod faults;
mod ledger;
mod link;
mod mounted;
mod mutants;
mod operator;
mod platter;
mod seed;
mod world;

use std::time::Duration;

use mutants::Mutant;
use vigie_tests::seeds::Simulation;

const SIMULATION: Simulation<Mutant> = Simulation {
    name: "sim",
    run: seed::run,
    seeds: 500,
    longest: Duration::from_secs(300),
    failed: include_str!("failed_seeds.txt"),
};

#[test]
fn one_seed() {
    SIMULATION.one_seed();
}

#[test]
fn many_seeds() {
    SIMULATION.many_seeds();
}

#[test]
fn every_seed_that_ever_failed_holds() {
    SIMULATION.every_seed_that_ever_failed_holds();
}

#[test]
fn a_seed_is_repeated_exactly() {
    SIMULATION.is_repeated_exactly(12, 2_000);
}

#[test]
fn a_journal_that_does_not_sync_is_found() {
    SIMULATION.finds(Mutant::NoSync, 5, &["its start is not on the disk"]);
}

#[test]
fn a_journal_that_forgets_is_found() {
    // It does the same again, or says of what it did that it never will.
    SIMULATION.finds(Mutant::Amnesia, 100, &["time", "and it was done"]);
}

#[test]
fn an_acknowledgement_before_the_commit_is_found() {
    SIMULATION.finds(Mutant::EarlyCommit, 10, &["is not on the disk"]);
}

#[test]
fn a_fencing_epoch_that_is_forgotten_is_found() {
    SIMULATION.finds(Mutant::OneEpoch, 300, &["epoch"]);
}

#[test]
fn a_late_start_is_found() {
    SIMULATION.finds(Mutant::StoppedClock, 100, &["too late"]);
}

#[test]
fn a_false_refusal_is_found() {
    SIMULATION.finds(Mutant::FalseRefusal, 5, &["it was done"]);
}

#[test]
fn a_retry_past_a_doubt_is_found() {
    SIMULATION.finds(Mutant::HiddenDoubt, 100, &["past a doubt"]);
}
