use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use vigie_proto::{
    id::{BatchId, HostId, RunId},
    order::{Batch, Domain, SigningKey, TrustedKeys, digest},
    v1::{
        self, ComposeRestartRequest, ComposeRestartResult, ExecRequest, ExecResult, Hello, HostFactsRequest,
        HostFactsResult, OutputSource, PostgresTerminatePreviewResult, PostgresTerminateRequest,
        PostgresTerminateResult, Request, SignedTrustList, TrustList, TrustedOperator, request, result,
    },
};

use super::*;
use crate::host::{
    child::OutputSink,
    door::{self, wire},
    executor::{Ordered, Permitted},
    journal::{FileStorage, Journal, Service, Standing},
    redaction::{Patterns, Redaction, RedactionError},
    watch::line,
};
use crate::operations::witness::Witness;

const NOW: i64 = 1_800_000_000_000;
const SOON: Duration = Duration::from_secs(10);

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs `exec` of made-up programs: `hang` until it is told to go on, `panic`, `say` what the arguments are, and
/// everything else at once.
#[derive(Default)]
struct Scripted {
    ran: AtomicUsize,
    began: Notify,
    go_on: Notify,
    denies: AtomicBool,
    env_file: Option<std::path::PathBuf>,
    /// What the latest order was prepared with.
    prepared: Mutex<Option<result::Operation>>,
    /// What is seen of orders whose end nobody saw, one look after the other; nothing tells any more after the last.
    seen: Mutex<Vec<Witness>>,
    forgotten: Mutex<Vec<TaskId>>,
    kept: Vec<TaskId>,
    /// A look waits for a program that goes on until it is stopped.
    goes_on: AtomicBool,
}

fn preview() -> result::Operation {
    result::Operation::PostgresTerminatePreview(PostgresTerminatePreviewResult {
        present: true,
        total: 3,
        ..Default::default()
    })
}

#[async_trait]
impl Executor for Arc<Scripted> {
    async fn permits(&self, operation: &request::Operation) -> Result<Permitted, Failure> {
        if self.denies.load(Ordering::SeqCst) {
            return Err(Failure::new("policy_denied", "not here"));
        }
        let exclusive = match operation {
            request::Operation::ComposeRestart(request) => Some(request.stack.clone()),
            _ => None,
        };
        Ok(Permitted { operation: operation.clone(), exclusive })
    }

    async fn run(
        &self,
        operation: &request::Operation,
        _deadline: Instant,
        output: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome {
        if let request::Operation::PostgresTerminatePreview(_) = operation {
            assert!(ordered.is_none(), "a preview is a probe");
            return Outcome::succeeded(preview());
        }
        *self.prepared.lock().unwrap() = ordered.and_then(|ordered| ordered.prepared);
        self.ran.fetch_add(1, Ordering::SeqCst);
        self.began.notify_one();
        match operation {
            request::Operation::ComposeRestart(_) => {
                self.go_on.notified().await;
                Outcome::succeeded(result::Operation::ComposeRestart(ComposeRestartResult::default()))
            }
            request::Operation::Exec(exec) => {
                match exec.program.as_str() {
                    "hang" => self.go_on.notified().await,
                    "panic" => panic!("as asked"),
                    "say" => {
                        exec.args.iter().for_each(|arg| output.write(OutputSource::Stdout, arg.as_bytes()));
                    }
                    _ => {}
                }
                Outcome::succeeded(result::Operation::Exec(ExecResult::default()))
            }
            request::Operation::HostLoad(_) => {
                self.go_on.notified().await;
                Outcome::default()
            }
            request::Operation::SocketList(_) => panic!("as asked"),
            request::Operation::PostgresTerminate(_) => {
                Outcome::succeeded(result::Operation::PostgresTerminate(PostgresTerminateResult::default()))
            }
            _ => Outcome::succeeded(result::Operation::HostFacts(HostFactsResult::default())),
        }
    }

    async fn look_back(
        &self,
        _: TaskId,
        begun: &journal::Started,
        at_ms: i64,
        stop: CancellationToken,
    ) -> Witness {
        assert!(begun.request.is_some() && at_ms > 0, "it knows what began");
        if self.goes_on.load(Ordering::SeqCst) {
            stop.cancelled().await;
            return Witness::Seen(Box::new(Outcome::ended(
                OutcomeStatus::Cancelled,
                Failure::new("stopped", ""),
            )));
        }
        let mut seen = self.seen.lock().unwrap();
        if seen.is_empty() { Witness::Unknown("nothing tells".to_owned()) } else { seen.remove(0) }
    }

    fn forget(&self, order: TaskId) {
        self.forgotten.lock().unwrap().push(order);
    }

    fn kept(&self) -> Vec<TaskId> {
        self.kept.clone()
    }

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Redaction::default().patterns(self.env_file.as_slice(), &[])
    }
}

/// A host with its operator, whose agent can be started again and again.
struct World {
    folder: tempfile::TempDir,
    key: SigningKey,
    trust: Trust,
    executor: Arc<Scripted>,
    clock: Arc<Hands>,
    run: RunId,
}

/// A running agent, seen from the network half.
struct Agent {
    inbox: mpsc::Sender<Inbox>,
    outbox: mpsc::Receiver<Outbox>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    service: Service,
    journal: journal::Handle,
    local: Local,
    _state: watch::Sender<Option<Arc<HostState>>>,
}

impl World {
    fn new(executor: Scripted) -> Self {
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
        Self {
            folder,
            key,
            trust: Trust { host: HostId::new(), incarnation: 2, keys },
            executor: Arc::new(executor),
            clock: Arc::new(Hands(NOW.into())),
            run: RunId::new(),
        }
    }

    fn start(&self) -> Agent {
        self.start_over(self.folder.path())
    }

    fn start_over(&self, journal: &Path) -> Agent {
        let (service, journal) = Service::start(FileStorage::new(journal).unwrap()).unwrap();
        let (inbox, messages) = mpsc::channel(64);
        let (sender, outbox) = mpsc::channel(64);
        let (state, seen) = watch::channel(None);
        let dispatch = Dispatch::new(Parts {
            trust: self.trust.clone(),
            journal: journal.clone(),
            executor: Arc::new(Arc::clone(&self.executor)),
            clock: Arc::clone(&self.clock) as _,
            outbox: sender,
            state: seen,
            watching: line().0,
            boot_id: "boot".to_owned(),
        });
        let (stop, local) = (CancellationToken::new(), dispatch.local());
        let serving = tokio::spawn(dispatch.run(messages, stop.clone(), Duration::ZERO));
        Agent { inbox, outbox, stop, serving, service, journal, local, _state: state }
    }

    async fn connected(&self) -> Agent {
        let mut agent = self.start();
        agent.hello().await;
        agent
    }

    fn order(&self, operation: request::Operation) -> Execute {
        self.order_by(operation, NOW + 60_000, 1)
    }

    fn order_by(&self, operation: request::Operation, not_after_ms: i64, epoch: u64) -> Execute {
        self.signed(operation, not_after_ms, epoch, Vec::new(), Vec::new())
    }

    /// An order for what loses something.
    fn prepared(&self, operation: request::Operation, challenge: &[u8], found: &v1::Result) -> Execute {
        let found = digest(&found.encode_to_vec()).to_vec();
        self.signed(operation, NOW + 60_000, 1, challenge.to_vec(), found)
    }

    fn signed(
        &self,
        operation: request::Operation,
        not_after_ms: i64,
        epoch: u64,
        challenge: Vec<u8>,
        prepared: Vec<u8>,
    ) -> Execute {
        let leaf = Leaf {
            challenge,
            prepared,
            order: TaskId::new().to_string(),
            host: self.trust.host.to_string(),
            incarnation: self.trust.incarnation,
            operation: Some(Request { operation: Some(operation) }),
            ..Default::default()
        };
        let manifest = Manifest {
            batch: BatchId::new().to_string(),
            run: self.run.to_string(),
            not_before_ms: NOW - 600_000,
            not_after_ms,
            person: "ada".to_owned(),
            ..Default::default()
        };
        let batch = Batch::assemble(manifest, &[leaf]);
        batch.execute(0, &[self.key.sign(Domain::Manifest, batch.manifest())], epoch).unwrap()
    }

    fn ran(&self) -> usize {
        self.executor.ran.load(Ordering::SeqCst)
    }
}

impl Agent {
    async fn tell(&self, message: to_agent::Message) {
        self.inbox.send(Inbox::Message(ToAgent { message: Some(message) })).await.unwrap();
    }

    async fn execute(&self, execute: &Execute) {
        self.tell(to_agent::Message::Execute(execute.clone())).await;
    }

    async fn ask_prepare(&mut self, run: RunId, operation: request::Operation) -> PreparedOrder {
        let prepare = Prepare {
            task: "t".to_owned(),
            operation: Some(Request { operation: Some(operation) }),
            run: run.to_string(),
            ..Default::default()
        };
        self.tell(to_agent::Message::Prepare(prepare)).await;
        match self.next().await {
            from_agent::Message::Prepared(prepared) => prepared,
            other => panic!("{other:?}"),
        }
    }

    async fn prepare(&mut self, run: RunId, operation: request::Operation) -> (Vec<u8>, v1::Result) {
        let prepared = self.ask_prepare(run, operation).await;
        assert_eq!((prepared.challenge.len(), prepared.valid_ms), (32, 300_000));
        (prepared.challenge, prepared.outcome.unwrap().result.unwrap())
    }

    async fn probe(&self, task: &str, operation: request::Operation) {
        let operation = Some(Request { operation: Some(operation) });
        let probe = Probe { task: task.to_owned(), operation, ..Default::default() };
        self.tell(to_agent::Message::Probe(probe)).await;
    }

    /// The next message, of whatever kind.
    async fn any(&mut self) -> from_agent::Message {
        loop {
            match timeout(SOON, self.outbox.recv()).await.expect("a message").expect("an agent") {
                Outbox::Message(message) => return message.message.unwrap(),
                Outbox::Output(_) => {}
            }
        }
    }

    /// The next message; where the chain's head stands is told often and is not waited for.
    async fn next(&mut self) -> from_agent::Message {
        loop {
            match self.any().await {
                from_agent::Message::AuditHead(_) => {}
                message => return message,
            }
        }
    }

    /// The heads that are told until everything that was asked before has been looked at.
    async fn heads(&mut self) -> Vec<v1::AuditHead> {
        self.probe("heads", facts()).await;
        let mut heads = Vec::new();
        loop {
            match self.any().await {
                from_agent::Message::AuditHead(head) => heads.push(head),
                from_agent::Message::ProbeResult(_) => return heads,
                _ => {}
            }
        }
    }

    async fn hello(&mut self) -> Hello {
        self.inbox.send(Inbox::Connected).await.unwrap();
        loop {
            if let from_agent::Message::Hello(hello) = self.next().await {
                return hello;
            }
        }
    }

    async fn result(&mut self) -> (String, Outcome) {
        match self.next().await {
            from_agent::Message::ProbeResult(result) => (result.task, result.outcome.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    async fn started(&mut self) -> String {
        match self.next().await {
            from_agent::Message::Started(started) => started.order,
            other => panic!("{other:?}"),
        }
    }

    async fn finished(&mut self) -> (String, Outcome) {
        match self.next().await {
            from_agent::Message::Finished(finished) => (finished.order, finished.outcome.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Everything that was asked before has been looked at.
    async fn settled(&mut self) {
        self.probe("settled", facts()).await;
        assert_eq!(self.result().await.0, "settled");
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        drop((self.inbox, self.outbox, self.journal, self.local));
        self.service.join();
    }
}

fn facts() -> request::Operation {
    request::Operation::HostFacts(HostFactsRequest {})
}

fn exec(program: &str, args: &[&str]) -> request::Operation {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    request::Operation::Exec(ExecRequest { program: program.to_owned(), args })
}

fn restart() -> request::Operation {
    let services = vec!["backend".to_owned()];
    request::Operation::ComposeRestart(ComposeRestartRequest { stack: "sylion".to_owned(), services })
}

fn id(execute: &Execute) -> String {
    Leaf::decode(execute.leaf.as_slice()).unwrap().order
}

fn code(outcome: &Outcome) -> (OutcomeStatus, &str) {
    (outcome.status(), outcome.failure.as_ref().map_or("", |failure| &failure.code))
}

#[tokio::test]
async fn probes_observe_and_nothing_else() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    agent.probe("a", facts()).await;
    let (task, outcome) = agent.result().await;
    assert_eq!((task.as_str(), outcome.is_success(), outcome.started_at_ms), ("a", true, NOW));
    agent.probe("b", exec("true", &[])).await;
    assert_eq!(code(&agent.result().await.1), (OutcomeStatus::Refused, "order_required"));
    agent.tell(to_agent::Message::Probe(Probe { task: "c".to_owned(), ..Default::default() })).await;
    assert_eq!(code(&agent.result().await.1), (OutcomeStatus::Refused, "invalid_request"));
    assert_eq!(world.ran(), 1);
    agent.end().await;
}

#[tokio::test]
async fn a_hung_or_dead_probe_is_nobody_elses() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    for at in 0..PROBES - 1 {
        agent.probe(&format!("hung{at}"), request::Operation::HostLoad(Default::default())).await;
    }
    agent.probe("dead", request::Operation::SocketList(Default::default())).await;
    let (task, outcome) = agent.result().await;
    assert_eq!((task.as_str(), code(&outcome)), ("dead", (OutcomeStatus::Failed, "internal")));
    agent.settled().await;
    agent.end().await;
}

#[tokio::test]
async fn a_probe_whose_turn_does_not_come_says_so() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    for at in 0..PROBES {
        agent.probe(&format!("hung{at}"), request::Operation::HostLoad(Default::default())).await;
    }
    let operation = Some(Request { operation: Some(facts()) });
    agent
        .tell(to_agent::Message::Probe(Probe {
            task: "late".to_owned(),
            operation,
            timeout_ms: 20,
            ..Default::default()
        }))
        .await;
    let (task, outcome) = agent.result().await;
    assert_eq!((task.as_str(), code(&outcome)), ("late", (OutcomeStatus::Failed, "busy")));
    agent.end().await;
}

/// Whoever asks whether the loop goes round learns what it has at hand, and for how long nothing of it has ended.
#[tokio::test]
async fn what_is_at_hand_is_told_and_for_how_long_none_has_ended() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let ask = async |agent: &mut Agent, seq| {
        agent.tell(to_agent::Message::Ping(v1::Ping { seq })).await;
        loop {
            match agent.next().await {
                from_agent::Message::Pong(pong) => return pong,
                from_agent::Message::ProbeResult(_) | from_agent::Message::Started(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(ask(&mut agent, 1).await, v1::Pong { seq: 1, ..Default::default() });
    agent.probe("hung", request::Operation::HostLoad(Default::default())).await;
    agent.execute(&world.order(exec("hang", &[]))).await;
    world.executor.began.notified().await;
    let first = ask(&mut agent, 2).await;
    assert_eq!((first.probes, first.orders), (1, 1));
    tokio::time::sleep(Duration::from_millis(30)).await;
    let second = ask(&mut agent, 3).await;
    assert!(second.quiet_ms >= 30, "{first:?} {second:?}");
    // One that ends is progress, whatever the others do.
    agent.probe("quick", facts()).await;
    let third = loop {
        let pong = ask(&mut agent, 4).await;
        if pong.quiet_ms < second.quiet_ms {
            break pong;
        }
    };
    assert_eq!((third.probes, third.orders), (1, 1));
}

#[tokio::test]
async fn an_order_runs_once_however_often_it_comes() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let order = world.order(restart());
    for _ in 0..3 {
        agent.execute(&order).await;
    }
    assert_eq!(agent.started().await, id(&order));
    agent.execute(&order).await;
    assert_eq!(agent.started().await, id(&order));
    world.executor.go_on.notify_one();
    assert!(agent.finished().await.1.is_success());

    // Long after its time the true outcome is told, acknowledged or not, in this process or the next.
    world.clock.0.store(NOW + 3_600_000, Ordering::SeqCst);
    agent.execute(&order).await;
    assert!(agent.finished().await.1.is_success());
    agent.tell(to_agent::Message::Acknowledge(Acknowledge { orders: vec![id(&order)] })).await;
    agent.execute(&order).await;
    assert!(agent.finished().await.1.is_success());
    agent.end().await;
    let mut agent = world.connected().await;
    agent.execute(&order).await;
    assert!(agent.finished().await.1.is_success());
    assert_eq!(world.ran(), 1);
    agent.end().await;
}

#[tokio::test]
async fn outcomes_are_sent_on_every_session_until_they_are_acknowledged() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (done, hung) = (world.order(exec("true", &[])), world.order(exec("hang", &[])));
    agent.execute(&done).await;
    agent.started().await;
    agent.finished().await;
    agent.execute(&hung).await;
    agent.started().await;
    agent.inbox.send(Inbox::Disconnected).await.unwrap();
    let hello = agent.hello().await;
    assert_eq!(
        (hello.unacknowledged, hello.running, hello.incarnation),
        (vec![id(&done)], vec![id(&hung)], 2)
    );
    assert_eq!(agent.finished().await.0, id(&done));

    agent.tell(to_agent::Message::Acknowledge(Acknowledge { orders: vec![id(&done)] })).await;
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&hung));
    agent.end().await;
    let mut agent = world.start();
    assert_eq!(agent.hello().await.unacknowledged, [id(&hung)]);
    agent.end().await;
}

#[tokio::test]
async fn what_was_cut_off_is_in_doubt_and_never_runs_again() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let order = world.order(exec("hang", &[]));
    agent.execute(&order).await;
    agent.started().await;
    agent.end().await;

    let mut agent = world.start();
    let hello = agent.hello().await;
    assert_eq!([hello.unacknowledged, hello.running].concat(), [id(&order)]);
    let (finished, outcome) = agent.finished().await;
    assert_eq!((finished, code(&outcome)), (id(&order), (OutcomeStatus::InDoubt, "agent_restarted")));
    assert!(world.executor.forgotten.lock().unwrap().contains(&id(&order).parse().unwrap()));
    agent.execute(&order).await;
    assert_eq!(agent.finished().await.1.status(), OutcomeStatus::InDoubt);
    assert_eq!(world.ran(), 1);
    agent.end().await;
}

#[tokio::test]
async fn what_the_host_shows_of_an_interrupted_order_is_its_outcome() {
    let silent = || Witness::Silent("Docker does not answer".to_owned());
    let done = || Witness::Done("it is there".to_owned());
    let not = Witness::NotDone("it is not there".to_owned());
    for (seen, status) in [
        (vec![done()], OutcomeStatus::Succeeded),
        (vec![not], OutcomeStatus::Failed),
        // It is asked again while it does not answer.
        (vec![silent(), done()], OutcomeStatus::Succeeded),
    ] {
        let world = World::new(Scripted::default());
        let mut agent = world.connected().await;
        let order = world.order(exec("hang", &[]));
        agent.execute(&order).await;
        agent.started().await;
        agent.end().await;
        *world.executor.seen.lock().unwrap() = seen;
        let mut agent = world.start();
        agent.hello().await;
        let (_, outcome) = agent.finished().await;
        assert_eq!(outcome.status(), status, "{outcome:?}");
        // It is written down: another start has nothing to find out.
        agent.end().await;
        let mut agent = world.start();
        let hello = agent.hello().await;
        assert_eq!((hello.unacknowledged, hello.running), (vec![id(&order)], Vec::new()));
        assert_eq!(agent.finished().await.1.status(), status);
        assert_eq!(world.ran(), 1);
        agent.end().await;
    }
}

#[tokio::test]
async fn a_withdrawn_order_never_begins() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let cancel = |order: &Execute| to_agent::Message::Cancel(v1::Cancel { order: id(order) });
    // Before it comes.
    let early = world.order(exec("true", &[]));
    agent.tell(cancel(&early)).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Cancelled, "withdrawn"));
    agent.execute(&early).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Cancelled, "withdrawn"));
    // While it waits for its stack.
    let first = world.order(restart());
    agent.execute(&first).await;
    agent.started().await;
    let waiting = world.order(restart());
    agent.execute(&waiting).await;
    agent.tell(cancel(&waiting)).await;
    let (finished, outcome) = agent.finished().await;
    assert_eq!((finished, code(&outcome)), (id(&waiting), (OutcomeStatus::Cancelled, "withdrawn")));
    assert_eq!(world.ran(), 1);
    // While it runs, and cannot be stopped; and when it has ended.
    agent.tell(cancel(&first)).await;
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.1.status(), OutcomeStatus::Succeeded);
    agent.tell(cancel(&first)).await;
    assert_eq!(agent.finished().await.1.status(), OutcomeStatus::Succeeded);
    agent.end().await;
}

fn welcome(seq: u64, hash: Vec<u8>) -> to_agent::Message {
    let seen = Some(v1::AuditHead { seq, hash });
    to_agent::Message::Welcome(v1::Welcome { seen, ..Default::default() })
}

/// The agent died with a program of an order under way. The next one is asked to stop it before it has seen its end.
#[tokio::test]
async fn what_is_found_again_is_stopped_when_its_run_is_ended() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let order = world.order(exec("hang", &[]));
    agent.execute(&order).await;
    agent.started().await;
    agent.end().await;
    world.executor.goes_on.store(true, Ordering::SeqCst);
    let mut agent = world.connected().await;
    agent.tell(to_agent::Message::Cancel(v1::Cancel { order: id(&order) })).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Cancelled, "stopped"));
    agent.end().await;
}

#[tokio::test]
async fn what_is_left_of_orders_that_ended_goes_when_the_agent_starts() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (ended, hangs, strange) =
        (world.order(exec("true", &[])), world.order(exec("hang", &[])), TaskId::new());
    agent.execute(&ended).await;
    agent.started().await;
    agent.finished().await;
    agent.execute(&hangs).await;
    agent.started().await;
    agent.end().await;
    let [ended, hangs] = [&ended, &hangs].map(|order| id(order).parse().unwrap());
    let executor = Scripted { kept: vec![ended, hangs, strange], goes_on: true.into(), ..Default::default() };
    let world = World { executor: Arc::new(executor), ..world };
    let mut agent = world.connected().await;
    agent.finished().await;
    agent.settled().await;
    // Of one that may still run, and of one that the journal does not know, all is kept.
    assert_eq!(*world.executor.forgotten.lock().unwrap(), [ended]);
    agent.end().await;
}

#[tokio::test]
async fn a_journal_that_was_put_back_runs_nothing() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let first = agent.journal.audit_head();
    agent.execute(&world.order(exec("true", &[]))).await;
    agent.started().await;
    agent.finished().await;
    let own = agent.journal.audit_head();
    // It ends earlier, ends otherwise, or is another one further back and has grown past that since.
    for (seq, hash) in [(own.seq + 1, vec![7; 32]), (own.seq, vec![7; 32]), (first.seq, vec![7; 32])] {
        agent.tell(welcome(seq, hash)).await;
        agent.execute(&world.order(exec("true", &[]))).await;
        assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_put_back"));
    }
    // Probes go on, and so do orders once the two agree, also when the controller is behind.
    agent.probe("p", facts()).await;
    assert_eq!(agent.result().await.1.status(), OutcomeStatus::Succeeded);
    for seen in [own, first] {
        agent.tell(welcome(seen.seq, seen.hash)).await;
        agent.execute(&world.order(exec("true", &[]))).await;
        agent.started().await;
        assert_eq!(agent.finished().await.1.status(), OutcomeStatus::Succeeded);
    }
    assert_eq!(world.ran(), 4, "the probe, and three of the six orders");
    agent.end().await;
}

#[tokio::test]
async fn a_head_is_told_only_where_the_two_agree() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let own = agent.journal.audit_head();
    let order = || world.order(exec("true", &[]));
    agent.execute(&order()).await;
    agent.started().await;
    agent.finished().await;
    assert!(agent.heads().await.is_empty(), "nobody said what was seen");
    agent.tell(welcome(own.seq, own.hash.clone())).await;
    assert_eq!(agent.heads().await, [agent.journal.audit_head()]);
    agent.execute(&order()).await;
    agent.started().await;
    agent.finished().await;
    assert_eq!(agent.heads().await, [agent.journal.audit_head()], "it has grown");
    // An older copy never becomes what was seen, and a new session does not make it another one.
    agent.tell(welcome(own.seq, vec![7; 32])).await;
    assert!(agent.heads().await.is_empty());
    agent.hello().await;
    assert!(agent.heads().await.is_empty());
    agent.execute(&order()).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_put_back"));
    agent.tell(welcome(own.seq, own.hash)).await;
    assert_eq!(agent.heads().await, [agent.journal.audit_head()]);
    agent.hello().await;
    assert!(agent.heads().await.is_empty(), "in this session nobody said what was seen");
    agent.end().await;
}

#[tokio::test]
async fn an_order_that_dies_is_in_doubt() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    agent.execute(&world.order(exec("panic", &[]))).await;
    agent.started().await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::InDoubt, "internal"));
    agent.end().await;
}

#[tokio::test]
async fn what_nobody_signed_is_refused_noted_and_proves_nothing() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let order = world.order(exec("true", &[]));
    let before = agent.journal.audit_head().seq;
    let forged = Execute { signatures: Vec::new(), ..order.clone() };
    agent.execute(&forged).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "signature_required"));
    // The real one is none the worse for it; its record comes after that of the forgery.
    agent.execute(&order).await;
    agent.started().await;
    assert!(agent.journal.audit_head().seq >= before + 2);
    assert!(agent.finished().await.1.is_success());
    // And a forgery under its id is not told what became of it.
    agent.execute(&forged).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "signature_required"));
    assert_eq!(world.ran(), 1);
    agent.end().await;
}

#[tokio::test]
async fn a_refusal_of_a_signed_order_is_final() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let mut agent = world.connected().await;
    let (denied, expired) = (world.order(restart()), world.order_by(restart(), NOW - 60_001, 1));
    agent.execute(&denied).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "policy_denied"));
    agent.execute(&expired).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Expired, "expired"));
    agent.end().await;

    // The policy allows it by now, and the clock was set back.
    let lenient = World { executor: Arc::new(Scripted::default()), ..world };
    lenient.clock.0.store(NOW - 120_000, Ordering::SeqCst);
    let mut agent = lenient.connected().await;
    for order in [&denied, &expired] {
        assert_eq!(agent.finished().await.0, id(order));
    }
    for order in [&denied, &expired] {
        agent.execute(order).await;
        assert_eq!(agent.finished().await.0, id(order));
    }
    assert_eq!(lenient.ran(), 0);
    agent.end().await;
}

#[tokio::test]
async fn one_order_at_a_time_changes_a_stack() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (first, second) = (world.order(restart()), world.order(restart()));
    agent.execute(&first).await;
    assert_eq!(agent.started().await, id(&first));
    agent.execute(&second).await;
    // Its time to start is over a moment from now, by the machine's own clock.
    let late = world.order_by(restart(), NOW - 60_000 + 50, 1);
    agent.execute(&late).await;
    let (order, outcome) = agent.finished().await;
    assert_eq!((order, outcome.status()), (id(&late), OutcomeStatus::Expired));
    assert_eq!(world.ran(), 1);
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&first));
    assert_eq!(agent.started().await, id(&second));
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&second));
    agent.end().await;
}

#[tokio::test]
async fn an_older_controller_is_fenced_off() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (newer, older) =
        (world.order_by(exec("true", &[]), NOW, 5), world.order_by(exec("true", &[]), NOW, 4));
    agent.execute(&newer).await;
    agent.started().await;
    agent.finished().await;
    agent.execute(&older).await;
    let before = agent.journal.audit_head().seq;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "stale_epoch"));
    agent.execute(&older).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "stale_epoch"));
    assert_eq!(agent.journal.audit_head().seq, before, "a controller that was replaced fills no journal");
    // From the controller that owns the run it is as good as ever.
    agent.execute(&Execute { epoch: 5, ..older.clone() }).await;
    assert_eq!(agent.started().await, id(&older));
    agent.end().await;
}

#[tokio::test]
async fn an_order_that_waits_is_its_runs_newest_owners() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (first, waiting) = (world.order(restart()), world.order(restart()));
    agent.execute(&first).await;
    assert_eq!(agent.started().await, id(&first));
    agent.execute(&waiting).await;
    // The controller was started anew: it hands over again what it wants, and something else of the run begins by its word.
    agent.execute(&Execute { epoch: 2, ..waiting.clone() }).await;
    agent.execute(&world.order_by(exec("true", &[]), NOW + 60_000, 2)).await;
    agent.started().await;
    agent.finished().await;
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&first));
    assert_eq!(agent.started().await, id(&waiting));
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.1.status(), OutcomeStatus::Succeeded);
    agent.end().await;
}

#[tokio::test]
async fn without_a_journal_nothing_changes_and_probes_go_on() {
    let world = World::new(Scripted::default());
    let lost = tempfile::tempdir().unwrap();
    let mut agent = world.start_over(lost.path());
    agent.hello().await;
    agent.execute(&world.order(exec("true", &[]))).await;
    let outcome = agent.finished().await.1;
    assert_eq!(code(&outcome), (OutcomeStatus::Refused, "journal_corrupt"));
    assert!(outcome.failure.unwrap().hint.contains("enroll --replace"));
    agent.settled().await;
    agent.end().await;
}

#[tokio::test]
async fn a_refusal_that_the_journal_does_not_take_is_final_all_the_same() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let lost = tempfile::tempdir().unwrap();
    let mut agent = world.start_over(lost.path());
    agent.hello().await;
    let order = world.order(exec("true", &[]));
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "policy_denied"));
    world.executor.denies.store(false, Ordering::SeqCst);
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "policy_denied"));
    // What the journal itself refuses stays refused by the same words.
    let other = world.order(exec("true", &[]));
    agent.execute(&other).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_corrupt"));
    world.executor.denies.store(true, Ordering::SeqCst);
    agent.execute(&other).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_corrupt"));
    world.clock.0.store(NOW + 3_600_000, Ordering::SeqCst);
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Expired, "expired"));
    agent.end().await;
}

#[tokio::test]
async fn an_order_that_is_too_much_is_refused_for_good() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    // One runs, and the others wait for its stack.
    for at in 0..ORDERS {
        agent.execute(&world.order(restart())).await;
        if at == 0 {
            agent.started().await;
        }
    }
    let order = world.order(exec("true", &[]));
    agent.execute(&order).await;
    let refused = agent.finished().await.1;
    assert_eq!(code(&refused), (OutcomeStatus::Refused, "busy"));
    let names = |words: &str| words.matches("compose_restart by ada").count() == ORDERS;
    assert!(names(&refused.failure.as_ref().unwrap().message), "{refused:?}");
    // The host's own root hears of it before anything is asked.
    let by = Command::waits_for(&agent.local).await.unwrap();
    assert!(names(&by), "{by}");
    let standing = agent.journal.standing(id(&order).parse().unwrap());
    assert!(matches!(standing, Some(Standing::Finished { .. })), "{standing:?}");
    world.executor.go_on.notify_one();
    assert!(agent.finished().await.1.is_success());
    agent.started().await;
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "busy"));
    assert_eq!(world.ran(), 2);
    agent.end().await;
}

#[tokio::test]
async fn output_is_live_and_redacted_over_its_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let env_file = folder.path().join(".env");
    std::fs::write(&env_file, "DB_PASSWORD=s3cr3t-word\n").unwrap();
    let world = World::new(Scripted { env_file: Some(env_file), ..Default::default() });
    let mut agent = world.connected().await;
    let order = world.order(exec("say", &["password: s3c", "r3t-word, then more", " and more"]));
    agent.execute(&order).await;
    let mut said = Vec::new();
    loop {
        match timeout(SOON, agent.outbox.recv()).await.unwrap().unwrap() {
            Outbox::Output(chunk) => {
                assert_eq!((chunk.task.clone(), chunk.offset), (id(&order), said.len() as u64));
                said.extend(chunk.data);
            }
            Outbox::Message(message) if matches!(message.message, Some(from_agent::Message::Finished(_))) => {
                break;
            }
            Outbox::Message(_) => {}
        }
    }
    assert_eq!(String::from_utf8(said).unwrap(), "password: [redacted], then more and more");
    agent.end().await;
}

#[tokio::test]
async fn a_changed_state_is_told() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let state = HostState { docker_error: "no engine".to_owned(), ..Default::default() };
    agent._state.send_replace(Some(Arc::new(state.clone())));
    match agent.next().await {
        from_agent::Message::State(told) => assert_eq!(told, state),
        other => panic!("{other:?}"),
    }
    agent.end().await;
}

#[test]
fn a_flood_of_forgeries_is_counted_and_not_written_down() {
    let mut denials = Denials::default();
    let recorded = (0..1000).filter(|_| denials.record(NOW).is_some()).count();
    assert_eq!(recorded, denials::DENIALS as usize);
    assert_eq!(denials.record(NOW + denials::DENIAL_EVERY_MS), Some(900));
    assert_eq!(denials.record(NOW + denials::DENIAL_EVERY_MS), None);
}

fn terminate(stack: &str) -> request::Operation {
    request::Operation::PostgresTerminate(PostgresTerminateRequest {
        stack: stack.to_owned(),
        ..Default::default()
    })
}

/// Attack: an order that loses something runs once, in time, and for exactly what was shown.
#[tokio::test]
async fn what_loses_something_is_good_once_for_exactly_what_was_shown() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let bare = world.order(terminate("shop"));
    agent.execute(&bare).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_required"));

    let (challenge, found) = agent.prepare(world.run, terminate("shop")).await;
    let order = world.prepared(terminate("shop"), &challenge, &found);
    agent.execute(&order).await;
    agent.started().await;
    assert!(agent.finished().await.1.is_success());
    assert_eq!(world.executor.prepared.lock().unwrap().as_ref(), found.operation.as_ref());

    // The same order again is answered from the journal; another one with the same challenge is refused.
    agent.execute(&order).await;
    assert!(agent.finished().await.1.is_success());
    agent.execute(&world.prepared(terminate("shop"), &challenge, &found)).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_unknown"));

    // Another target, another finding, another run.
    let (challenge, found) = agent.prepare(world.run, terminate("shop")).await;
    agent.execute(&world.prepared(terminate("other"), &challenge, &found)).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_mismatch"));
    let (challenge, _) = agent.prepare(world.run, terminate("shop")).await;
    agent.execute(&world.prepared(terminate("shop"), &challenge, &v1::Result::default())).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_mismatch"));
    let (challenge, found) = agent.prepare(RunId::new(), terminate("shop")).await;
    agent.execute(&world.prepared(terminate("shop"), &challenge, &found)).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_mismatch"));

    // A restart forgets them all.
    let (challenge, found) = agent.prepare(world.run, terminate("shop")).await;
    agent.end().await;
    let mut agent = world.connected().await;
    let lost = world.prepared(terminate("shop"), &challenge, &found);
    agent.execute(&lost).await;
    loop {
        let (order, outcome) = agent.finished().await;
        if order == id(&lost) {
            assert_eq!(code(&outcome), (OutcomeStatus::Refused, "challenge_unknown"));
            break;
        }
    }
    agent.end().await;
}

#[tokio::test]
async fn what_the_policy_forbids_is_not_prepared_and_what_loses_nothing_neither() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let mut agent = world.connected().await;
    for (operation, code) in [(terminate("shop"), "policy_denied"), (restart(), "invalid_request")] {
        let prepared = agent.ask_prepare(world.run, operation).await;
        assert!(prepared.challenge.is_empty());
        assert_eq!(prepared.outcome.unwrap().failure.unwrap().code, code);
    }
    agent.end().await;
}

#[test]
fn a_challenge_is_too_old_after_five_minutes_and_the_oldest_make_way() {
    let world = World::new(Scripted::default());
    let (mut challenges, now) = (Challenges::default(), Instant::now());
    let request = Request { operation: Some(terminate("shop")) };
    let found = v1::Result { operation: Some(preview()) };
    let keep = |challenges: &mut Challenges| challenges.keep(world.run, &request, &found, now).unwrap();
    let verified = |challenge: &[u8]| {
        let order = world.prepared(terminate("shop"), challenge, &found);
        Warrant::from(world.trust.verify(&order, NOW).unwrap())
    };
    let old = keep(&mut challenges);
    let failure = challenges.take(&verified(&old), now + VALID).unwrap_err();
    assert_eq!(failure.code, "challenge_expired");
    let first = keep(&mut challenges);
    let others: Vec<_> = (0..64).map(|_| keep(&mut challenges)).collect();
    assert_eq!(challenges.take(&verified(&first), now).unwrap_err().code, "challenge_unknown");
    assert!(
        challenges.take(&verified(&others[0]), now + VALID - Duration::from_millis(1)).unwrap().is_some()
    );
}

/// What an agent says through its door.
struct Command {
    stream: tokio::net::UnixStream,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Command {
    async fn open(local: &Local) -> Self {
        let (command, answer) = Self::greet(local, "").await;
        assert!(matches!(answer, wire::Answer::Welcome(_)), "{answer:?}");
        command
    }

    /// Says hello, with what the command was called with where it is to change the host.
    async fn greet(local: &Local, run: &str) -> (Self, wire::Answer) {
        let (stream, theirs) = tokio::net::UnixStream::pair().unwrap();
        let state = watch::channel(Some(Arc::new(HostState::default()))).1;
        let about = door::About { name: "vps1".to_owned(), state };
        let serving = tokio::spawn(door::serve(theirs, local.clone(), about));
        let mut command = Self { stream, serving };
        command.say(wire::Said::Hello(wire::Hello { run: run.to_owned(), ..Default::default() })).await;
        let answer = command.next().await;
        (command, answer)
    }

    /// What a command has to wait for that is to change the host; nothing where it has its turn, which it gives back.
    async fn waits_for(local: &Local) -> Option<String> {
        let (command, answer) = Self::greet(local, "run x").await;
        command.leave().await;
        match answer {
            wire::Answer::Busy(busy) => Some(busy.by),
            _ => None,
        }
    }

    async fn say(&mut self, said: wire::Said) {
        wire::write(&mut self.stream, &wire::ToHost { said: Some(said) }).await.unwrap();
    }

    async fn next(&mut self) -> wire::Answer {
        let read = timeout(SOON, wire::read::<wire::FromHost>(&mut self.stream)).await.expect("an answer");
        read.unwrap().expect("an agent").answer.unwrap()
    }

    async fn order(&mut self, world: &World, operation: request::Operation) -> String {
        let execute = world.order(operation);
        let order = Leaf::decode(execute.leaf.as_slice()).unwrap().order;
        let spoken = wire::Order {
            order: order.clone(),
            leaf: execute.leaf,
            run: RunId::new().to_string(),
            person: "root on vps1".to_owned(),
            remedy: "a/b".to_owned(),
            not_after_ms: NOW + 60_000,
        };
        self.say(wire::Said::Order(spoken)).await;
        order
    }

    async fn ended(&mut self) -> (String, Outcome) {
        loop {
            if let wire::Answer::Finished(finished) = self.next().await {
                return (finished.order, finished.outcome.unwrap());
            }
        }
    }

    async fn leave(self) {
        drop(self.stream);
        self.serving.await.unwrap().unwrap();
    }
}

/// Operators and the host's own root never change a stack at once, and a run on the host keeps it until it ends.
#[tokio::test]
async fn a_stack_is_changed_by_an_operator_or_by_root_and_never_by_both() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let order = world.order(restart());
    agent.execute(&order).await;
    assert!(matches!(agent.next().await, from_agent::Message::Started(_)));
    world.executor.began.notified().await;
    let here = command.order(&world, restart()).await;
    assert!(timeout(Duration::from_millis(100), world.executor.began.notified()).await.is_err(), "it waits");
    world.executor.go_on.notify_one();
    assert!(matches!(agent.next().await, from_agent::Message::Finished(_)));
    world.executor.began.notified().await;
    assert!(matches!(command.next().await, wire::Answer::Started(started) if started.order == here));
    world.executor.go_on.notify_one();
    assert_eq!(command.ended().await.0, here);
    let from_agent::Message::Finished(told) = agent.next().await else { panic!("no end") };
    assert_eq!(told.here.unwrap().person, "root on vps1");

    // Its order has ended, and its run has not.
    agent.execute(&world.order(restart())).await;
    assert!(timeout(Duration::from_millis(100), world.executor.began.notified()).await.is_err(), "it waits");
    command.leave().await;
    world.executor.began.notified().await;
    world.executor.go_on.notify_one();
    assert_eq!(world.ran(), 3);
    agent.end().await;
}

#[tokio::test]
async fn an_unsound_order_is_refused_at_the_door_and_a_refused_one_is_told_to_nobody_else() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let mut agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let other = Leaf { host: HostId::new().to_string(), ..Default::default() }.encode_to_vec();
    let order = wire::Order { order: "o".to_owned(), leaf: other, ..Default::default() };
    command.say(wire::Said::Order(order)).await;
    let (order, outcome) = command.ended().await;
    assert_eq!((order.as_str(), outcome.failure.unwrap().code.as_str()), ("o", "order_malformed"));
    // What loses something carries what it was prepared with, here too.
    let bare = command.order(&world, terminate("shop")).await;
    let (order, outcome) = command.ended().await;
    assert_eq!((&order, outcome.failure.unwrap().code.as_str()), (&bare, "order_malformed"));
    command.order(&world, restart()).await;
    assert_eq!(command.ended().await.1.failure.unwrap().code, "policy_denied");
    command.leave().await;
    agent.inbox.send(Inbox::Disconnected).await.unwrap();
    assert!(agent.hello().await.unacknowledged.is_empty());
    assert_eq!(world.ran(), 0);
    agent.end().await;
}

/// Its command dies while it waits for its stack: nobody is there any more who looks at what it does.
#[tokio::test]
async fn an_order_that_its_command_deserted_never_begins() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let order = world.order(restart());
    agent.execute(&order).await;
    agent.started().await;
    world.executor.began.notified().await;
    let here = command.order(&world, restart()).await;
    assert!(timeout(Duration::from_millis(100), world.executor.began.notified()).await.is_err(), "it waits");
    command.leave().await;
    // The stack is free, and another order of an operator's is the next one there.
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&order));
    let next = world.order(restart());
    agent.execute(&next).await;
    assert_eq!(agent.started().await, id(&next));
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&next));
    assert_eq!(world.ran(), 2);
    assert_eq!(agent.journal.standing(here.parse().unwrap()), None);
    agent.end().await;
}

#[tokio::test]
async fn one_run_of_root_at_a_time_changes_the_host_and_the_next_one_hears_which() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (mut first, answer) = Command::greet(&agent.local, "run backend-502").await;
    assert!(matches!(answer, wire::Answer::Welcome(_)), "{answer:?}");
    let by = Command::waits_for(&agent.local).await.unwrap();
    let own = format!("`vigie-agent run backend-502` (process {})", std::process::id());
    assert!(by.contains(&own), "{by}");
    // Whoever only looks disturbs nobody.
    Command::open(&agent.local).await.leave().await;
    // It goes away, and what it began goes on.
    first.order(&world, restart()).await;
    assert!(matches!(first.next().await, wire::Answer::Started(_)));
    first.leave().await;
    assert!(Command::waits_for(&agent.local).await.unwrap().contains(&own));
    world.executor.go_on.notify_one();
    agent.finished().await;
    let free = async {
        while Command::waits_for(&agent.local).await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, free).await.unwrap();
    agent.end().await;
}

/// Nothing on the host knows a run, or `vigiectl`.
#[tokio::test]
async fn what_root_left_in_doubt_is_looked_at_on_the_host() {
    let world = World::new(Scripted::default());
    let agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let hint = |outcome: Outcome| {
        assert_eq!(outcome.status(), OutcomeStatus::InDoubt);
        outcome.failure.unwrap().hint
    };
    command.order(&world, exec("panic", &[])).await;
    let died = hint(command.ended().await.1);
    let hangs = command.order(&world, exec("hang", &[])).await;
    assert!(matches!(command.next().await, wire::Answer::Started(_)));
    command.leave().await;
    agent.end().await;
    let mut agent = world.start();
    agent.inbox.send(Inbox::Connected).await.unwrap();
    let found = loop {
        if let from_agent::Message::Finished(told) = agent.next().await
            && told.order == hangs
        {
            break hint(told.outcome.unwrap());
        }
    };
    for hint in [died, found] {
        assert!(hint.contains("vigie-agent journal") && !hint.contains("vigiectl"), "{hint}");
    }
    agent.end().await;
}
