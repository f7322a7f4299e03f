//! What a listener holds against a client.

use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ClientConfig};
use vigie_transport::client::ConnectError;
use vigie_transport::server::Admits;
use vigie_transport::tls::{ClientAuth, client_config};

use crate::support::{AGENT, AGENTS, Authority, Fleet, Leaf, Running, call, seen};

/// The alert with which an agents' listener turns this client away.
async fn alert(fleet: &Fleet, tls: Arc<ClientConfig>) -> AlertDescription {
    match fleet.serve().connect(tls).await {
        Err(ConnectError::CertificateRefused { alert, .. }) => alert,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_certificate_is_refused_and_the_client_learns_it_while_connecting() {
    let fleet = Fleet::new();
    let anonymous = client_config(fleet.trust(), None).unwrap();
    assert_eq!(alert(&fleet, anonymous).await, AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn another_ca_is_refused() {
    let fleet = Fleet::new();
    // A CA with the right name and another key gets as far as its signature: a controller set up
    // anew looks so.
    for (name, expected) in
        [("stranger", AlertDescription::UnknownCA), ("agents", AlertDescription::DecryptError)]
    {
        let stranger = Authority::named(name).issue(Leaf::of(&[AGENT]));
        assert_eq!(alert(&fleet, fleet.client(&stranger)).await, expected);
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let fleet = Fleet::new();
    let expired = fleet.agents.issue(Leaf { expired_for: 1, ..Leaf::of(&[AGENT]) });
    assert_eq!(alert(&fleet, fleet.client(&expired)).await, AlertDescription::CertificateExpired);
}

#[tokio::test]
async fn a_certificate_that_names_nobody_is_refused() {
    let fleet = Fleet::new();
    for uris in [&[][..], &[AGENT, "spiffe://fleet.test/agent/vps2"], &["spiffe://fleet.test/agent/a/../b"]] {
        let nobody = fleet.agents.issue(Leaf::of(uris));
        assert_eq!(alert(&fleet, fleet.client(&nobody)).await, AlertDescription::AccessDenied, "{uris:?}");
    }
}

#[tokio::test]
async fn a_ca_certificate_is_refused() {
    let fleet = Fleet::new();
    let authority = fleet.agents.issue(Leaf { authority: true, ..Leaf::of(&[AGENT]) });
    // webpki refuses it before we look; `CertificateUnknown` is rustls' alert for its "other" errors.
    assert_eq!(alert(&fleet, fleet.client(&authority)).await, AlertDescription::CertificateUnknown);
}

#[tokio::test]
async fn another_role_is_shown_the_door() {
    let fleet = Fleet::new();
    let operator = fleet.agents.issue(Leaf::of(&["spiffe://fleet.test/operator/alice"]));
    let error = fleet.serve().connect(fleet.client(&operator)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_configuration_that_forgot_to_ask_admits_nobody() {
    let fleet = Fleet::new();
    let server = Running::new(&fleet.controller, ClientAuth::None, AGENTS);
    let error = server.connect(fleet.client(&fleet.agent)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_forgiving_listener_lets_the_late_in_and_says_so() {
    let fleet = Fleet::new();
    let grace = Duration::from_secs(10 * 24 * 3600);
    let auth = ClientAuth::Forgiving { roots: vec![fleet.agents.root()], grace };
    let server = Running::new(&fleet.controller, auth, AGENTS);
    for (expired_for, expected) in [(-1, "false"), (9, "true")] {
        let credential = fleet.agents.issue(Leaf { expired_for, ..Leaf::of(&[AGENT]) });
        let channel = server.connect(fleet.client(&credential)).await.unwrap();
        assert_eq!(call(channel, "/").await.unwrap().headers()["expired"], expected);
    }
    for credential in [
        fleet.agents.issue(Leaf { expired_for: 11, ..Leaf::of(&[AGENT]) }),
        Authority::stranger().issue(Leaf { expired_for: 9, ..Leaf::of(&[AGENT]) }),
    ] {
        let error = server.connect(fleet.client(&credential)).await.unwrap_err();
        assert!(matches!(error, ConnectError::CertificateRefused { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn enrolment_asks_nobody_who_they_are() {
    let fleet = Fleet::new();
    let server = Running::new(&fleet.controller, ClientAuth::None, Admits::Anyone);
    let anonymous = client_config(fleet.trust(), None).unwrap();
    assert_eq!(seen(server.connect(anonymous).await.unwrap()).await, "");
}
