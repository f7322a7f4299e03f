//! The simulation over simulated sockets: the programs' real TLS, HTTP/2 and rpcs, `vigiectl` as it is, two controllers and
//! five agents, each on a machine of its own, with everything decided by a seed. docs/simulation.md tells what is in it.
//!
//! ```text
//! VIGIE_WIRE_SEED=4711 cargo nextest run --workspace -E 'binary(wire) and test(one_seed)' --no-capture
//! VIGIE_WIRE_SEEDS=10000 cargo nextest run --workspace -E 'binary(wire) and test(many_seeds)' --no-capture
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test")]

mod agent;
#[path = "../sim/chance.rs"]
mod chance;
#[path = "../sim/common.rs"]
mod common;
mod controller;
mod ctl;
mod executor;
mod faults;
mod ledger;
mod mutants;
mod network;
#[path = "../sim/platter.rs"]
mod platter;
mod seed;
mod undriven;
mod world;

use std::time::Duration;

use mutants::Mutant;
use vigie_tests::seeds::Simulation;

const SIMULATION: Simulation<Mutant> = Simulation {
    name: "wire",
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
    SIMULATION.is_repeated_exactly(8, 1_000);
}

#[test]
fn a_journal_that_forgets_is_found() {
    SIMULATION.finds(Mutant::Amnesia, 150, &["time", "and it was done"]);
}

#[test]
fn an_acknowledgement_before_the_commit_is_found() {
    SIMULATION.finds(Mutant::EarlyCommit, 20, &["is not on the disk", "nobody knows of it"]);
}

#[test]
fn a_controller_that_is_not_fenced_off_is_found() {
    SIMULATION.finds(Mutant::Unfenced, 100, &["which is controller", "does not fold"]);
}
