use std::{
    io::{self, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clap::Parser as _;
use prost::Message as _;
use tokio::{
    net::UnixStream,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::{HostId, TaskId},
    order::{Domain, SigningKey, TrustedKeys, digest},
    v1::{
        ComposeRestartResult, ContainerInspectResult, Failure, HostChangesResult, HostState, HttpCheckResult,
        Outcome, OutcomeStatus, PostgresTerminatePreviewResult, PostgresTerminateResult, SignedTrustList,
        Stack, TrustList, TrustedOperator, from_agent, request, result,
    },
};

use super::{line::Line, *};
use crate::{
    config::{Cli, Command},
    host::{
        child::OutputSink,
        dispatch::{Dispatch, Parts},
        door::{self, About},
        executor::{Executor, Ordered, Permitted},
        journal::{FileStorage, Journal, Service, Started},
        message::{Inbox, Outbox},
        redaction::{Patterns, Redaction, RedactionError},
        trust::Trust,
        watch as lookout,
    },
    operations::witness::Witness,
};

const SOON: Duration = Duration::from_secs(20);

const RUNBOOK: &str = r#"
id: stopped
title: the backend is stopped
scope: stack
diagnose:
  - id: backend
    container_inspect: { service: backend }
  - id: outside
    reachability_check: {}
    from: controller
findings:
  - id: stopped
    title: the backend is stopped
    when: backend.state == "exited"
    says: "the backend exited"
  - id: cut_off
    title: the world does not reach it
    when: outside.failing == "connect"
    says: "the world does not reach it"
    advise: "look from outside"
remedies:
  - id: restart
    title: restart the backend
    for: [stopped]
    risk: low
    steps:
      - compose_restart: { services: [backend] }
verify:
  probes: [backend]
  until: backend.state == "running"
  within: 10s
  every: 1s
restore_backup:
  - answer: never
    why: no data is touched
"#;

/// A host whose backend is stopped until a step runs it again.
#[derive(Default)]
struct Scripted {
    acted: AtomicUsize,
    runs: AtomicBool,
    hangs: AtomicBool,
    began: Notify,
    go_on: Notify,
}

impl Scripted {
    async fn act(&self) {
        self.acted.fetch_add(1, Ordering::SeqCst);
        self.began.notify_one();
        if self.hangs.load(Ordering::SeqCst) {
            self.go_on.notified().await;
        }
        self.runs.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Executor for Arc<Scripted> {
    async fn permits(&self, _: &request::Operation) -> Result<Permitted, Failure> {
        Err(Failure::new("policy_denied", "the policy allows operators nothing here"))
    }

    async fn permits_root(&self, operation: &request::Operation) -> Result<Permitted, Failure> {
        Ok(Permitted { operation: operation.clone(), exclusive: Some("sylion".to_owned()) })
    }

    async fn run(
        &self,
        operation: &request::Operation,
        _: Instant,
        _: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome {
        use result::Operation as Answer;
        let state = if self.runs.load(Ordering::SeqCst) { "running" } else { "exited" };
        Outcome::succeeded(match operation {
            request::Operation::ContainerInspect(_) => Answer::ContainerInspect(ContainerInspectResult {
                present: true,
                state: state.to_owned(),
                ..Default::default()
            }),
            request::Operation::HttpCheck(_) => Answer::HttpCheck(HttpCheckResult::default()),
            request::Operation::HostChanges(_) => Answer::HostChanges(HostChangesResult::default()),
            request::Operation::PostgresTerminatePreview(_) => {
                Answer::PostgresTerminatePreview(PostgresTerminatePreviewResult {
                    present: true,
                    total: 3,
                    ..Default::default()
                })
            }
            request::Operation::ComposeRestart(_) => {
                self.act().await;
                Answer::ComposeRestart(ComposeRestartResult::default())
            }
            request::Operation::PostgresTerminate(_) => {
                assert!(ordered.unwrap().prepared.is_some(), "it acts on what was shown");
                self.act().await;
                Answer::PostgresTerminate(PostgresTerminateResult::default())
            }
            other => panic!("{other:?}"),
        })
    }

    async fn look_back(&self, _: TaskId, _: &Started, _: i64, _: CancellationToken) -> Witness {
        Witness::Unknown("nothing tells".to_owned())
    }

    fn forget(&self, _: TaskId) {}

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Redaction::default().patterns(&[], &[])
    }
}

/// What was written, for a test to read.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A host with its journal, and an agent that serves it.
struct World {
    folder: tempfile::TempDir,
    executor: Arc<Scripted>,
    trust: Trust,
    said: Written,
}

struct Agent {
    dispatch: crate::host::dispatch::Local,
    inbox: mpsc::Sender<Inbox>,
    outbox: mpsc::Receiver<Outbox>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    service: Service,
}

impl World {
    fn new() -> Self {
        let key = SigningKey::from_seed(&[7; 32]);
        let operator =
            TrustedOperator { person: "ada".to_owned(), public_key: key.public().to_bytes().to_vec() };
        let list = TrustList { version: 1, operators: vec![operator] }.encode_to_vec();
        let signed = SignedTrustList {
            signatures: vec![key.sign(Domain::TrustList, &list)],
            trust_list: list.clone(),
        };
        let keys = TrustedKeys::pinned(&signed, &digest(&list)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Journal::create(&mut FileStorage::new(folder.path()).unwrap()).unwrap();
        let trust = Trust { host: HostId::new(), incarnation: 2, keys };
        Self { folder, executor: Arc::default(), trust, said: Written::default() }
    }

    fn start(&self) -> Agent {
        let (service, journal) = Service::start(FileStorage::new(self.folder.path()).unwrap()).unwrap();
        let (inbox, messages) = mpsc::channel(64);
        let (sender, outbox) = mpsc::channel(64);
        let dispatch = Dispatch::new(Parts {
            trust: self.trust.clone(),
            journal,
            executor: Arc::new(Arc::clone(&self.executor)),
            clock: Arc::new(SystemClock),
            outbox: sender,
            state: watch::channel(None).1,
            watching: lookout::line().0,
            boot_id: "boot".to_owned(),
        });
        let (stop, local) = (CancellationToken::new(), dispatch.local());
        let serving = tokio::spawn(dispatch.run(messages, stop.clone(), SOON));
        Agent { dispatch: local, inbox, outbox, stop, serving, service }
    }

    /// A command on this host, taken to its end.
    async fn command(
        &self,
        agent: &Agent,
        text: &str,
        mode: RunMode,
        consent: Consent,
        answers: &[&str],
        interrupt: Interrupt,
    ) -> Result<RunView, LocalError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stack = Stack { name: "sylion".to_owned(), ..Default::default() };
        let state = HostState { stacks: vec![stack], ..Default::default() };
        let about = About { name: "vps1".to_owned(), state: watch::channel(Some(Arc::new(state))).1 };
        let door = tokio::spawn(door::serve(theirs, agent.dispatch.clone(), about));
        let run = if mode == RunMode::Run { "run stopped" } else { "" };
        let (mut line, welcome) = Line::open(ours, run).await.unwrap();
        let runbook = self.folder.path().join("runbook.yaml");
        std::fs::write(&runbook, text).unwrap();
        let words = ["vigie-agent", "diagnose", "--file", runbook.to_str().unwrap()];
        let Command::Diagnose(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        let call = Call::new(None, None, mode, &args.local);
        let opened = opening::open(&call, &call.runbooks().unwrap(), &welcome, "root on vps1").unwrap();
        let tries = journal::actions(self.folder.path(), SystemClock.now_ms() - TRIES_MS).unwrap();
        let (lines, read) = mpsc::channel(8);
        for answer in answers {
            lines.send((*answer).to_owned()).await.unwrap();
        }
        drop(lines);
        let read = (!answers.is_empty()).then_some(read);
        let mut talk = Talk::to(Box::new(self.said.clone()), Box::new(self.said.clone()), read);
        let drive = Drive::new(opened, Arc::new(tries), consent, &mut line, &mut talk, interrupt).unwrap();
        let drove = timeout(SOON, drive.until_closed()).await.expect("an end");
        if let Ok(view) = &drove {
            show(view, Format::Table, &mut talk).unwrap();
        }
        drop(line);
        door.await.unwrap().unwrap();
        drove
    }

    async fn run(
        &self,
        agent: &Agent,
        text: &str,
        consent: Consent,
        answers: &[&str],
    ) -> Result<RunView, LocalError> {
        self.command(agent, text, RunMode::Run, consent, answers, never()).await
    }

    fn acted(&self) -> usize {
        self.executor.acted.load(Ordering::SeqCst)
    }

    fn journal(&self) -> String {
        let (lines, broken) = journal::look(self.folder.path()).unwrap();
        assert_eq!(broken, None);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Agent {
    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        drop((self.inbox, self.outbox, self.dispatch));
        tokio::task::spawn_blocking(move || self.service.join()).await.unwrap();
    }
}

const ASK: Consent = Consent { yes: false, yes_destroy: false };
const YES: Consent = Consent { yes: true, yes_destroy: false };

/// Nobody presses Ctrl-C.
fn never() -> Interrupt {
    let (pulled, interrupt) = watch::channel(false);
    std::mem::forget(pulled);
    interrupt
}

fn loses() -> String {
    let text =
        RUNBOOK.replace("compose_restart: { services: [backend] }", "postgres_terminate: { state: idle }");
    text.replace("risk: low", "risk: low\n    when: backend.present")
}

#[tokio::test]
async fn a_diagnosis_says_what_is_wrong_and_what_cannot_be_seen_from_here() {
    let world = World::new();
    let agent = world.start();
    let view = world.command(&agent, RUNBOOK, RunMode::Diagnose, ASK, &[], never()).await.unwrap();
    assert_eq!(view.exit(), Exit::Findings);
    world.executor.runs.store(true, Ordering::SeqCst);
    let well = world.command(&agent, RUNBOOK, RunMode::Diagnose, ASK, &[], never()).await.unwrap();
    assert_eq!((well.exit(), exit(&well)), (Exit::Failed, Exit::Ok), "what only others see is no failure");
    let findings = &view.conclusions[&0].findings;
    assert_eq!(findings[0].state(), FindingState::Confirmed);
    assert_eq!(findings[1].state(), FindingState::Unknown);
    let said = world.said.text();
    assert!(said.contains("no other vantage on the host itself"), "{said}");
    assert!(said.contains("vigie-agent run --file FILE --stack sylion"), "{said}");
    assert_eq!(world.acted(), 0);
    agent.end().await;
}

#[tokio::test]
async fn a_yes_carries_the_plan_out_once_and_the_journal_has_it() {
    let world = World::new();
    let agent = world.start();
    let view = world.run(&agent, RUNBOOK, ASK, &["y"]).await.unwrap();
    assert_eq!((view.exit(), world.acted()), (Exit::Ok, 1));
    let said = world.said.text();
    for words in
        ["compose-restart --stack sylion --services backend", "Proceed? [y/N]", "verified: well again"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    let journal = world.journal();
    assert!(journal.contains("compose_restart, ordered here by root on vps1"), "{journal}");
    assert!(journal.contains("succeeded"), "{journal}");
    // It helped, and nothing is left to be done.
    let again = world.run(&agent, RUNBOOK, YES, &[]).await.unwrap();
    assert_eq!((again.exit(), world.acted()), (Exit::Ok, 1));
    agent.end().await;
}

#[tokio::test]
async fn without_a_yes_nothing_is_done() {
    let world = World::new();
    let agent = world.start();
    let error = world.run(&agent, RUNBOOK, ASK, &[]).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    let no = world.run(&agent, RUNBOOK, ASK, &["no"]).await.unwrap();
    assert_eq!(no.exit(), Exit::Refused);
    // A yes beforehand is none to what loses something, and neither is a yes instead of the word.
    let error = world.run(&agent, &loses(), YES, &[]).await.unwrap_err();
    assert!(matches!(error, LocalError::Unattended), "{error}");
    let no = world.run(&agent, &loses(), YES, &["yes"]).await.unwrap();
    assert_eq!((no.exit(), world.acted()), (Exit::Refused, 0));
    assert!(!world.journal().contains("started"), "{}", world.journal());
    let view = world.run(&agent, &loses(), YES, &["sylion"]).await.unwrap();
    assert_eq!((view.exit(), world.acted()), (Exit::Ok, 1));
    assert!(world.said.text().contains("Type sylion to go on"), "{}", world.said.text());
    agent.end().await;
}

#[tokio::test]
async fn the_same_remedy_is_tried_twice_within_the_hour_and_not_more_often() {
    let world = World::new();
    let agent = world.start();
    for tries in 1..=2 {
        world.executor.runs.store(false, Ordering::SeqCst);
        let _ = world.run(&agent, RUNBOOK, YES, &[]).await.unwrap();
        assert_eq!(world.acted(), tries);
    }
    world.executor.runs.store(false, Ordering::SeqCst);
    let view = world.run(&agent, RUNBOOK, YES, &[]).await.unwrap();
    assert_eq!((view.exit(), world.acted()), (Exit::Refused, 2));
    assert!(world.said.text().contains("was tried at"), "{}", world.said.text());
    agent.end().await;
}

/// A command that goes away leaves what runs to its end, and the controller hears of it when it is there again, until it
/// says that it knows.
#[tokio::test]
async fn what_was_begun_goes_on_without_the_command_and_is_told_to_the_controller() {
    let world = World::new();
    let mut agent = world.start();
    world.executor.hangs.store(true, Ordering::SeqCst);
    let (pull, interrupt) = watch::channel(false);
    let began = async {
        world.executor.began.notified().await;
        // Until the command has heard of the start, it says that it waits.
        pull.send_replace(true);
    };
    let command = world.command(&agent, RUNBOOK, RunMode::Run, YES, &[], interrupt);
    let (ended, ()) = tokio::join!(command, began);
    let error = ended.unwrap_err();
    assert_eq!(error.exit(), Exit::Interrupted);
    assert!(error.to_string().contains("compose-restart"), "{error}");
    world.executor.go_on.notify_one();
    // The agent is stopped, which waits for the order; another one starts.
    agent.stop.cancel();
    agent.end().await;
    assert_eq!(world.acted(), 1);
    agent = world.start();
    agent.inbox.send(Inbox::Connected).await.unwrap();
    let mut finished = None;
    while finished.is_none() {
        let Outbox::Message(message) = timeout(SOON, agent.outbox.recv()).await.unwrap().unwrap() else {
            continue;
        };
        if let Some(from_agent::Message::Finished(told)) = message.message {
            finished = Some(told);
        }
    }
    let told = finished.unwrap();
    let here = told.here.unwrap();
    assert_eq!(told.outcome.unwrap().status(), OutcomeStatus::Succeeded);
    assert_eq!(
        (here.operation.as_str(), here.stack.as_str(), here.person.as_str(), here.remedy.as_str()),
        ("compose_restart", "sylion", "root on vps1", "stopped/restart")
    );
    assert!(here.started_at_ms > 0 && !here.run.is_empty());
    agent.end().await;
}

#[tokio::test]
async fn what_begun_and_did_not_end_is_in_doubt_and_says_whose_it_was() {
    let world = World::new();
    let agent = world.start();
    world.executor.hangs.store(true, Ordering::SeqCst);
    let (pull, interrupt) = watch::channel(false);
    let command = world.command(&agent, RUNBOOK, RunMode::Run, YES, &[], interrupt);
    let (ended, ()) = tokio::join!(command, async {
        world.executor.began.notified().await;
        pull.send_replace(true);
    });
    assert!(ended.is_err());
    // The agent dies.
    agent.serving.abort();
    let Agent { dispatch, inbox, outbox, service, serving, .. } = agent;
    assert!(serving.await.unwrap_err().is_cancelled());
    drop((dispatch, inbox, outbox));
    tokio::task::spawn_blocking(move || service.join()).await.unwrap();
    let mut agent = world.start();
    agent.inbox.send(Inbox::Connected).await.unwrap();
    loop {
        let Outbox::Message(message) = timeout(SOON, agent.outbox.recv()).await.unwrap().unwrap() else {
            continue;
        };
        if let Some(from_agent::Message::Finished(told)) = message.message {
            assert_eq!(told.outcome.unwrap().status(), OutcomeStatus::InDoubt);
            assert_eq!(told.here.unwrap().person, "root on vps1");
            break;
        }
    }
    assert_eq!(world.acted(), 1, "it is never run again");
    agent.end().await;
}

#[test]
fn the_words_of_the_command_line() {
    let parse =
        |words: &[&str]| Cli::try_parse_from(["vigie-agent"].iter().chain(words)).map(|cli| cli.command);
    let Ok(Command::Run(run)) = parse(&["run", "backend-502", "--remedy", "r", "--yes", "-p", "a=b=c"])
    else {
        panic!()
    };
    assert_eq!(
        (run.runbook.as_deref(), run.remedy.as_deref(), run.yes),
        (Some("backend-502"), Some("r"), true)
    );
    assert_eq!((run.local.parameters[0].name.as_str(), run.local.parameters[0].value.as_str()), ("a", "b=c"));
    // As units of earlier versions call it.
    let Ok(Command::Run(run)) = parse(&["run", "--state", "/s", "--config", "/c"]) else { panic!() };
    assert_eq!((run.runbook, run.local.place.state.as_path()), (None, Path::new("/s")));
    assert!(matches!(parse(&["serve"]), Ok(Command::Serve(_))));
    assert!(parse(&["diagnose", "-p", "novalue"]).is_err());
    assert!(parse(&["diagnose", "backend-502", "--file", "x.yaml"]).is_err());
    assert!(parse(&["diagnose", "--yes"]).is_err());
}
