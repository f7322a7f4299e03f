//! What a client holds against a server.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use vigie_transport::client::{Address, ConnectError, Keepalive, Stage, connect, explain};
use vigie_transport::credential::Credential;
use vigie_transport::identity::IdentityError;
use vigie_transport::server::Admits;
use vigie_transport::tls::{ClientAuth, Rejection, ServerTrust, client_config};

use crate::support::{AGENT, AGENTS, Authority, CONTROLLER, Fleet, Leaf, Running, call, seen};

/// The client's verdict on a server that shows `credential`.
async fn verdict(fleet: &Fleet, credential: &Credential) -> ConnectError {
    let server = Running::new(credential, fleet.required(), AGENTS);
    server.connect(fleet.client(&fleet.agent)).await.expect_err("the server is bad")
}

#[tokio::test]
async fn a_controller_of_the_right_ca_is_trusted() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let channel = server.connect(fleet.client(&fleet.agent)).await.unwrap();
    assert_eq!(seen(channel).await, AGENT);
}

#[tokio::test]
async fn a_pin_is_enough_to_enrol() {
    let fleet = Fleet::new();
    let server = Running::new(&fleet.controller, ClientAuth::None, Admits::Anyone);
    let pinned = client_config(ServerTrust::Pinned(fleet.controllers.pin()), None).unwrap();
    assert_eq!(seen(server.connect(pinned).await.unwrap()).await, "");
}

#[tokio::test]
async fn another_pin_is_refused() {
    let fleet = Fleet::new();
    let server = Running::new(&fleet.controller, ClientAuth::None, Admits::Anyone);
    let expected = fleet.agents.pin();
    let pinned = client_config(ServerTrust::Pinned(expected), None).unwrap();
    let error = server.connect(pinned).await.unwrap_err();
    match error {
        ConnectError::Pin { source, .. } => assert_eq!(source, Rejection::Pin { expected }),
        _ => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn the_pinned_ca_must_have_signed_the_leaf() {
    let fleet = Fleet::new();
    let impostor = Authority::stranger().issue(Leaf::controller());
    let chain = vec![impostor.chain()[0].clone(), fleet.controllers.root()];
    let forged = Credential::new(chain, impostor.key().clone()).unwrap();
    let server = Running::new(&forged, ClientAuth::None, Admits::Anyone);
    let pinned = client_config(ServerTrust::Pinned(fleet.controllers.pin()), None).unwrap();
    let error = server.connect(pinned).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_controller_of_another_ca_is_refused() {
    let fleet = Fleet::new();
    for name in ["stranger", "controllers"] {
        let error = verdict(&fleet, &Authority::named(name).issue(Leaf::controller())).await;
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn another_role_is_no_controller() {
    let fleet = Fleet::new();
    let agent = fleet.controllers.issue(Leaf { uris: &[AGENT], ..Leaf::controller() });
    let error = verdict(&fleet, &agent).await;
    assert!(matches!(error, ConnectError::Impostor { source: Rejection::Role { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn one_uri_and_only_one() {
    let fleet = Fleet::new();
    for (uris, expected) in [
        (&[][..], IdentityError::NoUri),
        (&[CONTROLLER, AGENT], IdentityError::ManyUris { count: 2 }),
        (&["spiffe://fleet.test/controller/%6fne"], IdentityError::Name),
    ] {
        let error = verdict(&fleet, &fleet.controllers.issue(Leaf { uris, ..Leaf::controller() })).await;
        match error {
            ConnectError::Impostor { source: Rejection::Identity(found), .. } => assert_eq!(found, expected),
            _ => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn the_name_and_the_dates_count() {
    let fleet = Fleet::new();
    let elsewhere = fleet.controllers.issue(Leaf { dns: &["elsewhere.test"], ..Leaf::controller() });
    let error = verdict(&fleet, &elsewhere).await;
    assert!(matches!(error, ConnectError::Name { .. }), "{error:?}");
    let expired = fleet.controllers.issue(Leaf { expired_for: 1, ..Leaf::controller() });
    let error = verdict(&fleet, &expired).await;
    assert!(matches!(error, ConnectError::Expired { .. }), "{error:?}");
}

#[tokio::test]
async fn a_ca_certificate_is_no_leaf() {
    let fleet = Fleet::new();
    let authority = fleet.controllers.issue(Leaf { authority: true, ..Leaf::controller() });
    let error = verdict(&fleet, &authority).await;
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn failures_before_tls_are_told_apart() {
    let fleet = Fleet::new();
    let tls = fleet.client(&fleet.agent);
    let attempt = |address: Address| connect(address, tls.clone(), Keepalive::default());

    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: Address = closed.local_addr().unwrap().to_string().parse().unwrap();
    drop(closed);
    let error = attempt(address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");

    let error = attempt("no-such-host.invalid:1".parse().unwrap()).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Resolve { .. } | ConnectError::Timeout { stage: Stage::Resolve, .. }),
        "{error:?}"
    );

    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = plain.local_addr().unwrap().to_string().parse().unwrap();
    let (error, ()) = tokio::join!(attempt(address), async {
        let (mut tcp, _) = plain.accept().await.unwrap();
        tcp.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
    });
    let error = error.unwrap_err();
    assert!(matches!(error, ConnectError::NotTls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_mute_server_is_given_up_after_five_seconds() {
    let fleet = Fleet::new();
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = mute.local_addr().unwrap().to_string().parse().unwrap();
    let began = Instant::now();
    let error = connect(address, fleet.client(&fleet.agent), Keepalive::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { stage: Stage::Tls, .. }), "{error:?}");
    assert!((4..7).contains(&began.elapsed().as_secs()));
}

#[tokio::test]
async fn a_status_after_a_lost_connection_says_why_it_stays_lost() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let channel = server.connect(fleet.client(&fleet.agent)).await.unwrap();
    drop(server);
    // The first calls may still meet the dying connection; a later one meets the closed port.
    let mut explained = None;
    for _ in 0..500 {
        if let Err(error) = call(channel.clone(), "/").await {
            explained = explain(&tonic::Status::from_error(error.into())).cloned();
        }
        if explained.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(explained, Some(ConnectError::Refused { .. })), "{explained:?}");
}
