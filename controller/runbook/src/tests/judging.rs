//! Parameters, requests, and what follows from findings.

use proptest::prelude::*;
use vigie_proto::{
    operation::OPERATIONS,
    v1::{
        self, ContainerInspectResult, Failure, FindingState, HttpCheckResult, Outcome, OutcomeStatus,
        request, result::Operation,
    },
};

use super::diagnostics::SMALL;
use crate::{Batch, Evidence, Runbook, Subject};

fn small() -> Runbook {
    Runbook::parse(SMALL, "small.yaml").unwrap()
}

fn parameter(name: &str, value: &str) -> v1::Parameter {
    v1::Parameter { name: name.to_owned(), value: value.to_owned() }
}

fn subject() -> Subject<'static> {
    Subject { host: "vps1", stack: "sylion", now_ms: 0 }
}

fn evidence(state: &str, exit_code: i32, status: u32) -> Evidence {
    let backend = ContainerInspectResult {
        name: "sylion-backend".to_owned(),
        state: state.to_owned(),
        exit_code,
        ..ContainerInspectResult::default()
    };
    let http = HttpCheckResult { status, failure: "refused".to_owned(), ..HttpCheckResult::default() };
    Evidence::from([
        ("backend".to_owned(), Outcome::succeeded(Operation::ContainerInspect(backend))),
        ("http".to_owned(), Outcome::succeeded(Operation::HttpCheck(http))),
    ])
}

#[test]
fn parameters_become_typed_arguments() {
    let bound = small().bind(&[parameter("service", "api"), parameter("wait", "1m")]).unwrap();
    let probes = bound.probes("sylion");
    let Some(request::Operation::ContainerInspect(inspect)) = &probes[0].request.operation else { panic!() };
    assert_eq!((inspect.service.as_str(), inspect.stack.as_str()), ("api", "sylion"));
    let Some(request::Operation::HttpCheck(http)) = &probes[1].request.operation else { panic!() };
    assert_eq!((http.wait_ms, http.target()), (60_000, v1::HttpTarget::Proxy));
    assert_eq!((probes[1].timeout_ms, probes[1].after.as_slice()), (10_000, &["backend".to_owned()][..]));
    assert_eq!(probes[0].timeout_ms, 10_000, "the catalogue's");
    assert_eq!(bound.steps("restart", "sylion")[0].timeout_ms, 120_000);
    let without = bound.probes("");
    let Some(request::Operation::ContainerInspect(inspect)) = &without[0].request.operation else { panic!() };
    assert_eq!(inspect.stack, "");
}

#[test]
fn wrong_parameters_are_refused_by_name() {
    let refused = |given: &[v1::Parameter]| {
        let errors = small().bind(given).unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(refused(&[parameter("servce", "x"), parameter("wait", "soon")]), @r##"
    parameter `servce`: the runbook has no such parameter; did you mean `service`?
    parameter `wait`: "soon" is no length of time such as 500ms, 90s, 2m, 1h
    "##);
    insta::assert_snapshot!(refused(&[parameter("service", "$(id)")]), @r##"
    parameter `service`: container_inspect: `service` is "$(id)", which does not match [A-Za-z0-9][A-Za-z0-9_.-]*
    parameter `service`: compose_restart: `services` is "$(id)", which does not match [A-Za-z0-9][A-Za-z0-9_.-]*
    parameter `service`: container_inspect: `service` is "$(id)", which does not match [A-Za-z0-9][A-Za-z0-9_.-]*
    "##);
    insta::assert_snapshot!(refused(&[parameter("wait", "2h")]), @r##"
    parameter `wait`: http_check: `wait_ms` is 7200000, which is not within 0 to 60000
    "##);
    let text = SMALL.replace("default: backend }", "required: true, pattern: \"[a-z]+\" }");
    let required = Runbook::parse(&text, "small.yaml").unwrap();
    assert_eq!(required.bind(&[]).unwrap_err()[0].to_string(), "parameter `service`: it is required");
    assert!(required.bind(&[parameter("service", "a1")]).is_err());
    assert!(required.bind(&[parameter("service", "api")]).is_ok());
}

#[test]
fn a_consequence_stands_under_its_cause_and_only_causes_are_cured() {
    let bound = small().bind(&[]).unwrap();
    let judgement = bound.judge(&subject(), &evidence("exited", 1, 0));
    assert_eq!(judgement.findings[0].says, "sylion-backend on vps1 is exited with 1");
    assert_eq!(judgement.findings[0].explained_by, "");
    assert_eq!(
        (judgement.findings[1].says.as_str(), judgement.findings[1].explained_by.as_str()),
        ("no answer: refused", "stopped")
    );
    assert_eq!(judgement.remedies, ["restart"]);
    assert_eq!(
        (judgement.restore.answer.as_str(), judgement.restore.why.as_str()),
        ("never", "nothing is lost")
    );
    let judgement = bound.judge(&subject(), &evidence("exited", 99, 0));
    assert_eq!(
        (judgement.restore.answer.as_str(), judgement.restore.why.as_str()),
        ("yes", "sylion-backend lost its data")
    );
    let judgement = bound.judge(&subject(), &evidence("running", 0, 0));
    assert_eq!(judgement.findings[0].state(), FindingState::RuledOut);
    assert_eq!((judgement.findings[1].explained_by.as_str(), judgement.remedies.len()), ("", 0));

    // The remedy of a consequence is no remedy while its cause stands.
    let text = SMALL.replace("for: [stopped]", "for: [silent]");
    let bound = Runbook::parse(&text, "small.yaml").unwrap().bind(&[]).unwrap();
    assert!(bound.judge(&subject(), &evidence("exited", 1, 0)).remedies.is_empty());
    assert_eq!(bound.judge(&subject(), &evidence("running", 0, 0)).remedies, ["restart"]);
}

#[test]
fn the_mildest_remedy_comes_first_and_an_unknown_condition_offers_none() {
    let text = SMALL.replace(
        "remedies:\n",
        "remedies:\n  - id: rebuild\n    title: Rebuild\n    for: [stopped]\n    risk: high\n    steps: [ { compose_up: { build: true } } ]\n",
    );
    let text = text.replace("    risk: low\n", "    risk: low\n    when: http.status == 0\n");
    let bound = Runbook::parse(&text, "small.yaml").unwrap().bind(&[]).unwrap();
    let mut known = evidence("exited", 1, 0);
    assert_eq!(bound.judge(&subject(), &known).remedies, ["restart", "rebuild"]);
    known.remove("http");
    assert_eq!(bound.judge(&subject(), &known).remedies, ["rebuild"]);
}

#[test]
fn a_partial_result_is_evidence_and_another_operations_is_not() {
    let bound = small().bind(&[]).unwrap();
    let mut seen = evidence("exited", 1, 0);
    let result = seen["backend"].result.clone();
    let failure = Failure::new("engine_slow", "the engine was slow");
    let failed = Outcome { result: result.clone(), ..Outcome::ended(OutcomeStatus::Failed, failure.clone()) };
    seen.insert("backend".to_owned(), failed);
    seen.insert("http".to_owned(), Outcome { result, ..Outcome::default() });
    let judgement = bound.judge(&subject(), &seen);
    assert_eq!(judgement.findings[0].state(), FindingState::Confirmed);
    assert_eq!(judgement.findings[1].missing, "http: it answered with container_inspect");
    seen.insert("backend".to_owned(), Outcome::ended(OutcomeStatus::Unreachable, Failure::default()));
    seen.insert("http".to_owned(), Outcome::ended(OutcomeStatus::Failed, failure));
    let judgement = bound.judge(&subject(), &seen);
    assert_eq!(judgement.findings[1].missing, "http: the engine was slow");
    assert!(judgement.remedies.is_empty());
}

#[test]
fn text_from_a_host_stays_text() {
    let bound = small().bind(&[]).unwrap();
    let mut seen = evidence("exited", 1, 0);
    let hostile = ContainerInspectResult {
        name: format!("\u{1b}[2J{{{{ params.service }}}}\n{}", "x".repeat(10_000)),
        state: "exited".to_owned(),
        ..ContainerInspectResult::default()
    };
    seen.insert("backend".to_owned(), Outcome::succeeded(Operation::ContainerInspect(hostile)));
    let says = &bound.judge(&subject(), &seen).findings[0].says;
    assert!(says.starts_with("\\u{1b}[2J{{ params.service }}\\nxxx"), "{says}");
    assert!(says.chars().count() < 300 && says.ends_with("is exited with 0"), "{says}");
}

#[test]
fn the_rollout_is_read() {
    let rollout = small().rollout;
    assert_eq!((rollout.batches, rollout.max_failures), (vec![Batch::Targets(1), Batch::Percent(50)], 1));
}

/// Whatever can be a probe can be asked of a stack, and holds its name where it has a field for it.
#[test]
fn every_operation_can_stand_in_a_runbook() {
    for operation in OPERATIONS {
        let arguments = match operation.name {
            "unit_status" | "unit_restart" | "unit_reload" => "{ unit: nginx.service }",
            "compose_build_check" | "compose_rollback" | "compose_rollback_preview" => "{ service: backend }",
            name if name.starts_with("firewall_allow") || name.starts_with("firewall_deny") => {
                "{ port: 443, protocol: tcp }"
            }
            name if name.starts_with("migration_") => "{ file: 0001_init.sql }",
            "backup_restore" | "backup_restore_preview" | "backup_rebuild" | "backup_rebuild_preview" => {
                "{ backup: nightly.sql.gz }"
            }
            "compose_restart" => "{ services: [backend] }",
            "job_defer" | "job_resume" => "{ job: backup.timer }",
            "file_tail" => "{ path: /var/log/syslog }",
            "exec" => "{ program: ls, args: [-l, \"{{ params.service }}\"] }",
            _ => "{}",
        };
        let call = format!("{}: {arguments}", operation.name);
        let text = match operation.needs_order() {
            true => SMALL.replace("compose_restart: { services: [\"{{ params.service }}\"] }", &call),
            false => SMALL.replace("  - id: http\n", &format!("  - id: extra\n    {call}\n  - id: http\n")),
        };
        // What loses something needs a reason.
        let text = text.replace("risk: low\n", "risk: low\n    when: backend.exit_code == 0\n");
        let runbook = Runbook::parse(&text, operation.name).unwrap_or_else(|found| panic!("{found}"));
        let bound = runbook.bind(&[]).unwrap();
        let request = match operation.needs_order() {
            true => bound.steps("restart", "sylion").remove(0).request,
            false => bound.probes("sylion").remove(1).request,
        };
        assert_eq!(request.operation.as_ref().unwrap().name(), operation.name);
        let has_stack =
            vigie_proto::descriptors::request(operation.name).unwrap().get_field_by_name("stack").is_some();
        assert_eq!(format!("{request:?}").contains("sylion"), has_stack, "{request:?}");
    }
}

proptest! {
    /// Nothing in a parameter's value becomes anything but that value.
    #[test]
    fn a_parameter_arrives_as_it_was_given(value in r#"[ -~é\n]{0,40}"#) {
        let text = SMALL.replace(
            "compose_restart: { services: [\"{{ params.service }}\"] }",
            "exec: { program: echo, args: [\"{{ params.service }}\", \"a{{ params.service }}b\"] }",
        );
        let text = text.replace("container_inspect: { service: \"{{ params.service }}\" }", "container_inspect: { service: x }");
        let runbook = Runbook::parse(&text, "small.yaml").unwrap();
        let bound = runbook.bind(&[parameter("service", &value)]).unwrap();
        let step = bound.steps("restart", "").remove(0);
        let Some(request::Operation::Exec(exec)) = step.request.operation else { panic!() };
        prop_assert_eq!(exec.args, [value.clone(), format!("a{value}b")]);
    }
}
