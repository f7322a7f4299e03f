//! Connected, answering, getting on: what is told of an agent is so.

use std::time::{Duration, Instant};

use vigie_tests::{Fleet, wait_until};

use crate::ANY_PROGRAM;

/// What is promised of an agent that falls silent, whether its machine hangs or its network is cut.
const NOTICED: Duration = Duration::from_secs(20);

#[test]
fn an_agent_that_hangs_is_noticed_within_twenty_seconds() {
    let fleet = Fleet::new();
    let agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let host = fleet.vigiectl(&["hosts", "show", "vps1", "-o", "json"]).exits(0).json();
    assert_eq!(host["liveness"]["answering"], true, "{host}");
    agent.freeze();
    let since = Instant::now();
    wait_until("the silence is noticed", || {
        let host = fleet.vigiectl(&["hosts", "show", "vps1", "-o", "json"]).exits(0).json();
        host["connected"] != true || host["liveness"]["answering"] != true
    });
    let noticed = since.elapsed();
    println!("noticed after {} ms", noticed.as_millis());
    assert!(noticed < NOTICED, "{noticed:?}");
    let status = fleet.vigiectl(&["status"]).exits(3);
    assert!(status.stdout.contains("connected"), "{status:?}");
    agent.thaw();
    fleet.wait_connected("vps1", true);
    let host = fleet.vigiectl(&["hosts", "show", "vps1", "-o", "json"]).exits(0).json();
    assert_eq!(host["liveness"]["answering"], true, "{host}");
    let _ = fleet.vigiectl(&["status"]).exits(0);
}

/// An order that takes its time is told as work, not as silence.
#[test]
fn an_agent_that_works_says_so() {
    let fleet = Fleet::new();
    let _agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let gate = fleet.path("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let mut ctl = fleet.ctl();
    ctl.args(["exec", "-H", "vps1", "--yes", "--timeout", "60s", "--", "sh", "-c", &script]);
    let mut ctl = ctl.spawn().unwrap();
    wait_until("the order is told", || {
        let host = fleet.vigiectl(&["hosts", "show", "vps1", "-o", "json"]).exits(0).json();
        host["liveness"]["orders"] == 1 && host["liveness"]["answering"] == true
    });
    assert!(fleet.vigiectl(&["status"]).exits(0).stdout.contains("1 order"));
    std::fs::write(&gate, "").unwrap();
    assert!(ctl.wait().unwrap().success());
}
