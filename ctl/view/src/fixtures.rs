//! Runs written by hand, as a controller would log them.

#![allow(clippy::unwrap_used, reason = "for tests alone")]

use vigie_proto::{
    order::{Batch, digest},
    v1::{
        CheckState, ChecklistLine, Closed, ComposeRestartRequest, Concluded, Conclusion, Evidence, Failure,
        Finding, FindingState, Leaf, Manifest, Observation, Observed, Opened, OpenedRunbook, Outcome,
        OutcomeStatus, PlanEntry, PlanStep, Planned, ProbePurpose, Request, RestoreAdvice, RunEvent, RunMode,
        RunSpec, RunVerdict, RunbookCall, Selector, Signed, Target, TaskEnded, TasksEnded, plan_step,
        request, result, run_event::Event, run_spec::Kind,
    },
};

use super::run::RunView;

pub const RUN: &str = "01900000-0000-7000-8000-000000000001";
const AT_MS: i64 = 1_700_000_000_000;

pub const RUNBOOK: &str = r#"
id: stopped
title: the backend is stopped
scope: stack
diagnose:
  - id: backend
    container_inspect: { service: backend }
findings:
  - id: stopped
    title: the backend is stopped
    when: backend.state == "exited"
    says: "the backend exited with {{ backend.exit_code }}"
remedies:
  - id: restart
    title: restart the backend
    for: [stopped]
    risk: low
    steps:
      - compose_restart: { services: [backend] }
verify:
  probes:
    - id: health
      http_check: { target: proxy }
  until: health.status == 200
  within: 10s
  every: 1s
restore_backup:
  - answer: never
    why: no data is touched
"#;

/// A run in the making.
pub struct Fleet {
    pub spec: RunSpec,
    targets: Vec<Target>,
    /// The ids of a run of every runbook; none for one of a single runbook.
    runbooks: Vec<&'static str>,
    events: Vec<Event>,
}

pub fn host(number: usize) -> String {
    format!("01900000-0000-7000-8000-0000000001{number:02}")
}

/// Targets vps1, vps2, … with the stack `sylion`.
pub fn fleet(count: usize, kind: Kind) -> Fleet {
    let targets = (1..=count)
        .map(|number| Target {
            host: host(number),
            host_name: format!("vps{number}"),
            incarnation: 1,
            stack: "sylion".to_owned(),
        })
        .collect();
    let selector = Selector { all: true, ..Default::default() };
    let spec = RunSpec { selector: Some(selector), kind: Some(kind), ..RunSpec::default() };
    Fleet { spec, targets, runbooks: Vec::new(), events: Vec::new() }
}

pub fn runbook(mode: RunMode) -> Kind {
    Kind::Runbook(RunbookCall { id: "stopped".to_owned(), mode: mode.into(), ..Default::default() })
}

fn restart(stack: &str) -> Request {
    let restart = ComposeRestartRequest { stack: stack.to_owned(), services: vec!["backend".to_owned()] };
    Request { operation: Some(request::Operation::ComposeRestart(restart)) }
}

/// Two targets whose backend a runbook would restart.
pub fn restart_runbook() -> Fleet {
    fleet(2, runbook(RunMode::Run))
}

/// The same by hand.
pub fn restart_operation() -> Fleet {
    fleet(2, Kind::Operation(restart("")))
}

impl Fleet {
    pub fn add(&mut self, event: Event) -> &mut Self {
        self.events.push(event);
        self
    }

    /// Makes it a run about these stacks of vps1, which the plan restarts in this order.
    pub fn stacks(&mut self, stacks: &[&str]) -> &mut Self {
        let target = |stack: &&str| Target { stack: (*stack).to_owned(), ..self.targets[0].clone() };
        self.targets = stacks.iter().map(target).collect();
        self
    }

    /// Makes it a run of every runbook, all of which read the same.
    pub fn opens(&mut self, runbooks: impl IntoIterator<Item = &'static str>) -> &mut Self {
        self.runbooks.extend(runbooks);
        self
    }

    fn is_runbook(&self) -> bool {
        matches!(self.spec.kind, Some(Kind::Runbook(_)))
    }

    /// The run as far as its events go, one every 300 ms.
    pub fn view(&self) -> RunView {
        let text = if self.is_runbook() { RUNBOOK } else { "" };
        let title = match &self.spec.kind {
            Some(Kind::Runbook(call)) => format!("{} {}", super::runs::mode_word(call.mode()), call.id),
            Some(Kind::Operation(request)) => request.operation.as_ref().map_or("", |o| o.name()).to_owned(),
            None => String::new(),
        };
        let opened = Event::Opened(Opened {
            spec: Some(self.spec.clone()),
            operator: "ana".to_owned(),
            targets: self.targets.clone(),
            runbook_text: text.to_owned(),
            runbook_digest: if text.is_empty() { Vec::new() } else { digest(text.as_bytes()).to_vec() },
            title,
            runbooks: self
                .runbooks
                .iter()
                .map(|id| OpenedRunbook {
                    id: (*id).to_owned(),
                    text: RUNBOOK.to_owned(),
                    digest: Vec::new(),
                })
                .collect(),
            ..Opened::default()
        });
        let mut view = RunView::new(RUN);
        for (index, event) in std::iter::once(&opened).chain(&self.events).enumerate() {
            let at_ms = AT_MS + 300 * i64::try_from(index).unwrap();
            view.apply(RunEvent { seq: index as u64 + 1, at_ms, event: Some(event.clone()) });
        }
        view
    }

    /// The plan that restarts the backend everywhere.
    pub fn plan(&self) -> Event {
        let timeout_ms = 180_000;
        let leaf = |(index, target): (usize, &Target)| Leaf {
            order: format!("01900000-0000-7000-8000-0000000002{index:02}"),
            host: target.host.clone(),
            incarnation: target.incarnation,
            step: 0,
            operation: Some(restart(&target.stack)),
            timeout_ms,
            ..Default::default()
        };
        let leaves: Vec<_> = self.targets.iter().enumerate().map(leaf).collect();
        let remedy = if self.is_runbook() { "restart" } else { "" };
        let title = if self.is_runbook() { "restart the backend" } else { "compose_restart" };
        let entry = |index: u32| PlanEntry {
            target: index,
            remedy: remedy.to_owned(),
            title: title.to_owned(),
            leaves: vec![index],
            preview: vec!["would restart backend".to_owned()],
            steps: match self.is_runbook() {
                true => vec![PlanStep { kind: Some(plan_step::Kind::Leaf(index)), when: String::new() }],
                false => Vec::new(),
            },
            ..Default::default()
        };
        let runbook_digest = if self.is_runbook() { digest(RUNBOOK.as_bytes()).to_vec() } else { Vec::new() };
        let manifest = Manifest {
            batch: "01900000-0000-7000-8000-000000000300".to_owned(),
            run: RUN.to_owned(),
            runbook_digest,
            not_before_ms: AT_MS,
            not_after_ms: AT_MS + 900_000,
            person: "ana".to_owned(),
            ..Default::default()
        };
        let batch = Batch::assemble(manifest, &leaves);
        Event::Planned(Planned {
            entries: (0..u32::try_from(leaves.len()).unwrap()).map(entry).collect(),
            manifest: batch.manifest().to_vec(),
            leaves: batch.leaves().to_vec(),
            later: 0,
        })
    }

    /// The run when it waits for a signature.
    pub fn planned(&self) -> RunView {
        let mut view = self.view();
        let seq = view.last_seq + 1;
        view.apply(RunEvent { seq, at_ms: AT_MS + 1000, event: Some(self.plan()) });
        view
    }
}

pub fn signed() -> Event {
    Event::Signed(Signed { operator: "ana".to_owned(), ..Default::default() })
}

pub fn ended(outcomes: impl IntoIterator<Item = Outcome>) -> Event {
    let tasks = outcomes.into_iter().enumerate().map(|(index, outcome)| TaskEnded {
        order: format!("01900000-0000-7000-8000-0000000002{index:02}"),
        outcome: Some(outcome),
    });
    Event::Ended(TasksEnded { tasks: tasks.collect() })
}

pub fn closed(verdict: RunVerdict, reason: &str) -> Event {
    Event::Closed(Closed { verdict: verdict.into(), reason: reason.to_owned() })
}

/// Answers to one probe, by target.
pub fn observed(outcomes: impl IntoIterator<Item = (u32, Outcome)>) -> Event {
    asked("", outcomes)
}

/// The same to one with an id.
pub fn asked(probe: &str, outcomes: impl IntoIterator<Item = (u32, Outcome)>) -> Event {
    let observations = outcomes.into_iter().map(|(target, outcome)| Observation {
        target,
        probe: probe.to_owned(),
        purpose: ProbePurpose::Diagnosis.into(),
        outcome: Some(outcome),
        ..Default::default()
    });
    Event::Observed(Observed { observations: observations.collect() })
}

pub fn concluded(conclusions: impl IntoIterator<Item = Conclusion>) -> Event {
    Event::Concluded(Concluded { conclusions: conclusions.into_iter().collect() })
}

pub fn finding(id: &str, state: FindingState, says: &str) -> Finding {
    Finding { id: id.to_owned(), state: state.into(), says: says.to_owned(), ..Default::default() }
}

pub fn conclusion(target: u32, findings: Vec<Finding>) -> Conclusion {
    Conclusion { target, purpose: ProbePurpose::Diagnosis.into(), findings, ..Default::default() }
}

pub fn unreachable(name: &str) -> Outcome {
    let failure = Failure::new("unreachable", format!("{name} is not connected")).hint("is the host up?");
    Outcome::ended(OutcomeStatus::Unreachable, failure)
}

pub fn seen() -> Outcome {
    Outcome::succeeded(result::Operation::ContainerInspect(Default::default()))
}

/// A crash-looping backend: a cause with evidence, a consequence, and what else was looked at.
pub fn crash_loop(target: u32, variable: &str, restarts: u32) -> Conclusion {
    use FindingState::{Confirmed, RuledOut, Unknown};
    let evidence = |reference: &str, value: String| Evidence { reference: reference.to_owned(), value };
    let cause = Finding {
        advise: "add the variable, then `compose up -d backend`: a restart would not read it".to_owned(),
        evidence: vec![
            evidence("backend.restart_count", restarts.to_string()),
            evidence("env.missing", format!("[{variable}]")),
        ],
        ..finding(
            "missing_variable",
            Confirmed,
            &format!("the backend crash-loops: {variable} is missing from .env.prod"),
        )
    };
    let consequence = Finding {
        explained_by: "missing_variable".to_owned(),
        ..finding("bad_gateway", Confirmed, "nginx answers 502")
    };
    let unknown = Finding {
        missing: "probe load failed: the host did not answer in time".to_owned(),
        ..finding("overload", Unknown, "the host is overloaded")
    };
    Conclusion {
        remedy: "restart".to_owned(),
        restore: Some(RestoreAdvice { answer: "never".to_owned(), why: "no data is touched".to_owned() }),
        ..conclusion(
            target,
            vec![
                consequence,
                cause,
                finding("postgres_down", RuledOut, "PostgreSQL is down"),
                finding("redis_down", RuledOut, "Redis is down"),
                unknown,
            ],
        )
    }
}

pub fn verified(target: u32, well: bool) -> Conclusion {
    let line = |says: &str, state: CheckState| ChecklistLine { says: says.to_owned(), state: state.into() };
    let state = if well { CheckState::Done } else { CheckState::NotDone };
    Conclusion {
        target,
        purpose: ProbePurpose::Verification.into(),
        verified: well,
        checklist: vec![line("/health answers 200", state), line("monitoring is green", CheckState::Open)],
        ..Default::default()
    }
}
