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

mod doubt;
mod local;
mod losses;
mod probes;
mod refused;
mod snapshot;

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
