//! Never twice, never lost: programs are killed in the middle of things.

use std::{fs, path::Path, process::Stdio};

use vigie_tests::{Fleet, wait_until};

use crate::ANY_PROGRAM;

/// A script that leaves a mark when it begins, waits until it is let go, and leaves another when it ends.
fn script(fleet: &Fleet) -> (String, std::path::PathBuf, std::path::PathBuf) {
    let (witness, gate) = (fleet.path("witness"), fleet.path("gate"));
    let text = format!(
        "echo begin >>{w}; while [ ! -e {g} ]; do sleep 0.05; done; echo end >>{w}",
        w = witness.display(),
        g = gate.display()
    );
    (text, witness, gate)
}

fn has(witness: &Path, line: &str) -> bool {
    fs::read_to_string(witness).is_ok_and(|text| text.lines().any(|seen| seen == line))
}

fn newest_run(fleet: &Fleet) -> serde_json::Value {
    fleet.vigiectl(&["runs", "list", "-o", "json"]).exits(0).json()["runs"][0].clone()
}

fn start_exec(fleet: &Fleet, script: &str) -> std::process::Child {
    let mut ctl = fleet.ctl();
    ctl.args(["exec", "-H", "vps1", "--yes", "--timeout", "60s", "--", "sh", "-c", script]);
    ctl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_controller_that_dies_in_the_middle_of_a_run_ends_it_all_the_same() {
    let mut fleet = Fleet::new();
    let _agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let (script, witness, gate) = script(&fleet);
    let mut ctl = start_exec(&fleet, &script);
    wait_until("the program begins", || has(&witness, "begin"));
    fleet.kill_controller();
    fs::write(&gate, "").unwrap();
    wait_until("the program ends", || has(&witness, "end"));
    fleet.start_controller();
    fleet.wait_connected("vps1", true);
    wait_until("the run closes", || newest_run(&fleet)["phase"] == "closed");
    assert_eq!(newest_run(&fleet)["verdict"], "ok");
    assert_eq!(fs::read_to_string(&witness).unwrap(), "begin\nend\n", "the program ran once");
    // ctl watched through the restart, or said how to attach again.
    let _ = ctl.wait();
}

#[test]
fn a_ctl_that_dies_leaves_the_run_to_go_on() {
    let fleet = Fleet::new();
    let _agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let (script, witness, gate) = script(&fleet);
    let mut ctl = start_exec(&fleet, &script);
    wait_until("the program begins", || has(&witness, "begin"));
    ctl.kill().unwrap();
    ctl.wait().unwrap();
    fs::write(&gate, "").unwrap();
    wait_until("the run closes", || newest_run(&fleet)["phase"] == "closed");
    let id = newest_run(&fleet)["run"].as_str().unwrap().to_owned();
    let _ = fleet.vigiectl(&["runs", "watch", &id]).exits(0);
    assert_eq!(fs::read_to_string(&witness).unwrap(), "begin\nend\n");
}

#[test]
fn a_program_outlives_its_agent_which_finds_it_again() {
    let fleet = Fleet::new();
    let mut agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let (script, witness, gate) = script(&fleet);
    let mut ctl = start_exec(&fleet, &format!("echo early; {script}; echo late"));
    wait_until("the program begins", || has(&witness, "begin"));
    agent.kill();
    agent.start();
    fleet.wait_connected("vps1", true);
    fs::write(&gate, "").unwrap();
    assert_eq!(ctl.wait().unwrap().code(), Some(0), "it was seen to its end");
    let run = newest_run(&fleet);
    assert_eq!(run["verdict"], "ok", "{run}");
    assert_eq!(fs::read_to_string(&witness).unwrap(), "begin\nend\n", "the program ran once");
    let id = run["run"].as_str().unwrap();
    let shown = fleet.vigiectl(&["runs", "watch", id]).exits(0).stdout;
    // What it said before and after the agent's death is in its outcome.
    assert!(shown.contains("early") && shown.contains("late"), "{shown}");
}

#[test]
fn an_order_that_nobody_saw_to_its_end_is_in_doubt_until_a_person_looks() {
    let fleet = Fleet::new();
    let mut agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let (script, witness, gate) = script(&fleet);
    let mut ctl = start_exec(&fleet, &script);
    wait_until("the program begins", || has(&witness, "begin"));
    agent.kill();
    // As a machine that goes down would: the program and whatever kept it.
    agent.kill_keepers();
    agent.start();
    assert_eq!(ctl.wait().unwrap().code(), Some(5), "in doubt");
    fs::write(&gate, "").unwrap();
    let run = newest_run(&fleet);
    assert_eq!(run["verdict"], "in_doubt", "{run}");
    let begun = fs::read_to_string(&witness).unwrap();
    assert_eq!(begun.matches("begin").count(), 1, "{begun}");

    // Nothing is tried again before somebody said what they found.
    let id = run["run"].as_str().unwrap();
    let refused = fleet.vigiectl(&["runs", "retry", id]).exits(2);
    assert!(refused.stderr.contains("runs resolve"), "{}", refused.stderr);
    let _ = fleet.vigiectl(&["runs", "resolve", id, "--not-done", "--note", "the mark is missing"]).exits(0);
    assert_eq!(newest_run(&fleet)["verdict"], "failed");
    let shown = fleet.vigiectl(&["runs", "show", id]).exits(0).stdout;
    assert!(shown.contains("ada") && shown.contains("the mark is missing"), "{shown}");
    let twice = fleet.vigiectl(&["runs", "resolve", id, "--done"]).exits(1);
    assert!(twice.stderr.contains("in doubt"), "{}", twice.stderr);

    // And now it may be.
    let _ = fleet.vigiectl(&["runs", "retry", id, "--yes"]).exits(0);
    assert_eq!(newest_run(&fleet)["verdict"], "ok");
    assert_eq!(fs::read_to_string(&witness).unwrap().matches("end").count(), 1);
}

#[test]
fn a_run_that_is_cancelled_stops_its_program() {
    let fleet = Fleet::new();
    let _agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let (script, witness, _gate) = script(&fleet);
    let mut ctl = start_exec(&fleet, &format!("echo said; {script}"));
    wait_until("the program begins", || has(&witness, "begin"));
    let id = newest_run(&fleet)["run"].as_str().unwrap().to_owned();
    let _ = fleet.vigiectl(&["runs", "cancel", &id, "--reason", "wrong host"]).exits(0);
    assert_eq!(ctl.wait().unwrap().code(), Some(4), "cancelled");
    let run = newest_run(&fleet);
    assert_eq!(run["verdict"], "cancelled", "{run}");
    let shown = fleet.vigiectl(&["runs", "show", &id]).stdout;
    assert!(shown.contains("stopped") && shown.contains("wrong host"), "{shown}");
    assert_eq!(fs::read_to_string(&witness).unwrap(), "begin\n");
}

/// A machine that is put back to a snapshot does not know what it did since, and is kept from doing it again.
#[test]
fn a_host_that_was_put_back_to_a_snapshot_runs_no_orders() {
    let fleet = Fleet::new();
    let mut agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let exec = |code| fleet.vigiectl(&["exec", "-H", "vps1", "--", "true"]).exits(code);
    let _ = exec(0);
    let (journal, snapshot) = (agent.state().join("journal"), fleet.path("snapshot"));
    copy(&journal, &snapshot);
    let _ = exec(0);
    agent.kill();
    fs::remove_dir_all(&journal).unwrap();
    copy(&snapshot, &journal);
    agent.start();
    fleet.wait_connected("vps1", true);
    let refused = exec(4);
    assert!(
        refused.stdout.contains("put back") && refused.stdout.contains("enroll --replace"),
        "{refused:?}"
    );
    let _ = fleet.vigiectl(&["probe", "host_facts", "-H", "vps1"]).exits(0);

    // Each start writes a record. However far the older copy has grown by now, it is not the one that the controller has seen.
    for _ in 0..4 {
        agent.kill();
        fleet.wait_connected("vps1", false);
        agent.start();
        fleet.wait_connected("vps1", true);
        assert!(exec(4).stdout.contains("put back"));
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
