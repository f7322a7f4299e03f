//! Reading and writing cases. What the shipped ones say is in `tests/cases.rs` of this crate.

use vigie_proto::v1::{
    ContainerInspectResult, Failure, HttpCheckResult, JsonField, Outcome, OutcomeStatus, PublishedPort,
    result::Operation,
};

use super::{Case, Recording, record};
use crate::{Evidence, Runbook, Subject};

const RUNBOOK: &str = r#"
id: probe-me
title: A small one
diagnose:
  - id: backend
    container_inspect: { service: backend }
  - id: http
    http_check: { target: backend }
findings:
  - id: stopped
    title: The backend is stopped
    when: backend.state == "exited"
    says: "{{ backend.name }} is stopped"
    explains: [silent]
  - id: silent
    title: The backend does not answer
    when: http.status != 200
    says: "{{ http.url }} does not answer"
    advise: look
remedies:
  - id: restart
    title: Restart it
    for: stopped
    risk: low
    steps:
      - compose_restart: { services: [backend] }
    verify: { probes: [backend], until: backend.state == "running" }
restore_backup:
  - answer: never
    why: "nothing is lost"
"#;

const WELL: &str = r#"
evidence:
  backend: { present: true, name: web, state: running, started_at_ms: 1765600000000 }
  http: { url: "http://127.0.0.1:8000/health", status: 200 }
expect:
  causes: []
"#;

fn runbook() -> Runbook {
    Runbook::parse(RUNBOOK, "runbook").unwrap_or_else(|found| panic!("{found}"))
}

fn read(text: &str) -> Result<Case, String> {
    let other = |name: &str| (name == "well").then(|| WELL.to_owned());
    Case::read(text, "case", &runbook(), &other).map_err(|found| found.to_string())
}

fn mismatches(text: &str) -> Vec<String> {
    read(text).unwrap_or_else(|found| panic!("{found}")).check(&runbook()).mismatches
}

#[test]
fn a_case_like_another_changes_single_fields() {
    let stopped = "like: well\nevidence: { backend: { state: exited } }\n";
    let text = format!(
        "{stopped}expect: {{ causes: stopped, explained: [], remedies: [restart], restore: never, \
         says: {{ stopped: web is }}, verified: {{ restart: false }}, symptoms: [] }}"
    );
    assert_eq!(mismatches(&text), [""; 0]);
    let text = format!("{stopped}expect: {{ causes: [], explained: [stopped], remedies: [], restore: yes }}");
    assert_eq!(
        mismatches(&text),
        [
            "causes: stopped is not expected: web is stopped",
            "explained: stopped is expected; it is a root cause",
            "remedies: expected none, and it is restart",
            "restore: expected yes, and the answer is never: nothing is lost",
        ]
    );
}

#[test]
fn what_failed_or_was_not_asked_is_unknown() {
    let refused =
        "like: well\nevidence: { backend: engine_down }\nexpect: { causes: [], unknown: [stopped] }";
    assert_eq!(mismatches(refused), [""; 0]);
    let not_asked = "like: well\nevidence: { backend: null }\nexpect: { causes: [] }";
    assert_eq!(mismatches(not_asked), ["unknown: stopped is not expected: backend: it was not asked"]);
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, message) in [
        ("evidence: { bakend: {} }\nexpect: { causes: [] }", "no probe `bakend`"),
        ("evidence: { backend: { stat: x } }\nexpect: { causes: [] }", "did you mean `state`?"),
        ("evidence: { backend: { uptime_s: long } }\nexpect: { causes: [] }", "`uptime_s` cannot be `long`"),
        ("evidence: { http: { json: x } }\nexpect: { causes: [] }", "`json` is a list"),
        ("expect: { causes: [stoped] }", "did you mean `stopped`?"),
        ("expect: { causes: [], remedies: [rest] }", "the runbook has no remedy `rest`"),
        ("expect: { cause: [] }", "unknown key `cause`"),
        ("like: nothing\nexpect: { causes: [] }", "there is no case `nothing`"),
        ("runbook: other\nexpect: { causes: [] }", "belongs to `other`"),
        ("now: noon\nexpect: { causes: [] }", "`now` is a time"),
        ("evidence: {}", "a case needs `expect`"),
    ] {
        let found = read(text).unwrap_err();
        assert!(found.contains(message) && found.contains("case:"), "{text}\n{found}");
    }
}

#[test]
fn what_is_recorded_is_read_again() {
    let backend = ContainerInspectResult {
        present: true,
        name: "it's \"web\"\n\u{1b}[0m: {x}".to_owned(),
        state: "exited".to_owned(),
        exit_code: -1,
        memory_limit_bytes: u64::MAX,
        ports: vec![PublishedPort { host_port: 80, protocol: "tcp".to_owned(), ..PublishedPort::default() }],
        ..ContainerInspectResult::default()
    };
    let http = HttpCheckResult {
        json: vec![JsonField { name: "a".to_owned(), value: "false".to_owned() }],
        ..HttpCheckResult::default()
    };
    let failed = Outcome::ended(OutcomeStatus::Failed, Failure::new("too_late", "it's too late: 5 s"))
        .with_result(Some(Operation::HttpCheck(http)));
    let evidence: Evidence = [
        ("backend".to_owned(), Outcome::succeeded(Operation::ContainerInspect(backend))),
        ("http".to_owned(), failed),
    ]
    .into();
    let runbook = runbook();
    let bound = runbook.bind(&[]).unwrap();
    let subject = Subject { host: "vps1", stack: "sylion", now_ms: 1_765_600_000_123 };
    let recording =
        Recording { title: "x", subject, parameters: &[], evidence: &evidence, verification: None };
    let text = record(&bound, &recording);
    let case = read(&text).unwrap_or_else(|found| panic!("{found}\n{text}"));
    assert_eq!(case.evidence, evidence, "{text}");
    assert_eq!(case.now_ms, subject.now_ms);
    assert_eq!(case.expect.causes, ["stopped"]);
    assert!(case.check(&runbook).mismatches.is_empty());
}
