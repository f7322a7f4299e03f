//! Who gets in, and where.

use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use vigie_controller::{InitError, init};
use vigie_proto::{
    order::SigningKey,
    v1::{self, runs_client::RunsClient},
};
use vigie_transport::{client::ConnectError, credential::PrivateKey};

use crate::support::{Controller, all, join_token, trust_list, wanted};

#[tokio::test]
async fn a_folder_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    init(wanted(&state)).await.unwrap();
    let before = std::fs::read(state.join("controller.toml")).unwrap();
    assert!(matches!(init(wanted(&state)).await.unwrap_err(), InitError::Exists(_)));
    assert_eq!(std::fs::read(state.join("controller.toml")).unwrap(), before);
    assert!(matches!(init(wanted(folder.path())).await.unwrap_err(), InitError::NotEmpty(_)));
}

#[tokio::test]
async fn every_door_asks_for_its_own_kind_of_certificate() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let (operators, agents) = (controller.running.operators.port(), controller.running.agents.port());
    assert!(matches!(operator.peer.dial_bare(operators).await, Err(ConnectError::CertificateRefused { .. })));
    assert!(matches!(host.peer.dial_bare(agents).await, Err(ConnectError::CertificateRefused { .. })));
    assert!(matches!(operator.peer.dial(agents).await, Err(ConnectError::CertificateRefused { .. })));
    assert!(matches!(host.peer.dial(operators).await, Err(ConnectError::CertificateRefused { .. })));
}

#[tokio::test]
async fn without_a_certificate_there_is_nothing_but_enrolment() {
    let controller = Controller::new().await;
    let operator = controller.operator().await;
    // That door asks for no certificate, so that even an operator is nobody there.
    let channel = operator.peer.dial(controller.running.enrolment.port()).await.unwrap();
    let error = RunsClient::new(channel).list_runs(v1::ListRunsRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(error.metadata().get("vigie-code").unwrap(), "permission_denied");
}

#[tokio::test]
async fn health_is_told_to_operators() {
    let controller = Controller::new().await;
    let operator = controller.operator().await;
    let answer =
        HealthClient::new(operator.channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status, 1, "SERVING");
}

#[tokio::test]
async fn the_first_operator_is_the_first_once() {
    let controller = Controller::new().await;
    let key = PrivateKey::generate().unwrap();
    let signing = SigningKey::from_seed(&[5; 32]);
    let denied = |person: &'static str, name: &'static str, signer: SigningKey| {
        let list = trust_list(person, &signer);
        let (controller, key) = (&controller, &key);
        async move { controller.enrol(&controller.login, key, Some((name, list))).await.unwrap_err().code() }
    };
    assert_eq!(denied("ada", "eve", SigningKey::from_seed(&[5; 32])).await, Code::InvalidArgument);
    assert_eq!(denied("../x", "../x", SigningKey::from_seed(&[5; 32])).await, Code::InvalidArgument);
    let mut unsigned = trust_list("ada", &signing);
    unsigned.signatures.clear();
    let error = controller.enrol(&controller.login, &key, Some(("ada", unsigned))).await.unwrap_err();
    assert_eq!(error.metadata().get("vigie-code").unwrap(), "bad_trust_list");
    // None of that used the token up.
    let list = trust_list("ada", &signing);
    let first = controller.enrol(&controller.login, &key, Some(("ada", list.clone()))).await.unwrap();
    assert_eq!(first.identity, "spiffe://fleet.test/operator/ada");
    let again = controller.enrol(&controller.login, &key, Some(("ada", list.clone()))).await.unwrap();
    assert_eq!(again.certificate_chain, first.certificate_chain);
    let thief = PrivateKey::generate().unwrap();
    let error = controller.enrol(&controller.login, &thief, Some(("ada", list))).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_host_is_replaced_only_when_that_was_asked_for() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let old = controller.host(&mut operator, "vps1").await;
    let mut session = old.session(&controller).await.unwrap();
    let ask = |replace| {
        let request = v1::CreateJoinTokenRequest { name: "vps1".to_owned(), replace, ..Default::default() };
        let mut hosts = operator.hosts.clone();
        async move { hosts.create_join_token(Request::new(request)).await }
    };
    assert_eq!(ask(false).await.unwrap_err().code(), Code::AlreadyExists);
    let made = ask(true).await.unwrap().into_inner();
    let key = PrivateKey::generate().unwrap();
    let new = controller.enrol(&join_token(&made, &controller.login), &key, None).await.unwrap();
    assert_eq!((new.host.as_str(), new.incarnation), (old.id.as_str(), 2));
    assert_eq!(session.refusal().await.metadata().get("vigie-code").unwrap(), "wrong_incarnation");
    let Err(error) = old.session(&controller).await else { panic!("the old machine is out") };
    assert_eq!(error.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn bad_questions_get_answers_that_say_what_to_do() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let list = |selector| v1::ListHostsRequest { selector };
    assert!(operator.hosts.list_hosts(list(None)).await.unwrap().into_inner().hosts.is_empty());
    let error = operator.hosts.list_hosts(list(Some(all()))).await.unwrap_err();
    assert_eq!(error.metadata().get("vigie-code").unwrap(), "no_hosts");
    let error = operator.hosts.get_host(v1::GetHostRequest { host: "vps9".to_owned() }).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::NotFound, "no host is named vps9"));
    for name in ["", "VPS1", "../x", "a b", "-x"] {
        let request = v1::CreateJoinTokenRequest { name: name.to_owned(), ..Default::default() };
        let error = operator.hosts.create_join_token(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name:?}");
    }
}
