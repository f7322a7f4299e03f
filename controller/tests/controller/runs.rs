//! Runs that only look.

use tonic::Code;
use vigie_proto::v1::{
    self, HostLoadRequest, HostLoadResult, Outcome, OutcomeStatus, OutputChunk, RunVerdict, Selector,
    request::Operation, result, run_event::Event, watch_run_response::Item,
};

use crate::support::{Controller, all, new_run, operation};

fn load() -> v1::RunSpec {
    operation(all(), Operation::HostLoad(HostLoadRequest::default()))
}

fn loaded() -> Outcome {
    Outcome::succeeded(result::Operation::HostLoad(HostLoadResult { cpus: 2, ..Default::default() }))
}

fn ended(event: &Event) -> Option<Outcome> {
    match event {
        Event::Observed(observed) => observed.observations[0].outcome.clone(),
        _ => None,
    }
}

#[tokio::test]
async fn one_operation_on_a_host_from_question_to_answer() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let run = new_run();
    let opened = operator.submit(&run, load()).await.unwrap();
    assert_eq!((opened.run.as_str(), opened.title.as_str(), opened.targets), (run.as_str(), "host_load", 1));
    let mut watch = operator.watch(&run[..35], 0, true).await;
    let probe = session.probe().await;
    assert_eq!(probe.run, run);
    assert!(matches!(probe.operation.as_ref().unwrap().operation, Some(Operation::HostLoad(_))));
    session.answer(&probe, loaded()).await;
    assert_eq!(watch.until(ended).await.result, loaded().result);
    assert_eq!(watch.closed().await.verdict(), RunVerdict::Ok);

    // From the middle, from the store, and without following.
    let all: Vec<u64> = events(operator.watch(&run, 0, false).await).await;
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    assert_eq!(events(operator.watch(&run, 2, true).await).await, all[2..]);
    let listed = operator.runs.list_runs(v1::ListRunsRequest::default()).await.unwrap().into_inner().runs;
    assert_eq!(
        (listed.len(), listed[0].last_seq, listed[0].verdict()),
        (1, all.len() as u64, RunVerdict::Ok)
    );
}

async fn events(mut watch: crate::support::Watch) -> Vec<u64> {
    let mut seen = Vec::new();
    while let Some(event) = watch.event().await {
        seen.push(event.seq);
    }
    seen
}

#[tokio::test]
async fn a_retry_is_the_same_run_and_another_request_is_none() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    controller.host(&mut operator, "vps1").await;
    let run = new_run();
    let first = operator.submit(&run, load()).await.unwrap();
    let again = operator.submit(&run, load()).await.unwrap();
    assert_eq!((again.run, again.opened_at_ms), (first.run, first.opened_at_ms));
    let narrower = Selector { hosts: "vps1".to_owned(), ..Default::default() };
    let other = operation(narrower, Operation::HostLoad(HostLoadRequest::default()));
    let error = operator.submit(&run, other).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    let listed = operator.runs.list_runs(v1::ListRunsRequest::default()).await.unwrap().into_inner().runs;
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_its_reason() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    controller.host(&mut operator, "vps1").await;
    let mut refused = async |run: &str, spec| {
        let error = operator.submit(run, spec).await.unwrap_err();
        error.metadata().get("vigie-code").unwrap().to_str().unwrap().to_owned()
    };
    let one = |hosts: &str| Selector { hosts: hosts.to_owned(), ..Default::default() };
    let unit = |unit: &str| {
        Operation::UnitStatus(v1::UnitStatusRequest { unit: unit.to_owned(), ..Default::default() })
    };
    assert_eq!(refused("x", load()).await, "bad_id");
    assert_eq!(refused(&new_run(), v1::RunSpec::default()).await, "bad_request");
    assert_eq!(refused(&new_run(), operation(one("vps7"), unit("nginx.service"))).await, "unknown_host");
    assert_eq!(
        refused(&new_run(), operation(Selector::default(), unit("nginx.service"))).await,
        "bad_selector"
    );
    let labels = Selector { labels: "env=none".to_owned(), ..Default::default() };
    assert_eq!(refused(&new_run(), operation(labels, unit("nginx.service"))).await, "no_match");
    assert_eq!(refused(&new_run(), operation(all(), unit("; id"))).await, "bad_operation");
    let call = v1::RunbookCall { id: "nonsense".to_owned(), mode: 1, ..Default::default() };
    let spec = v1::RunSpec { kind: Some(v1::run_spec::Kind::Runbook(call)), ..load() };
    assert_eq!(refused(&new_run(), spec).await, "unknown_runbook");
    // The host's agent has never told of a stack.
    let restart = v1::ComposeRestartRequest { services: vec!["backend".to_owned()], ..Default::default() };
    assert_eq!(refused(&new_run(), operation(all(), Operation::ComposeRestart(restart))).await, "no_stack");
}

#[tokio::test]
async fn a_host_that_is_away_is_unreachable_and_named() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let (here, away) =
        (controller.host(&mut operator, "vps1").await, controller.host(&mut operator, "vps2").await);
    let mut session = here.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, load()).await.unwrap();
    let mut watch = operator.watch(&run, 0, true).await;
    let probe = session.probe().await;
    session.answer(&probe, loaded()).await;
    let lost = watch
        .until(|event| ended(event).filter(|outcome| outcome.status() == OutcomeStatus::Unreachable))
        .await;
    assert!(lost.failure.unwrap().message.contains("vps2"));
    assert_eq!(watch.closed().await.verdict(), RunVerdict::Unreachable);
    drop(away);
}

#[tokio::test]
async fn a_probe_is_asked_again_in_the_next_session() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut first = host.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, load()).await.unwrap();
    let asked = first.probe().await;
    // The newer session takes over while the answer is on its way.
    let mut second = host.session(&controller).await.unwrap();
    assert_eq!(first.refusal().await.metadata().get("vigie-code").unwrap(), "superseded");
    let again = second.probe().await;
    assert_ne!(again.task, asked.task);
    second.answer(&asked, Outcome::default()).await;
    second.answer(&again, loaded()).await;
    assert_eq!(operator.watch(&run, 0, true).await.closed().await.verdict(), RunVerdict::Ok);
}

#[tokio::test]
async fn a_host_speaks_for_itself_alone() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let (victim, liar) =
        (controller.host(&mut operator, "vps1").await, controller.host(&mut operator, "vps2").await);
    let (mut victim, mut liar) =
        (victim.session(&controller).await.unwrap(), liar.session(&controller).await.unwrap());
    let run = new_run();
    let only = Selector { hosts: "vps1".to_owned(), ..Default::default() };
    operator.submit(&run, operation(only, Operation::HostLoad(HostLoadRequest::default()))).await.unwrap();
    let mut watch = operator.watch(&run, 0, true).await;
    let probe = victim.probe().await;
    let fine = HostLoadResult { cpus: 99, ..Default::default() };
    liar.answer(&probe, Outcome::succeeded(result::Operation::HostLoad(fine))).await;
    let chunk = OutputChunk { task: probe.task.clone(), data: b"all is well".to_vec(), ..Default::default() };
    let error = liar.link.output(tokio_stream::once(chunk.clone())).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    // Its own host's output is shown.
    let receipt = victim.link.output(tokio_stream::once(chunk.clone())).await.unwrap().into_inner();
    assert_eq!(receipt.bytes, 11);
    let shown = loop {
        match watch.item().await.unwrap() {
            Item::Output(shown) => break shown,
            Item::Event(_) => {}
        }
    };
    assert_eq!(shown, chunk);
    victim.answer(&probe, loaded()).await;
    assert_eq!(watch.until(ended).await.result, loaded().result);
    watch.closed().await;
}

#[tokio::test]
async fn an_open_run_goes_on_after_a_restart() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, load()).await.unwrap();
    session.probe().await;
    let controller = controller.restart().await;
    // The agent was asked to come back, and the session ended well.
    assert!(matches!(session.next().await, Some(v1::to_agent::Message::Drain(_))));
    assert!(session.next().await.is_none());
    let mut operator = operator.again(&controller).await;
    let remembered =
        operator.hosts.get_host(v1::GetHostRequest { host: "vps1".to_owned() }).await.unwrap().into_inner();
    assert!(!remembered.connected && remembered.state.is_some());
    let mut session = host.session(&controller).await.unwrap();
    let probe = session.probe().await;
    session.answer(&probe, loaded()).await;
    let mut watch = operator.watch(&run, 0, true).await;
    let epoch = |event: &Event| match event {
        Event::Owned(owned) if owned.epoch > 1 => Some(owned.epoch),
        _ => None,
    };
    assert_eq!(watch.until(epoch).await, 2);
    assert_eq!(watch.closed().await.verdict(), RunVerdict::Ok);
}
