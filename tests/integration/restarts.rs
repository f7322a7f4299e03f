//! A controller that goes away again and again while work streams through it: every run ends right, each order once.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use vigie_tests::{AgentProcess, Fleet, wait_within};

use crate::ANY_PROGRAM;

const HOSTS: [&str; 3] = ["vps1", "vps2", "vps3"];
const STREAMS: usize = 3;
const EACH: usize = 5;
const STOPS: usize = 3;

/// How long a restarted controller may take until everything has ended.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs on every host, one after the other. Each leaves its number, and the folder in which its order is kept, which names
/// the host and the order.
fn stream(
    ctl: &dyn Fn() -> std::process::Command,
    witness: &std::path::Path,
    stream: usize,
    done: &AtomicBool,
) {
    for number in 0..EACH {
        let kept_in = r"tr '\0' '\n' </proc/$PPID/cmdline | tail -n 1";
        let script = format!("echo \"$0 $({kept_in})\" >>{}; sleep 0.2", witness.display());
        let mark = format!("{stream}-{number}");
        let mut command = ctl();
        command.args(["exec", "--all", "--yes", "--timeout", "30s", "--", "sh", "-c", &script, &mark]);
        // What it says of its end is not trusted: it may have lost the controller at any moment.
        let _ = command.output().unwrap();
    }
    done.store(true, Ordering::SeqCst);
}

fn under(stop: impl Fn(&mut Fleet)) {
    let mut fleet = Fleet::new();
    let agents: Vec<AgentProcess> = HOSTS.iter().map(|host| fleet.add_agent(host, ANY_PROGRAM)).collect();
    let witness = fleet.path("witness");
    let done: [AtomicBool; STREAMS] = Default::default();
    let home = fleet.path("operator");
    let ctl = || {
        let mut ctl = std::process::Command::new(vigie_tests::binary("vigiectl"));
        ctl.env("VIGIE_HOME", &home).env("NO_COLOR", "1").stdin(std::process::Stdio::null());
        ctl
    };
    thread::scope(|scope| {
        for (number, done) in done.iter().enumerate() {
            let (ctl, witness) = (&ctl, &witness);
            scope.spawn(move || stream(ctl, witness, number, done));
        }
        for _ in 0..STOPS {
            let seen = marks(&witness).len();
            // Something is under way, and something has ended.
            wait_within(PATIENCE, "something is under way, or all is done", || {
                marks(&witness).len() >= seen + 2 || done.iter().all(|done| done.load(Ordering::SeqCst))
            });
            stop(&mut fleet);
            fleet.start_controller();
        }
    });
    let mut runs = Vec::new();
    wait_within(PATIENCE, "no run hangs", || {
        let known = fleet.vigiectl(&["runs", "list", "-o", "json"]).exits(0).json()["runs"].clone();
        runs = known.as_array().unwrap().clone();
        runs.iter().all(|run| run["phase"] == "closed" || run["phase"] == "awaiting_signature")
    });
    // A ctl that lost the controller before it signed leaves a run that waits, and says so; nothing of it ran.
    let signed: Vec<_> = runs.iter().filter(|run| run["phase"] == "closed").collect();
    let marks = marks(&witness);
    let ran = |verdict: &str| signed.iter().filter(|run| run["verdict"] == verdict).count();
    println!("{} runs, {} ok, {} marks", runs.len(), ran("ok"), marks.len());
    assert!(ran("ok") > 0, "{runs:?}");
    for run in &signed {
        assert!(["ok", "unreachable", "failed"].contains(&run["verdict"].as_str().unwrap()), "{run}");
    }
    let (mut orders, mut counts): (BTreeMap<&str, usize>, BTreeMap<&str, usize>) = Default::default();
    for mark in &marks {
        let (number, order) = mark.split_once(' ').unwrap();
        assert!(order.contains("/state/children/"), "{mark}");
        *orders.entry(order).or_default() += 1;
        *counts.entry(number).or_default() += 1;
    }
    assert!(orders.values().all(|count| *count == 1), "an order ran twice: {orders:?}");
    assert!(counts.values().all(|count| *count <= HOSTS.len()), "a run went twice over a host: {counts:?}");
    // Whatever is told as done was done on every host, once.
    let whole = counts.values().filter(|count| **count == HOSTS.len()).count();
    assert!(whole >= ran("ok"), "{whole} were done everywhere, and {} are told so", ran("ok"));
    drop(agents);
}

fn marks(witness: &std::path::Path) -> Vec<String> {
    fs::read_to_string(witness).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_controller_that_is_drained_again_and_again_loses_nothing() {
    under(Fleet::stop_controller);
}

#[test]
fn a_controller_that_is_killed_again_and_again_loses_nothing() {
    under(Fleet::kill_controller);
}
