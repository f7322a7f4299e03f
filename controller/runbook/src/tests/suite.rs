//! Every runbook at once: questions are asked once, and causes found across runbooks, hosts and stacks.

use std::collections::BTreeMap;

use vigie_proto::v1::{
    ContainerInspectResult, Finding, FindingState, HostLoadResult, Outcome, result::Operation,
};

use crate::{
    Runbook,
    suite::{Suite, Verdict},
};

fn runbook(text: &str) -> Runbook {
    Runbook::parse(text, "test").unwrap_or_else(|found| panic!("{found}"))
}

/// A database: its trouble explains the web's, by name.
const DATABASE: &str = r#"
id: database
title: The database
parameters: { service: { type: string, default: postgres } }
diagnose:
  - id: db
    container_inspect: { service: "{{ params.service }}" }
  - id: size
    deep: true
    host_load: {}
findings:
  - id: stopped
    title: The database is stopped
    when: db.state == "exited"
    says: the database is stopped
    explains: [web.down]
  - id: bloated
    title: The database is bloated
    severity: warning
    when: size.load_1 > 5.0
    says: it is bloated
    advise: vacuum
remedies:
  - id: start
    title: Start it
    for: stopped
    risk: low
    steps: [{ compose_up: { services: [postgres] } }]
    verify: { probes: [db], until: db.state == "running" }
restore_backup: [{ answer: maybe, why: look at its log }]
"#;

const WEB: &str = r#"
id: web
title: The web
diagnose:
  - id: backend
    container_inspect: { service: backend }
  - id: postgres
    timeout: 90s
    container_inspect: { service: postgres }
  - id: load
    after: backend
    host_load: {}
findings:
  - id: down
    title: The backend is down
    when: backend.state == "exited"
    says: the backend is down
    explains: [database.slow]
  - id: idle
    title: The database idles
    severity: notice
    when: postgres.state == "paused"
    says: the database is paused
    advise: wait
remedies:
  - id: restart
    title: Restart it
    for: down
    risk: low
    steps: [{ compose_restart: { services: [backend] } }]
    verify: { probes: [backend], until: backend.state == "running" }
restore_backup: [{ answer: never, why: no data }]
"#;

const HOST: &str = r#"
id: host
title: The host
scope: host
diagnose:
  - id: load
    host_load: {}
findings:
  - id: overloaded
    title: Overloaded
    when: load.load_1 > 10.0
    says: the host is overloaded
    advise: look
    explains: ["web.*", "database.*"]
restore_backup: [{ answer: never, why: no data }]
"#;

const REQUIRED: &str = r#"
id: required
title: It needs to be told something
parameters: { file: { type: string, required: true } }
diagnose:
  - id: file
    file_tail: { path: "{{ params.file }}" }
findings:
  - { id: gone, title: Gone, when: "!file.present", says: gone, advise: look }
restore_backup: [{ answer: never, why: no data }]
"#;

fn suite() -> (Suite, Vec<String>) {
    let runbooks = [runbook(HOST), runbook(WEB), runbook(DATABASE), runbook(REQUIRED)];
    Suite::bind(&runbooks)
}

fn container(state: &str) -> Outcome {
    let result = ContainerInspectResult { present: true, state: state.to_owned(), ..Default::default() };
    Outcome::succeeded(Operation::ContainerInspect(result))
}

fn load(load_1: f64) -> Outcome {
    Outcome::succeeded(Operation::HostLoad(HostLoadResult { load_1, ..Default::default() }))
}

/// Judges a host with one stack by what its backend, its database and its load are.
fn verdicts(backend: &str, database: &str, load_1: f64) -> Vec<Verdict> {
    let (suite, _) = suite();
    let layout = suite.layout(&["", "shop"]);
    let host = BTreeMap::from([("host/load".to_owned(), load(load_1))]);
    let shop = BTreeMap::from([
        ("web/backend".to_owned(), container(backend)),
        ("web/postgres".to_owned(), container(database)),
    ]);
    suite.judge(&layout, "vps1", 0, &[("", &host), ("shop", &shop)])
}

fn find<'a>(verdicts: &'a [Verdict], id: &str) -> &'a Finding {
    let of = |finding: &&Finding| format!("{}.{}", finding.runbook, finding.id) == id;
    verdicts.iter().flat_map(|verdict| &verdict.findings).find(of).unwrap()
}

#[test]
fn each_distinct_request_is_asked_once() {
    let (suite, left_out) = suite();
    assert_eq!(left_out, ["required"]);
    let layout = suite.layout(&["", "shop", "blog"]);
    let asks: Vec<_> =
        layout.asks().iter().map(|ask| (ask.target, ask.key.as_str(), ask.timeout_ms)).collect();
    let inspect = 10_000;
    assert_eq!(
        asks,
        [
            (0, "host/load", asks[0].2),
            (1, "web/backend", inspect),
            // The database's own probe, which is the same question, is given as much time as the web's.
            (1, "web/postgres", 90_000),
            (2, "web/backend", inspect),
            (2, "web/postgres", 90_000),
        ]
    );
    // Without the host, the load is asked for the stack that needs it first, after what its runbook says.
    let layout = suite.layout(&["shop"]);
    let load = layout.asks().iter().find(|ask| ask.key == "web/load").unwrap();
    assert_eq!(load.after, ["web/backend"]);
}

#[test]
fn a_cause_in_one_runbook_explains_what_another_finds() {
    let verdicts = verdicts("exited", "exited", 0.1);
    let stopped = find(&verdicts, "database.stopped");
    assert_eq!((stopped.explained_by.as_str(), stopped.remedy.as_str()), ("", "start"));
    let down = find(&verdicts, "web.down");
    assert_eq!((down.explained_by.as_str(), down.remedy.as_str()), ("database.stopped", ""));
    // The runbook with the root cause answers about the backup.
    assert_eq!(verdicts[1].restore.as_ref().unwrap().answer, "maybe");
    assert_eq!(verdicts[0].restore, None);
}

#[test]
fn what_ails_a_host_explains_its_stacks() {
    let verdicts = verdicts("exited", "exited", 50.0);
    assert_eq!(find(&verdicts, "host.overloaded").explained_by, "");
    assert_eq!(find(&verdicts, "database.stopped").explained_by, "host.overloaded");
    assert_eq!(find(&verdicts, "web.down").explained_by, "host.overloaded");
}

#[test]
fn one_stack_does_not_explain_another() {
    let (suite, _) = suite();
    let layout = suite.layout(&["blog", "shop"]);
    let stack = |backend, database| {
        BTreeMap::from([
            ("web/backend".to_owned(), container(backend)),
            ("web/postgres".to_owned(), container(database)),
            ("web/load".to_owned(), load(0.1)),
        ])
    };
    let (blog, shop) = (stack("running", "exited"), stack("exited", "running"));
    let verdicts = suite.judge(&layout, "vps1", 0, &[("blog", &blog), ("shop", &shop)]);
    assert_eq!(find(&verdicts[..1], "database.stopped").state(), FindingState::Confirmed);
    let down = find(&verdicts[1..], "web.down");
    assert_eq!((down.state(), down.explained_by.as_str()), (FindingState::Confirmed, ""));
}

#[test]
fn deep_probes_are_left_to_their_own_runbook() {
    let verdicts = verdicts("running", "running", 7.0);
    assert_eq!(find(&verdicts, "database.bloated").state(), FindingState::NotAsked);
    assert!(verdicts.iter().flat_map(|verdict| &verdict.findings).all(|f| !f.is_trouble()));
    let verdicts = self::verdicts("running", "paused", 7.0);
    let idle = find(&verdicts, "web.idle");
    assert!(idle.state() == FindingState::Confirmed && !idle.is_trouble(), "it is only worth knowing");
}

#[test]
fn explanations_in_a_circle_leave_a_root() {
    let a = WEB.replace("explains: [database.slow]", "explains: [database.stopped]");
    let runbooks = [runbook(&a), runbook(DATABASE)];
    let (suite, _) = Suite::bind(&runbooks);
    let layout = suite.layout(&["shop"]);
    let shop = BTreeMap::from([
        ("web/backend".to_owned(), container("exited")),
        ("web/postgres".to_owned(), container("exited")),
        ("web/load".to_owned(), load(0.1)),
    ]);
    let verdicts = suite.judge(&layout, "vps1", 0, &[("shop", &shop)]);
    assert_eq!(find(&verdicts, "web.down").explained_by, "");
    assert_eq!(find(&verdicts, "database.stopped").explained_by, "web.down");
}

/// All shipped runbooks together, on a host of which every question was answered with an empty result: nothing breaks,
/// every finding is there once.
#[test]
fn the_shipped_runbooks_stand_together() {
    let runbooks: Vec<_> =
        crate::shipped().iter().map(|(id, text)| Runbook::parse(text, id).unwrap()).collect();
    let (suite, _) = Suite::bind(&runbooks);
    let layout = suite.layout(&["", "sylion"]);
    let none = BTreeMap::new();
    let verdicts = suite.judge(&layout, "vps1", 0, &[("", &none), ("sylion", &none)]);
    let found: usize = verdicts.iter().map(|verdict| verdict.findings.len()).sum();
    let ruled: usize = suite.runbooks().map(|runbook| runbook.findings.len()).sum();
    assert_eq!(found, ruled);
    let confirmed = verdicts.iter().flat_map(|v| &v.findings).filter(|f| f.is_trouble());
    assert_eq!(confirmed.map(|f| &f.id).collect::<Vec<_>>(), Vec::<&String>::new(), "without any evidence");
}

/// A run of them all: it asks every host what its layout holds, judges a host once everything is answered, and ends.
#[test]
fn a_run_of_every_runbook_ends_with_its_causes() {
    use vigie_proto::{
        id::{HostId, RunId},
        v1::{
            Owned, RunEvent, RunMode, RunSpec, RunVerdict, RunbookCall, Target, run_event::Event,
            run_spec::Kind,
        },
    };

    use crate::run::{Effect, FreshIds, Input, State, Surroundings, decide, open_all, wanted};

    let hosts = [HostId::new(), HostId::new()];
    let target = |host: usize, stack: &str| Target {
        host: hosts[host].to_string(),
        host_name: format!("vps{host}"),
        incarnation: 1,
        stack: stack.to_owned(),
    };
    let targets = vec![target(0, ""), target(0, "shop"), target(1, "")];
    let runbooks = [runbook(HOST), runbook(WEB), runbook(DATABASE), runbook(REQUIRED)];
    let spec = |mode: RunMode| RunSpec {
        kind: Some(Kind::Runbook(RunbookCall { mode: mode.into(), ..RunbookCall::default() })),
        ..RunSpec::default()
    };
    let all: Vec<_> = runbooks.iter().collect();
    assert!(open_all(spec(RunMode::Run), "ada", targets.clone(), &all).is_err());
    let opened = open_all(spec(RunMode::Diagnose), "ada", targets, &all).unwrap();
    assert_eq!((opened.runbooks.len(), opened.left_out.as_slice()), (3, &["required".to_owned()][..]));
    let owned = Event::Owned(Owned { epoch: 1, controller: "test".to_owned() });
    let events: Vec<_> = [Event::Opened(opened), owned]
        .into_iter()
        .zip(1..)
        .map(|(event, seq)| RunEvent { seq, at_ms: 1_000, event: Some(event) })
        .collect();
    let mut state = State::fold(RunId::new(), &events).unwrap();
    let connected = |_: HostId| true;
    let mut asked = 0;
    for _ in 0..10 {
        let inputs: Vec<_> = wanted(&state, 1_000, &connected)
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Probe { key, host, .. } => {
                    let outcome = match key.probe.as_str() {
                        "host/load" => load(if host == hosts[0] { 0.1 } else { 50.0 }),
                        _ => container("exited"),
                    };
                    Some(Input::Probed { key, outcome, asked_at_ms: 1_000, challenge: Default::default() })
                }
                _ => None,
            })
            .collect();
        asked += inputs.len();
        let mut ids = FreshIds;
        let mut around = Surroundings {
            now_ms: 1_000,
            ids: &mut ids,
            connected: &connected,
            held: &|_, _| None,
            tries: &|_, _, _| Vec::new(),
        };
        state = decide(&state, inputs, &mut around).state;
    }
    assert_eq!(asked, 6, "two loads, two containers, and what changed on each host");
    let (verdict, reason, _) = state.closed().unwrap();
    assert_eq!((verdict, reason), (RunVerdict::Findings, "2 of 3 not well"));
    let roots = |target: usize| -> Vec<String> {
        let findings = &state.targets()[target].conclusion.as_ref().unwrap().findings;
        let roots = findings.iter().filter(|f| f.is_trouble() && f.explained_by.is_empty());
        roots.map(|finding| finding.id.clone()).collect()
    };
    assert_eq!(
        (roots(0), roots(1), roots(2)),
        (vec![], vec!["stopped".to_owned()], vec!["overloaded".to_owned()])
    );
    assert!(!crate::report::markdown(&state, &events).is_empty());
}
