//! A stolen controller: its keys, its database and its address, in the hands of somebody else. It can ask for what
//! needs no order; whatever else it sends is refused, and written down.

use std::{pin::Pin, process::Command};

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use vigie_controller::authority::Authority;
use vigie_proto::{
    id::{HostId, TaskId},
    order::{Batch, Domain, SigningKey},
    v1::{
        ExecRequest, Execute, FromAgent, Leaf, Manifest, Outcome, OutcomeStatus, OutputChunk, OutputReceipt,
        Probe, Request as Operation, Signature, ToAgent, Welcome, from_agent, link_server, request, to_agent,
    },
};
use vigie_tests::{Fleet, Said, binary, wait_until};
use vigie_transport::{
    identity::Role,
    server::{Admits, Listener, limits},
    tls::{ClientAuth, server_config},
};

use crate::ANY_PROGRAM;

/// A Link that hands the agent's messages to the test and the test's to the agent.
struct Rogue {
    heard: mpsc::Sender<from_agent::Message>,
    says: tokio::sync::Mutex<Option<mpsc::Receiver<to_agent::Message>>>,
}

#[tonic::async_trait]
impl link_server::Link for Rogue {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ToAgent, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let says =
            self.says.lock().await.take().ok_or_else(|| Status::unavailable("one session is enough"))?;
        let (heard, mut up) = (self.heard.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                let Some(message) = message.message else { break };
                if heard.send(message).await.is_err() {
                    break;
                }
            }
        });
        let welcome =
            to_agent::Message::Welcome(Welcome { controller: "rogue".to_owned(), ..Welcome::default() });
        let says = tokio_stream::once(welcome).chain(ReceiverStream::new(says));
        Ok(Response::new(Box::pin(says.map(|message| Ok(ToAgent { message: Some(message) })))))
    }

    async fn output(&self, _: Request<Streaming<OutputChunk>>) -> Result<Response<OutputReceipt>, Status> {
        Ok(Response::new(OutputReceipt { bytes: 0 }))
    }
}

/// The rogue's side of the session.
struct Session {
    heard: mpsc::Receiver<from_agent::Message>,
    says: mpsc::Sender<to_agent::Message>,
}

impl Session {
    async fn open(fleet: &Fleet) -> Self {
        let stolen = Authority::load(&fleet.path("controller").join("authority"), "vigie").unwrap();
        let credential = stolen.controller("rogue", "127.0.0.1").unwrap();
        let roots = stolen.roots(Role::Agent);
        let (_keep, tls) =
            tokio::sync::watch::channel(server_config(&credential, ClientAuth::Required { roots }).unwrap());
        let address = ([127, 0, 0, 1], fleet.ports[1]).into();
        let listener = Listener::bind(address, tls, Admits::Roles(&[Role::Agent])).unwrap();
        let (heard_sender, heard) = mpsc::channel(64);
        let (says, says_receiver) = mpsc::channel(64);
        let rogue = Rogue { heard: heard_sender, says: tokio::sync::Mutex::new(Some(says_receiver)) };
        tokio::spawn(async move {
            let _keep = _keep;
            limits(tonic::transport::Server::builder())
                .add_service(link_server::LinkServer::new(rogue))
                .serve_with_incoming(listener.incoming())
                .await
        });
        Self { heard, says }
    }

    async fn hear(&mut self) -> from_agent::Message {
        let message = tokio::time::timeout(std::time::Duration::from_secs(60), self.heard.recv()).await;
        message.expect("the agent says nothing for 60 s").expect("the session ended")
    }

    /// Sends an order and waits for its end.
    async fn execute(&mut self, execute: Execute) -> Outcome {
        // An order that cannot be read has no id that could be trusted: its refusal may name none.
        self.says.send(to_agent::Message::Execute(execute)).await.unwrap();
        self.finished().await
    }

    async fn finished(&mut self) -> Outcome {
        loop {
            if let from_agent::Message::Finished(finished) = self.hear().await {
                return finished.outcome.unwrap();
            }
        }
    }

    async fn code(&mut self, execute: Execute) -> String {
        let outcome = self.execute(execute).await;
        assert!(matches!(outcome.status(), OutcomeStatus::Refused | OutcomeStatus::Expired), "{outcome:?}");
        outcome.failure.unwrap().code
    }
}

fn unhex(json: &serde_json::Value) -> Vec<u8> {
    let text = json.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The order of the newest run, as it stands in the controller's own log.
fn recorded(fleet: &Fleet) -> Execute {
    let runs = fleet.vigiectl(&["runs", "list", "-o", "json"]).exits(0).json();
    let id = runs["runs"][0]["run"].as_str().unwrap().to_owned();
    let run: serde_json::Value = fleet.vigiectl(&["runs", "show", &id, "-o", "json"]).exits(0).json();
    let events = run["events"].as_array().unwrap();
    let event = |name: &str| {
        events.iter().find_map(|event| event.get(name)).unwrap_or_else(|| panic!("{name}: {run}"))
    };
    let (planned, signed) = (event("planned"), event("signed"));
    let leaves = planned["leaves"].as_array().unwrap().iter().map(unhex).collect();
    let (batch, ..) = Batch::from_parts(unhex(&planned["manifest"]), leaves).unwrap();
    let signatures: Vec<_> = signed["signatures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|signature| Signature {
            key_id: unhex(&signature["key_id"]),
            signature: unhex(&signature["signature"]),
        })
        .collect();
    batch.execute(0, &signatures, 1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_controller_cannot_make_alter_retarget_or_repeat_an_order() {
    let mut fleet = Fleet::new();
    let agent = fleet.add_agent("vps1", ANY_PROGRAM);
    let witness = fleet.path("witness");
    let script = format!("echo done >>{}", witness.display());
    let _ = fleet.vigiectl(&["exec", "-H", "vps1", "--yes", "--", "sh", "-c", &script]).exits(0);
    let good = recorded(&fleet);
    let count = || std::fs::read_to_string(&witness).unwrap_or_default().lines().count();
    assert_eq!(count(), 1);

    fleet.kill_controller();
    let mut session = Session::open(&fleet).await;
    let from_agent::Message::Hello(hello) = session.hear().await else { panic!("no hello") };
    let seq_before = hello.audit_head.unwrap().seq;
    // What the controller had not acknowledged is reported again first.
    for _ in &hello.unacknowledged {
        session.finished().await;
    }

    // Repeated: answered from the journal, as it was.
    let again = session.execute(good.clone()).await;
    assert_eq!(again.status(), OutcomeStatus::Succeeded);

    // Altered in one byte, wherever that is.
    let mut altered = good.clone();
    let last = altered.leaf.len() - 1;
    altered.leaf[last] ^= 1;
    assert_eq!(session.code(altered).await, "not_in_batch");
    let mut altered = good.clone();
    altered.manifest[5] ^= 1;
    assert_eq!(session.code(altered).await, "bad_signature");
    let mut altered = good.clone();
    altered.signatures[0].signature[10] ^= 1;
    assert_eq!(session.code(altered).await, "bad_signature");

    // Unsigned, and signed by a key that the controller made.
    assert_eq!(session.code(Execute { signatures: Vec::new(), ..good.clone() }).await, "signature_required");
    let stranger = SigningKey::from_seed(&[9; 32]);
    let forged =
        Execute { signatures: vec![stranger.sign(Domain::Manifest, &good.manifest)], ..good.clone() };
    assert_eq!(session.code(forged).await, "unknown_key");

    // Retargeted: the operator's signature under another host's order, and another order under this one's.
    let exec = ExecRequest { program: "touch".to_owned(), args: vec![witness.display().to_string()] };
    let leaf = Leaf {
        order: TaskId::new().to_string(),
        host: HostId::new().to_string(),
        incarnation: 1,
        operation: Some(Operation { operation: Some(request::Operation::Exec(exec.clone())) }),
        ..Leaf::default()
    };
    let swapped = Execute { leaf: leaf.encode_to_vec(), ..good.clone() };
    assert_eq!(session.code(swapped).await, "not_in_batch");
    let manifest =
        Manifest { person: "ada".to_owned(), ..Manifest::decode(good.manifest.as_slice()).unwrap() };
    let batch = Batch::assemble(manifest, &[leaf]);
    assert_eq!(session.code(batch.execute(0, &good.signatures, 1).unwrap()).await, "bad_signature");

    // As a probe, which needs no order.
    let task = TaskId::new().to_string();
    let probe = Probe {
        task: task.clone(),
        operation: Some(Operation { operation: Some(request::Operation::Exec(exec)) }),
        ..Probe::default()
    };
    session.says.send(to_agent::Message::Probe(probe)).await.unwrap();
    let refused = loop {
        match session.hear().await {
            from_agent::Message::ProbeResult(answer) if answer.task == task => break answer.outcome.unwrap(),
            _ => {}
        }
    };
    assert_eq!(refused.status(), OutcomeStatus::Refused, "{refused:?}");
    assert_eq!(refused.failure.unwrap().code, "order_required");

    assert_eq!(count(), 1, "the effect happened once, and only once");

    // What was refused is in the host's own journal, which is its audit chain.
    let journal = || {
        let state = agent.state();
        Said::of(Command::new(binary("vigie-agent")).args(["journal", "--state"]).arg(state)).exits(0).stdout
    };
    for code in ["not_in_batch", "bad_signature", "signature_required", "unknown_key"] {
        wait_until(&format!("{code} is in the journal"), || journal().contains(code));
    }
    assert!(journal().lines().count() as u64 > seq_before);
}
