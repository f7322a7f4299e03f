//! The state machine driven by a small world: hosts that answer, vanish and come back, and a driver that dies.

use std::collections::{BTreeMap, BTreeSet};

use vigie_proto::{
    id::{BatchId, HostId, RunId, TaskId},
    order::{Domain, SigningKey},
    v1::{
        self, ComposeRestartResult, ContainerInspectResult, ExecRequest, HostLoadRequest, HttpCheckResult,
        Leaf, Opened, Outcome, OutcomeStatus, Owned, PostgresTerminatePreviewResult, Request, RunEvent,
        RunMode, RunPhase, RunSpec, RunVerdict, RunbookCall, Target, request, result, run_event::Event,
        run_spec::Kind,
    },
};

use super::*;
use crate::Runbook;

const RUNBOOK: &str = r#"
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

mod beside;
mod chance;
mod doubt;
mod losses;
mod room;
mod steps;

/// Ids that a test can repeat.
struct CountedIds(u64);

impl CountedIds {
    fn next<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self) -> T {
        self.0 += 1;
        format!("01900000-0000-7000-8000-{:012x}", self.0).parse().unwrap()
    }
}

impl Ids for CountedIds {
    fn task(&mut self) -> TaskId {
        self.next()
    }

    fn batch(&mut self) -> BatchId {
        self.next()
    }
}

/// Hosts, their agents' memory, and the driver's log.
struct World {
    ids: CountedIds,
    now_ms: i64,
    hosts: Vec<HostId>,
    connected: BTreeSet<HostId>,
    /// Hosts whose backend is stopped, and hosts where a restart does not help.
    stopped: BTreeSet<HostId>,
    hopeless: BTreeSet<HostId>,
    /// What agents have done, by order: they never do one twice.
    journal: BTreeMap<TaskId, Outcome>,
    effects: BTreeMap<TaskId, u32>,
    /// By challenge: its host, until when it is good, and the digest of what was found.
    challenges: BTreeMap<Vec<u8>, (HostId, i64, Vec<u8>)>,
    /// Hosts whose stack another run changes, and when the remedy was tried before.
    held: BTreeMap<HostId, Holder>,
    tries: Vec<i64>,
    events: Vec<RunEvent>,
    state: State,
    key: SigningKey,
}

impl World {
    fn new(hosts: usize, kind: &Kind) -> Self {
        Self::reading(RUNBOOK, hosts, kind)
    }

    fn reading(text: &str, hosts: usize, kind: &Kind) -> Self {
        let mut ids = CountedIds(0);
        let hosts: Vec<HostId> = (0..hosts).map(|_| ids.next()).collect();
        let run: RunId = ids.next();
        let targets = hosts
            .iter()
            .enumerate()
            .map(|(number, host)| Target {
                host: host.to_string(),
                host_name: format!("vps{}", number + 1),
                incarnation: 1,
                stack: if matches!(kind, Kind::Runbook(_)) { "sylion".to_owned() } else { String::new() },
            })
            .collect();
        let runbook = Runbook::parse(text, "test").unwrap();
        let spec = RunSpec { kind: Some(kind.clone()), ..RunSpec::default() };
        let runbook = matches!(kind, Kind::Runbook(_)).then_some(&runbook);
        let opened: Opened = open(spec, "ada", targets, runbook).unwrap();
        let now_ms = 1_800_000_000_000;
        let events = vec![
            RunEvent { seq: 1, at_ms: now_ms, event: Some(Event::Opened(opened)) },
            RunEvent {
                seq: 2,
                at_ms: now_ms,
                event: Some(Event::Owned(Owned { epoch: 1, controller: "test".to_owned() })),
            },
        ];
        Self {
            state: State::fold(run, &events).unwrap(),
            ids,
            now_ms,
            connected: hosts.iter().copied().collect(),
            hosts,
            stopped: BTreeSet::new(),
            hopeless: BTreeSet::new(),
            journal: BTreeMap::new(),
            effects: BTreeMap::new(),
            challenges: BTreeMap::new(),
            held: BTreeMap::new(),
            tries: Vec::new(),
            events,
            key: SigningKey::from_seed(&[1; 32]),
        }
    }

    fn runbook(hosts: usize, mode: RunMode) -> Self {
        Self::of(RUNBOOK, hosts, mode)
    }

    fn of(text: &str, hosts: usize, mode: RunMode) -> Self {
        Self::reading(
            text,
            hosts,
            &Kind::Runbook(RunbookCall {
                id: "stopped".to_owned(),
                mode: mode.into(),
                ..RunbookCall::default()
            }),
        )
    }

    fn input(&mut self, input: Input) -> Result<(), Rejected> {
        let connected = self.connected.clone();
        let mut around = Surroundings {
            now_ms: self.now_ms,
            ids: &mut self.ids,
            connected: &|host| connected.contains(&host),
            held: &|host, _| self.held.get(&host).cloned(),
            tries: &|_, _, _| self.tries.clone(),
        };
        let mut decision = decide(&self.state, [input], &mut around);
        self.events.extend(decision.events);
        self.state = decision.state;
        decision.rejections.remove(0).map_or(Ok(()), Err)
    }

    /// The driver dies and another folds the log again.
    fn crash(&mut self) {
        let folded = State::fold(self.state.run(), &self.events).unwrap();
        assert_eq!(format!("{folded:?}"), format!("{:?}", self.state), "fold(events) is the state");
        let epoch = folded.epoch() + 1;
        let owned = Event::Owned(Owned { epoch, controller: "test".to_owned() });
        self.state = folded;
        let event = RunEvent { seq: self.state.last_seq() + 1, at_ms: self.now_ms, event: Some(owned) };
        self.state.apply(&event).unwrap();
        self.events.push(event);
    }

    /// The log of a closed run folds to the state that it was.
    fn crash_closed(&self) {
        let folded = State::fold(self.state.run(), &self.events).unwrap();
        assert_eq!(format!("{folded:?}"), format!("{:?}", self.state), "fold(events) is the state");
    }

    fn wanted(&self) -> Vec<Effect> {
        wanted(&self.state, self.now_ms, &|host| self.connected.contains(&host))
    }

    /// Lets the world answer one thing that is wanted; false when nothing is left but waiting for a person.
    fn step(&mut self, pick: usize) -> bool {
        self.input(Input::Tick).unwrap();
        let effects = self.wanted();
        if effects.is_empty() {
            return false;
        }
        let reachable: Vec<_> = effects
            .iter()
            .filter(|effect| match effect {
                Effect::Probe { from, .. } if *from != Vantage::Host => true,
                Effect::Probe { host, .. } | Effect::Execute { host, .. } | Effect::Cancel { host, .. } => {
                    self.connected.contains(host)
                }
                Effect::WakeAt(_) => false,
            })
            .cloned()
            .collect();
        let Some(effect) = reachable.get(pick % reachable.len().max(1)) else {
            let Some(Effect::WakeAt(at)) = effects.iter().find(|effect| matches!(effect, Effect::WakeAt(_)))
            else {
                panic!("waits for nothing: {effects:?}");
            };
            self.now_ms = self.now_ms.max(*at);
            return true;
        };
        match effect.clone() {
            Effect::Probe { key, host, request, .. } => {
                let prepares = key.purpose == ProbePurpose::Preparation;
                let (outcome, challenge) = match prepares {
                    true => self.prepare(host),
                    false => (self.answer(host, &request), Challenge::default()),
                };
                self.input(Input::Probed { key, outcome, asked_at_ms: self.now_ms, challenge }).unwrap();
            }
            Effect::Execute { order, host, execute } => {
                let outcome = self.execute(order, host, &execute.leaf);
                self.input(Input::Started { order, at_ms: self.now_ms }).unwrap();
                self.input(Input::Ended { order, outcome }).unwrap();
            }
            // An agent that never had it will not take it any more; for one that carried it out it comes too late.
            Effect::Cancel { order, .. } => {
                let never =
                    Outcome::ended(OutcomeStatus::Cancelled, v1::Failure::new("withdrawn", "never begun"));
                let outcome = self.journal.entry(order).or_insert(never).clone();
                self.input(Input::Ended { order, outcome }).unwrap();
            }
            Effect::WakeAt(_) => {}
        }
        self.now_ms += 10;
        true
    }

    fn answer(&self, host: HostId, request: &Request) -> Outcome {
        let ill = self.stopped.contains(&host);
        Outcome::succeeded(match request.operation.as_ref().unwrap() {
            request::Operation::ContainerInspect(inspect) => {
                assert_eq!(inspect.stack, "sylion");
                result::Operation::ContainerInspect(ContainerInspectResult {
                    present: true,
                    state: if ill { "exited" } else { "running" }.to_owned(),
                    ..Default::default()
                })
            }
            request::Operation::HttpCheck(_) => result::Operation::HttpCheck(HttpCheckResult {
                status: if ill { 502 } else { 200 },
                ..Default::default()
            }),
            request::Operation::HostChanges(_) => {
                result::Operation::HostChanges(v1::HostChangesResult::default())
            }
            request::Operation::ReachabilityCheck(_) => {
                result::Operation::ReachabilityCheck(v1::ReachabilityCheckResult {
                    address: "192.0.2.7".to_owned(),
                    ping_answered: !ill,
                    status: if ill { 0 } else { 200 },
                    ..Default::default()
                })
            }
            request::Operation::StackLogs(logs) => {
                assert!(logs.since_s < 600, "a verification reads what was written since the last action");
                result::Operation::StackLogs(v1::StackLogsResult::default())
            }
            request::Operation::HostLoad(_) => result::Operation::HostLoad(v1::HostLoadResult::default()),
            other => panic!("not asked for: {}", other.name()),
        })
    }

    fn prepare(&mut self, host: HostId) -> (Outcome, Challenge) {
        use prost::Message as _;
        let found = PostgresTerminatePreviewResult { present: true, total: 3, ..Default::default() };
        let outcome = Outcome::succeeded(result::Operation::PostgresTerminatePreview(found));
        let challenge = self.ids.next::<TaskId>().to_string().into_bytes();
        let found = vigie_proto::order::digest(&outcome.result.as_ref().unwrap().encode_to_vec()).to_vec();
        self.challenges.insert(challenge.clone(), (host, self.now_ms + 300_000, found));
        (outcome, Challenge { challenge, valid_ms: 300_000 })
    }

    fn execute(&mut self, order: TaskId, host: HostId, leaf: &[u8]) -> Outcome {
        use prost::Message as _;
        let leaf = Leaf::decode(leaf).unwrap();
        assert_eq!((leaf.host, leaf.order), (host.to_string(), order.to_string()));
        if let Some(outcome) = self.journal.get(&order) {
            return outcome.clone();
        }
        if !leaf.challenge.is_empty() {
            // As an agent does: once, in time, for this host and what it found.
            let (by, until, found) = self.challenges.remove(&leaf.challenge).expect("a challenge of its own");
            assert!(by == host && leaf.prepared == found, "the challenge is for this");
            if self.now_ms >= until {
                return Outcome::refused(v1::Failure::new("challenge_expired", "too late"));
            }
        }
        *self.effects.entry(order).or_default() += 1;
        if !self.hopeless.contains(&host) {
            self.stopped.remove(&host);
        }
        let outcome = Outcome::succeeded(result::Operation::ComposeRestart(ComposeRestartResult::default()));
        self.journal.insert(order, outcome.clone());
        outcome
    }

    fn finish(&mut self) -> (RunVerdict, String) {
        while self.state.closed().is_none() && self.step(0) {}
        let (verdict, reason, _) = self.state.closed().unwrap_or((RunVerdict::Unspecified, "", 0));
        (verdict, reason.to_owned())
    }

    fn sign(&mut self) -> Result<(), Rejected> {
        let manifest = self.state.plan().unwrap().batch.manifest().to_vec();
        let signatures = vec![self.key.sign(Domain::Manifest, &manifest)];
        self.input(Input::Signed { manifest, signatures, operator: "ada".to_owned() })
    }
}

#[test]
fn a_diagnosis_tells_the_ill_from_the_well() {
    let mut world = World::runbook(3, RunMode::Diagnose);
    world.stopped.insert(world.hosts[1]);
    assert_eq!(world.finish(), (RunVerdict::Findings, "1 of 3 not well".to_owned()));
    let says = |target: &TargetState| {
        let findings = &target.conclusion.as_ref().unwrap().findings;
        (findings[0].state(), findings[0].says.clone())
    };
    let targets = world.state.targets();
    assert_eq!(says(&targets[0]).0, v1::FindingState::RuledOut);
    assert_eq!(says(&targets[1]), (v1::FindingState::Confirmed, "the backend exited with 0".to_owned()));
    assert_eq!(targets[1].conclusion.as_ref().unwrap().restore.as_ref().unwrap().answer, "never");
}

#[test]
fn a_host_that_is_away_is_unreachable_and_delays_nobody() {
    let mut world = World::runbook(2, RunMode::Diagnose);
    world.connected.remove(&world.hosts[0]);
    let opened = world.now_ms;
    assert_eq!(world.finish().0, RunVerdict::Unreachable);
    assert!(world.now_ms - opened <= 2_000, "gave up within its grace");
    assert!(world.state.targets()[0].is_unreachable() && !world.state.targets()[1].is_unreachable());
}

#[test]
fn a_run_waits_for_its_signature_then_repairs_and_verifies() {
    let mut world = World::runbook(2, RunMode::Run);
    world.stopped.insert(world.hosts[1]);
    while world.step(0) {}
    assert_eq!(world.state.phase(), RunPhase::AwaitingSignature);
    assert!(world.wanted().is_empty() && world.effects.is_empty(), "nothing happens without a yes");
    assert_eq!(world.state.tasks().count(), 1, "the healthy host is left alone");
    world.sign().unwrap();
    world.sign().unwrap();
    assert_eq!(world.finish(), (RunVerdict::Resolved, "1 repaired and verified".to_owned()));
    assert!(world.effects.values().all(|times| *times == 1));
}

#[test]
fn nothing_to_repair_ends_without_a_plan() {
    let mut world = World::runbook(2, RunMode::Run);
    assert_eq!(world.finish(), (RunVerdict::Ok, "nothing found".to_owned()));
    assert!(world.state.tasks().next().is_none());
}

#[test]
fn planning_changes_nothing() {
    let mut world = World::runbook(1, RunMode::Plan);
    world.stopped.insert(world.hosts[0]);
    assert_eq!(world.finish().0, RunVerdict::Findings);
    assert_eq!(world.state.tasks().count(), 1);
    assert!(world.effects.is_empty());
}

#[test]
fn a_canary_that_does_not_recover_stops_the_rollout() {
    let mut world = World::runbook(3, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    world.hopeless.insert(world.hosts[0]);
    while world.step(0) {}
    world.sign().unwrap();
    assert_eq!(world.finish().0, RunVerdict::Unresolved);
    assert_eq!(world.effects.len(), 1, "only the canary was touched");
    let outcomes: Vec<_> = world.state.tasks().map(|task| task.outcome.as_ref().unwrap().status()).collect();
    assert_eq!(outcomes, [OutcomeStatus::Succeeded, OutcomeStatus::Cancelled, OutcomeStatus::Cancelled]);
}

/// How many targets have gone wrong or are under way.
fn at_risk(world: &World) -> usize {
    let risky = |outcome: Option<&Outcome>| outcome.is_none_or(|outcome| !outcome.is_success());
    let tasks = world.state.tasks().filter(|task| task.state != TaskState::Pending);
    tasks
        .filter(|task| {
            let target = &world.state.targets()[task.target];
            let verified = target.verified.as_ref().is_some_and(|verified| verified.verified);
            risky(task.outcome.as_ref()) || !verified
        })
        .count()
}

#[test]
fn a_budget_is_never_exceeded_whatever_becomes_of_those_under_way() {
    let text = format!("{RUNBOOK}rollout: {{ batches: [1, 10], max_failures: 9, budget: 3 }}\n");
    let mut world = World::of(&text, 8, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    while world.step(0) {}
    world.sign().unwrap();
    // The canary does well; then nothing helps any more.
    while world.effects.is_empty() {
        assert!(world.step(0));
    }
    world.hopeless.extend(world.hosts.clone());
    let mut most = 0;
    while world.state.closed().is_none() && world.step(1) {
        most = most.max(at_risk(&world));
    }
    assert_eq!(most, 3, "as many as may go wrong at once, and no more");
    assert_eq!(
        world.state.closed().map(|(verdict, reason, _)| (verdict, reason)),
        Some((RunVerdict::Unresolved, "7 of 8 not repaired"))
    );
    assert_eq!(world.effects.len(), 4, "one that did well, and three that did not");
}

#[test]
fn signatures_that_do_not_fit_are_rejected() {
    let mut world = World::runbook(1, RunMode::Run);
    world.stopped.insert(world.hosts[0]);
    assert_eq!(
        world.input(Input::Signed { manifest: vec![], signatures: vec![], operator: "ada".to_owned() }),
        Err(Rejected::NotAwaitingSignature)
    );
    while world.step(0) {}
    let manifest = world.state.plan().unwrap().batch.manifest().to_vec();
    let signatures = vec![world.key.sign(Domain::Manifest, &manifest)];
    let signed = |manifest: &[u8], signatures: &[Signature], operator: &str| Input::Signed {
        manifest: manifest.to_vec(),
        signatures: signatures.to_vec(),
        operator: operator.to_owned(),
    };
    assert_eq!(world.input(signed(b"other", &signatures, "ada")), Err(Rejected::OtherPlan));
    assert_eq!(world.input(signed(&manifest, &[], "ada")), Err(Rejected::NoSignature));
    assert!(matches!(world.input(signed(&manifest, &signatures, "eve")), Err(Rejected::OtherPerson { .. })));
    world.now_ms += 3_600_000;
    world.input(signed(&manifest, &signatures, "ada")).unwrap();
    assert_eq!(world.state.phase(), RunPhase::AwaitingSignature, "a late signature gets a new plan");
    assert_ne!(world.state.plan().unwrap().batch.manifest(), manifest);
    world.sign().unwrap();
    assert_eq!(world.finish().0, RunVerdict::Resolved);
    assert_eq!(world.sign(), Err(Rejected::Closed));
}

#[test]
fn a_single_operation_reports_each_host() {
    let load = Request { operation: Some(request::Operation::HostLoad(HostLoadRequest::default())) };
    let mut world = World::new(3, &Kind::Operation(load));
    world.connected.remove(&world.hosts[2]);
    assert_eq!(world.finish(), (RunVerdict::Unreachable, "1 of 3 unreachable".to_owned()));
}

#[test]
fn an_order_to_a_host_that_is_away_is_given_up_and_one_that_was_sent_is_in_doubt() {
    let exec = ExecRequest { program: "uptime".to_owned(), args: vec![] };
    let exec = Request { operation: Some(request::Operation::Exec(exec)) };
    let mut world = World::new(2, &Kind::Operation(exec));
    world.connected.remove(&world.hosts[1]);
    world.input(Input::Tick).unwrap();
    world.sign().unwrap();
    // The first host's order is sent, and the host is lost before a word comes back.
    world.connected.clear();
    assert_eq!(world.finish().0, RunVerdict::InDoubt);
    let outcome = |place: usize| world.state.tasks().nth(place).unwrap().outcome.clone().unwrap();
    assert_eq!(outcome(0).status(), OutcomeStatus::InDoubt);
    assert_eq!(outcome(1).status(), OutcomeStatus::Unreachable);
    assert!(world.effects.is_empty());
}

#[test]
fn cancelling_is_told_truthfully() {
    let cancel = || Input::Cancel { operator: "ada".to_owned(), reason: String::new() };
    let planned = || {
        let mut world = World::runbook(1, RunMode::Run);
        world.stopped.insert(world.hosts[0]);
        while world.step(0) {}
        world
    };
    let (mut world, mut late, mut sent) = (planned(), planned(), planned());
    let mut declined = World::runbook(1, RunMode::Run);
    declined.input(cancel()).unwrap();
    assert_eq!(declined.finish(), (RunVerdict::Cancelled, "cancelled by ada".to_owned()));
    // It runs, and its agent stops it.
    world.sign().unwrap();
    let order = world.state.tasks().next().unwrap().order;
    world.input(Input::Started { order, at_ms: world.now_ms }).unwrap();
    world.input(cancel()).unwrap();
    let withdrawals = world.wanted();
    assert!(
        withdrawals
            .iter()
            .any(|effect| matches!(effect, Effect::Cancel { order: asked, .. } if *asked == order))
    );
    assert!(
        !withdrawals.iter().any(|effect| matches!(effect, Effect::Execute { .. })),
        "nothing is handed over again"
    );
    let stopped = Outcome::ended(OutcomeStatus::Cancelled, v1::Failure::new("stopped", "as asked"));
    world.input(Input::Ended { order, outcome: stopped }).unwrap();
    assert_eq!(
        world.finish(),
        (RunVerdict::Cancelled, "cancelled by ada; 1 stopped while running".to_owned())
    );

    // It was sent, and its agent never had it.
    sent.sign().unwrap();
    sent.input(cancel()).unwrap();
    assert_eq!(sent.finish().0, RunVerdict::Cancelled);
    assert!(sent.effects.is_empty());

    // It has ended, and only its verification is left.
    late.sign().unwrap();
    while late.state.phase() != RunPhase::Verifying {
        assert!(late.step(0));
    }
    assert_eq!(late.input(cancel()), Err(Rejected::TooLate), "what was done is not taken back");
}

#[test]
fn what_was_not_sent_can_be_withdrawn() {
    let mut world = World::runbook(2, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    while world.step(0) {}
    world.sign().unwrap();
    world.input(Input::Cancel { operator: "ada".to_owned(), reason: "wrong host".to_owned() }).unwrap();
    assert_eq!(world.finish().0, RunVerdict::Cancelled);
    assert!(world.effects.is_empty(), "the canary was sent and did not begin, the rest never was");
    let last = world.state.tasks().nth(1).unwrap().outcome.clone().unwrap();
    assert_eq!(last.status(), OutcomeStatus::Cancelled);
    assert_eq!(last.failure.unwrap().message, "not sent: cancelled by ada: wrong host");
}

#[test]
fn a_log_with_a_hole_is_refused() {
    let mut world = World::runbook(1, RunMode::Diagnose);
    world.finish();
    let mut events = world.events.clone();
    events.remove(2);
    assert!(matches!(State::fold(world.state.run(), &events), Err(Corrupt::Sequence { .. })));
    assert!(matches!(State::fold(world.state.run(), &events[1..]), Err(Corrupt::Opening { .. })));
}
