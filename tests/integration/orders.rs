//! What orders do and what they cannot.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use vigie_tests::Fleet;

use crate::{NOTHING, UPTIME};

#[test]
fn exec_runs_where_the_policy_allows_it_and_is_refused_where_not() {
    let fleet = Fleet::new();
    let _allowed = fleet.add_agent("vps1", UPTIME);
    let _denied = fleet.add_agent("vps2", NOTHING);

    // Hosts that are named and words that are written out are their own consent.
    let ran = fleet.vigiectl(&["exec", "-H", "vps1", "--", "uptime"]).exits(0);
    assert!(ran.stdout.contains("load average"), "{ran:?}");

    let refused = fleet.vigiectl(&["exec", "-H", "vps2", "--yes", "--", "uptime"]).exits(4);
    let text = format!("{}{}", refused.stdout, refused.stderr);
    assert!(text.contains("policy") && text.contains("operation = \"exec\""), "no reason or remedy: {text}");

    let both = fleet.vigiectl(&["exec", "--all", "--yes", "--", "uptime"]).exits(4);
    assert!(both.stdout.contains("vps1") && both.stdout.contains("vps2"), "a host is missing: {both:?}");

    let other = fleet.vigiectl(&["exec", "-H", "vps1", "--yes", "--", "hostname"]).exits(4);
    assert!(format!("{}{}", other.stdout, other.stderr).contains("/usr/bin/"), "{other:?}");
}

#[test]
fn nothing_changes_without_a_yes() {
    let fleet = Fleet::new();
    let _agent = fleet.add_agent("vps1", UPTIME);
    let asked = fleet.vigiectl(&["exec", "--all", "--", "uptime"]).exits(4);
    assert!(asked.stderr.contains("--yes"), "no word on how to agree: {asked:?}");
    let runs = fleet.vigiectl(&["runs", "list", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"][0]["phase"], "awaiting_signature", "{runs}");

    let id = runs["runs"][0]["run"].as_str().unwrap_or_default().to_owned();
    let shown = fleet.vigiectl(&["runs", "show", &id]).exits(0);
    assert!(shown.stdout.contains("waits for a signature"), "{shown:?}");

    // Whoever attaches is told what the run waits for.
    let mut watch = fleet.ctl().args(["runs", "watch", &id]).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(watch.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.contains("waits for a signature")));
    watch.kill().unwrap();
    watch.wait().unwrap();

    let resumed = fleet.vigiectl(&["runs", "resume", &id, "--yes"]).exits(0);
    assert!(resumed.stdout.contains("load average"), "{resumed:?}");
}

#[test]
fn probes_answer_for_every_host_and_selectors_are_exact() {
    let fleet = Fleet::new();
    let _one = fleet.add_agent("vps1", NOTHING);
    let mut two = fleet.add_agent("vps2", NOTHING);
    let facts = fleet.vigiectl(&["probe", "host-facts", "--all"]).exits(0);
    assert!(facts.stdout.contains("vps[1-2]") || facts.stdout.contains("vps1"), "{facts:?}");

    let _ = fleet.vigiectl(&["probe", "host-facts", "-H", "vps3"]).exits(2);
    let _ = fleet.vigiectl(&["exec", "--yes", "--", "uptime"]).exits(2);
    let _ = fleet.vigiectl(&["probe", "file-tail", "-H", "vps1", "--path", "/etc/shadow"]).exits(4);

    two.kill();
    fleet.wait_connected("vps2", false);
    let half = fleet.vigiectl(&["probe", "host-facts", "--all"]).exits(3);
    assert!(half.stdout.contains("vps2") && half.stdout.contains("unreachable"), "{half:?}");
}
