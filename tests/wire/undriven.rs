//! What a controller says of a run that another one took over.

use std::sync::Arc;

use tonic::{Code, Request, Status};
use vigie_controller::{
    clock::SystemClock,
    runbooks::Runbooks,
    sim::{Controller, enrol},
    store::{
        NewOperator,
        memory::{Calm, Disk, Memory},
    },
};
use vigie_proto::{
    id::RunId,
    v1::{
        self, CancelRunRequest, ExecRequest, RunSpec, Selector, SubmitRunRequest, request, run_spec::Kind,
        runs_client::RunsClient,
    },
};
use vigie_transport::server::{Peer, PeerCertificate};

use crate::seed::{PERSON, trust};

fn of<T>(message: T) -> Request<T> {
    let certificate = PeerCertificate {
        identity: format!("spiffe://vigie/operator/{PERSON}").parse().unwrap(),
        serial: PERSON.to_owned(),
        not_after: i64::from(u32::MAX),
        public_key_sha256: [0; 32],
    };
    let mut request = Request::new(message);
    let peer = Peer { address: ([192, 0, 2, 1], 4000).into(), certificate: Some(Arc::new(certificate)) };
    request.extensions_mut().insert(peer);
    request
}

async fn start(disk: &Disk, name: &str) -> Controller {
    let store = Arc::new(Memory::open(disk.clone(), Arc::new(Calm)));
    let runbooks = Runbooks::open("nowhere".into());
    Controller::start(store, Arc::new(SystemClock), runbooks, name).await.unwrap()
}

async fn cancel(controller: &Controller, run: &str) -> Result<(), Status> {
    let request = CancelRunRequest { run: run.to_owned(), reason: String::new() };
    RunsClient::new(controller.operators.clone()).cancel_run(of(request)).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_lost_a_run_does_not_call_it_closed() {
    let disk = Disk::default();
    let (key, list, _) = trust();
    let first = NewOperator {
        name: PERSON.to_owned(),
        public_key: key.public().to_bytes(),
        version: 1,
        trust_list: list,
    };
    enrol(&Memory::open(disk.clone(), Arc::new(Calm)), first, &["vps1".to_owned()]).await.unwrap();
    let one = start(&disk, "one").await;
    let exec = ExecRequest { program: "true".to_owned(), args: Vec::new() };
    let spec = RunSpec {
        selector: Some(Selector { hosts: "vps1".to_owned(), ..Default::default() }),
        kind: Some(Kind::Operation(v1::Request { operation: Some(request::Operation::Exec(exec)) })),
        ..RunSpec::default()
    };
    let run = RunId::new().to_string();
    let submit = SubmitRunRequest { run: run.clone(), spec: Some(spec) };
    RunsClient::new(one.operators.clone()).submit_run(of(submit)).await.unwrap();
    let two = start(&disk, "two").await;
    // The first time, its driver finds out; after that there is none.
    for _ in 0..2 {
        let told = cancel(&one, &run).await.unwrap_err();
        assert_eq!(told.code(), Code::Unavailable, "{told}");
        assert_eq!(told.metadata().get("vigie-code").unwrap(), "run_undriven");
    }
    cancel(&two, &run).await.unwrap();
    let told = cancel(&one, &run).await.unwrap_err();
    assert_eq!(told.code(), Code::FailedPrecondition, "now it is closed: {told}");
}
