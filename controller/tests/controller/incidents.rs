//! Incidents by what the controller sees from outside.

use std::time::Duration;

use vigie_proto::v1::{
    self, HostState, Incident, Stack, Symptoms, from_agent, incidents_client::IncidentsClient,
};

use crate::support::{Controller, Operator};

/// The incidents once the first symptom of the first one is as wanted.
async fn until(operator: &Operator, wanted: impl Fn(&v1::IncidentSymptom) -> bool) -> Vec<Incident> {
    let mut client = IncidentsClient::new(operator.channel.clone());
    for _ in 0..400 {
        let asked = v1::ListIncidentsRequest::default();
        let incidents = client.list_incidents(asked).await.unwrap().into_inner().incidents;
        let first = incidents.first().and_then(|incident| incident.places[0].symptoms.first());
        if first.is_some_and(&wanted) {
            return incidents;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came to this");
}

/// What its root did on the host stands in the incident, once, whoever told of it and however often.
#[tokio::test]
async fn what_was_done_on_the_host_itself_stands_in_its_incident() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let mut session = host.session(&controller).await.unwrap();
    let symptom = v1::Symptom {
        runbook: "backend-502".to_owned(),
        stack: "sylion".to_owned(),
        severity: "critical".to_owned(),
        says: "nginx answers 502".to_owned(),
        ..Default::default()
    };
    session
        .say(from_agent::Message::Symptoms(Symptoms { symptoms: vec![symptom], ..Default::default() }))
        .await;
    let opened = until(&operator, |symptom| symptom.until_ms == 0).await;
    let order = crate::support::new_run();
    let here = v1::DoneHere {
        run: crate::support::new_run(),
        person: "ana as root on vps1".to_owned(),
        operation: "compose_restart".to_owned(),
        stack: "sylion".to_owned(),
        remedy: "backend-502/restart_backend".to_owned(),
        started_at_ms: 1_700_000_000_000,
    };
    for _ in 0..2 {
        let outcome = v1::Outcome { status: v1::OutcomeStatus::Succeeded.into(), ..Default::default() };
        let finished = v1::Finished {
            order: order.clone(),
            outcome: Some(outcome),
            here: Some(here.clone()),
            ..Default::default()
        };
        session.say(from_agent::Message::Finished(finished)).await;
        // The incident's own diagnosis may ask something meanwhile.
        while !matches!(session.next().await, Some(v1::to_agent::Message::Acknowledge(_))) {}
    }
    let mut client = IncidentsClient::new(operator.channel.clone());
    let asked = v1::GetIncidentRequest { incident: opened[0].id.clone() };
    let incident = client.get_incident(asked).await.unwrap().into_inner();
    let told: Vec<_> = incident.timeline.iter().filter(|line| line.run == here.run).collect();
    assert_eq!(told.len(), 1, "{:#?}", incident.timeline);
    assert_eq!(told[0].operator, "ana as root on vps1");
    assert_eq!(
        told[0].text,
        "done on the host by ana as root on vps1, at 2023-11-14T22:13:20Z: compose_restart on sylion (of \
         backend-502/restart_backend): succeeded"
    );
}

/// The host's agent is content, and the world cannot reach the stack: an incident, which the agent's word does not end.
#[tokio::test]
async fn what_only_the_world_sees_opens_an_incident() {
    let mut controller = Controller::new().await;
    controller.config.settings.watch.every_s = 5;
    let controller = controller.restart().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let session = host.session(&controller).await.unwrap();
    // A name that by RFC 2606 leads nowhere.
    let told = |server_name: &str| {
        let stack =
            Stack { name: "sylion".to_owned(), server_name: server_name.to_owned(), ..Default::default() };
        from_agent::Message::State(HostState { stacks: vec![stack], ..Default::default() })
    };
    session.say(told("api.invalid")).await;
    let opened = until(&operator, |symptom| symptom.until_ms == 0).await;
    assert_eq!(opened.len(), 1);
    let place = &opened[0].places[0];
    assert_eq!((place.host_name.as_str(), place.stack.as_str()), ("vps1", "sylion"));
    let symptom = &place.symptoms[0];
    assert_eq!((symptom.runbook.as_str(), symptom.severity.as_str()), ("api-down", "critical"));
    assert!(
        symptom.outside && symptom.says.starts_with("from outside, api.invalid fails at resolve"),
        "{symptom:?}"
    );
    session.say(from_agent::Message::Symptoms(Symptoms::default())).await;
    // The board takes one report after the other: once a later one counts, that one did.
    let other = v1::Symptom {
        runbook: "redis-down".to_owned(),
        stack: "sylion".to_owned(),
        severity: "critical".to_owned(),
        says: "Redis does not serve the stack".to_owned(),
        ..Default::default()
    };
    session
        .say(from_agent::Message::Symptoms(Symptoms { symptoms: vec![other], ..Default::default() }))
        .await;
    let mut client = IncidentsClient::new(operator.channel.clone());
    let both = loop {
        let asked = v1::GetIncidentRequest { incident: opened[0].id.clone() };
        let incident = client.get_incident(asked).await.unwrap().into_inner();
        if incident.places[0].symptoms.len() == 2 {
            break incident;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(both.places[0].symptoms.iter().all(|symptom| symptom.until_ms == 0), "{both:?}");
    // The stack is served under no name any more.
    session.say(told("")).await;
    let over = until(&operator, |symptom| symptom.until_ms > 0).await;
    assert!(!over[0].places[0].symptoms[1].outside && over[0].places[0].symptoms[1].until_ms == 0);
}
