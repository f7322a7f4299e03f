//! Runs that change something: planned, signed, handed over, acknowledged.

use tonic::Code;
use vigie_proto::{
    order::{self, Domain, TrustedKeys, digest},
    v1::{
        self, ExecRequest, ExecResult, Finished, Outcome, Planned, RunPhase, RunVerdict, Started, from_agent,
        request::Operation, result, run_event::Event,
    },
};

use crate::support::{Controller, Operator, Session, all, new_run, operation, trust_list};

fn uptime() -> v1::RunSpec {
    operation(all(), Operation::Exec(ExecRequest { program: "uptime".to_owned(), args: Vec::new() }))
}

fn done() -> Outcome {
    Outcome::succeeded(result::Operation::Exec(ExecResult {
        program: "/usr/bin/uptime".to_owned(),
        ..Default::default()
    }))
}

async fn planned(operator: &mut Operator, run: &str) -> Planned {
    let plan = |event: &Event| match event {
        Event::Planned(planned) => Some(planned.clone()),
        _ => None,
    };
    operator.watch(run, 0, true).await.until(plan).await
}

async fn sign(
    operator: &mut Operator,
    run: &str,
    manifest: Vec<u8>,
) -> Result<v1::RunSummary, tonic::Status> {
    let signatures = vec![operator.signing.sign(Domain::Manifest, &manifest)];
    let request = v1::SignRunRequest { run: run.to_owned(), manifest, signatures };
    Ok(operator.runs.sign_run(request).await?.into_inner())
}

async fn finish(session: &Session, order: &str) {
    let finished = Finished { order: order.to_owned(), outcome: Some(done()), ..Finished::default() };
    session.say(from_agent::Message::Finished(finished)).await;
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// What the agent would believe of an envelope.
fn believed(operator: &Operator, host: &crate::support::Host, execute: &v1::Execute) -> order::Verified {
    let list = trust_list("ada", &operator.signing);
    let trusted = TrustedKeys::pinned(&list, &digest(&list.trust_list)).unwrap();
    let host_id = host.id.parse().unwrap();
    order::verify(execute, &trusted, host_id, host.incarnation, now_ms()).unwrap()
}

#[tokio::test]
async fn an_order_goes_from_plan_to_acknowledgement() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, uptime()).await.unwrap();
    let plan = planned(&mut operator, &run).await;
    assert_eq!(plan.leaves.len(), 1);

    let mut other = plan.manifest.clone();
    other.push(0);
    assert_eq!(sign(&mut operator, &run, other).await.unwrap_err().code(), Code::FailedPrecondition);
    let summary = sign(&mut operator, &run, plan.manifest).await.unwrap();
    assert_eq!(summary.phase(), RunPhase::Acting);

    let execute = session.execute().await;
    let verified = believed(&operator, &host, &execute);
    assert_eq!((verified.operation().name, verified.person(), verified.epoch()), ("exec", "ada", 1));
    let order = verified.order().to_string();
    session.say(from_agent::Message::Started(Started { order: order.clone(), at_ms: now_ms() })).await;
    finish(&session, &order).await;
    assert_eq!(session.acknowledged().await, std::slice::from_ref(&order));
    let mut watch = operator.watch(&run, 0, true).await;
    assert_eq!(watch.closed().await.verdict(), RunVerdict::Ok);

    // The acknowledgement was lost: the same outcome again, long after the run closed.
    finish(&session, &order).await;
    assert_eq!(session.acknowledged().await, [order]);
    let request = v1::CancelRunRequest { run, reason: "too late".to_owned() };
    assert_eq!(operator.runs.cancel_run(request).await.unwrap_err().code(), Code::FailedPrecondition);
}

/// What a host's root did without a controller is acknowledged once it is written down, however often it comes. It is
/// never taken for an operator's order.
#[tokio::test]
async fn what_was_done_on_the_host_itself_is_taken_note_of() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let order = new_run();
    let here = v1::DoneHere {
        run: new_run(),
        person: "root on vps1".to_owned(),
        operation: "compose_restart".to_owned(),
        stack: "sylion".to_owned(),
        remedy: "backend-502/restart_backend".to_owned(),
        started_at_ms: now_ms(),
    };
    let told = |order: &str| {
        let here = Some(here.clone());
        from_agent::Message::Finished(Finished {
            order: order.to_owned(),
            outcome: Some(done()),
            here,
            ..Finished::default()
        })
    };
    for _ in 0..2 {
        session.say(told(&order)).await;
        assert_eq!(session.acknowledged().await, std::slice::from_ref(&order));
    }

    let run = new_run();
    operator.submit(&run, uptime()).await.unwrap();
    let plan = planned(&mut operator, &run).await;
    sign(&mut operator, &run, plan.manifest).await.unwrap();
    let execute = session.execute().await;
    let ordered = believed(&operator, &host, &execute).order().to_string();
    session.say(told(&ordered)).await;
    // It is passed over: the order's true end is what is acknowledged, and what closes the run.
    finish(&session, &ordered).await;
    assert_eq!(session.acknowledged().await, [ordered]);
    assert_eq!(operator.watch(&run, 0, true).await.closed().await.verdict(), RunVerdict::Ok);

    let mut nobody = here.clone();
    nobody.person.clear();
    let finished =
        Finished { order: new_run(), outcome: Some(done()), here: Some(nobody), ..Finished::default() };
    session.say(from_agent::Message::Finished(finished)).await;
    assert_eq!(session.refusal().await.code(), Code::InvalidArgument);
}

/// As after a restore of a backup that is older than the plan that was signed.
#[tokio::test]
async fn an_order_that_its_run_does_not_have_is_noted_there() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, uptime()).await.unwrap();
    planned(&mut operator, &run).await;
    let order = new_run();
    for _ in 0..2 {
        let finished = Finished { order: order.clone(), outcome: Some(done()), run: run.clone(), here: None };
        session.say(from_agent::Message::Finished(finished)).await;
        assert_eq!(session.acknowledged().await, std::slice::from_ref(&order));
    }
    let request = v1::CancelRunRequest { run: run.clone(), reason: String::new() };
    operator.runs.cancel_run(request).await.unwrap();
    let (mut watch, mut noted) = (operator.watch(&run, 0, true).await, Vec::new());
    while let Some(event) = watch.event().await {
        if let Some(Event::Noted(note)) = event.event {
            noted.push(note.text);
        }
    }
    let [noted] = noted.as_slice() else { panic!("{noted:?}") };
    assert!(noted.contains("ended so on host vps1: succeeded") && noted.contains(&order), "{noted}");
}

#[tokio::test]
async fn a_plan_can_be_declined() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    controller.host(&mut operator, "vps1").await;
    let run = new_run();
    operator.submit(&run, uptime()).await.unwrap();
    let plan = planned(&mut operator, &run).await;
    let request = v1::CancelRunRequest { run: run.clone(), reason: "not now".to_owned() };
    let summary = operator.runs.cancel_run(request).await.unwrap().into_inner();
    assert_eq!((summary.phase(), summary.verdict()), (RunPhase::Closed, RunVerdict::Cancelled));
    let error = sign(&mut operator, &run, plan.manifest).await.unwrap_err();
    assert_eq!(error.metadata().get("vigie-code").unwrap(), "rejected");
}

#[tokio::test]
async fn an_order_that_was_handed_over_is_handed_over_again_after_a_restart() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, uptime()).await.unwrap();
    let plan = planned(&mut operator, &run).await;
    sign(&mut operator, &run, plan.manifest).await.unwrap();
    let before = believed(&operator, &host, &session.execute().await);

    let controller = controller.restart().await;
    let mut operator = operator.again(&controller).await;
    let mut session = host.session(&controller).await.unwrap();
    let after = believed(&operator, &host, &session.execute().await);
    // The same order, which the agent knows by its id, under a newer epoch.
    assert_eq!(after.order(), before.order());
    assert!(after.epoch() > before.epoch());
    let order = after.order().to_string();
    finish(&session, &order).await;
    assert_eq!(session.acknowledged().await, [order]);
    assert_eq!(operator.watch(&run, 0, true).await.closed().await.verdict(), RunVerdict::Ok);
}

#[tokio::test]
async fn an_outcome_may_come_before_the_order_is_handed_over_again() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, uptime()).await.unwrap();
    let plan = planned(&mut operator, &run).await;
    sign(&mut operator, &run, plan.manifest).await.unwrap();
    let order = believed(&operator, &host, &session.execute().await).order().to_string();
    // It ended while the controller was away.
    let controller = controller.restart().await;
    let mut operator = operator.again(&controller).await;
    let mut session = host.session(&controller).await.unwrap();
    finish(&session, &order).await;
    loop {
        match session.next().await.unwrap() {
            v1::to_agent::Message::Acknowledge(acknowledge) => {
                assert_eq!(acknowledge.orders, [order]);
                break;
            }
            v1::to_agent::Message::Execute(again) => {
                assert_eq!(believed(&operator, &host, &again).order().to_string(), order);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(operator.watch(&run, 0, true).await.closed().await.verdict(), RunVerdict::Ok);
}

#[tokio::test]
async fn nothing_is_tried_again_past_a_doubt() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let run = new_run();
    operator.submit(&run, uptime()).await.unwrap();
    let retry = v1::RunSpec { retry_of: run.clone(), ..uptime() };
    let refused = async |operator: &mut Operator, spec| {
        let refused = operator.submit(&new_run(), spec).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        refused.metadata().get("vigie-code").unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(refused(&mut operator, retry.clone()).await, "not_again", "it is open");
    let plan = planned(&mut operator, &run).await;
    sign(&mut operator, &run, plan.manifest).await.unwrap();
    let order = believed(&operator, &host, &session.execute().await).order().to_string();
    let unknown = v1::Failure::new("agent_restarted", "nobody saw its end");
    let outcome = Some(Outcome::ended(v1::OutcomeStatus::InDoubt, unknown));
    let finished = Finished { order, outcome, ..Finished::default() };
    session.say(from_agent::Message::Finished(finished)).await;
    assert_eq!(operator.watch(&run, 0, true).await.closed().await.verdict(), RunVerdict::InDoubt);
    assert_eq!(refused(&mut operator, retry.clone()).await, "in_doubt");
    let found = v1::ResolveRunRequest { run: run.clone(), ..v1::ResolveRunRequest::default() };
    operator.runs.resolve_run(found).await.unwrap();
    let longer = v1::RunSpec { timeout_ms: 1_000, ..retry.clone() };
    assert_eq!(refused(&mut operator, longer).await, "not_again", "it asks for something else");

    // The same id is the same run also when, asked today, there would be nothing left to try again.
    let again = new_run();
    let (beside, mut runs) = (new_run(), operator.runs.clone());
    let other = v1::SubmitRunRequest { run: beside.clone(), spec: Some(retry.clone()) };
    let at_once = tokio::join!(operator.submit(&again, retry.clone()), runs.submit_run(other));
    let again = match at_once {
        (Ok(_), Err(_)) => again,
        (Err(_), Ok(_)) => beside,
        both => panic!("one of two retries at once is opened: {both:?}"),
    };
    assert_eq!(refused(&mut operator, retry.clone()).await, "not_again", "it is tried again already");
    let plan = planned(&mut operator, &again).await;
    sign(&mut operator, &again, plan.manifest).await.unwrap();
    let order = loop {
        match session.next().await.unwrap() {
            v1::to_agent::Message::Execute(execute) => {
                break believed(&operator, &host, &execute).order().to_string();
            }
            v1::to_agent::Message::Acknowledge(_) => {}
            other => panic!("{other:?}"),
        }
    };
    finish(&session, &order).await;
    assert_eq!(operator.watch(&again, 0, true).await.closed().await.verdict(), RunVerdict::Ok);
    assert_eq!(operator.submit(&again, retry).await.unwrap().run, again);
}
