use rcgen::{PKCS_ECDSA_P384_SHA384, date_time_ymd};
use vigie_transport::{Validity, server::PeerCertificate};

use super::*;

fn authority() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(&folder.path().join("authority"), "fleet.test").unwrap();
    (folder, authority)
}

fn der(certificate: &Certificate) -> CertificateDer<'static> {
    certificate.der.clone().into()
}

#[test]
fn the_cas_are_read_again_as_they_were_made() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, made) = authority();
    let path = folder.path().join("authority");
    let read = Authority::load(&path, "fleet.test").unwrap();
    assert_eq!(made.pin().unwrap(), read.pin().unwrap());
    for role in [Role::Agent, Role::Operator, Role::Controller] {
        assert_eq!(made.roots(role), read.roots(role));
        let mode = std::fs::metadata(file(&path, role)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{role}");
    }
    assert_ne!(made.roots(Role::Agent), made.roots(Role::Operator));
}

#[test]
fn a_certificate_says_what_we_say() {
    let (_folder, authority) = authority();
    let key = PrivateKey::generate().unwrap();
    let requested = RequestedKey::read(&key.certificate_request().unwrap()).unwrap();
    let host = HostId::new();
    let issued = authority.agent(host, &requested).unwrap();
    let peer = PeerCertificate::read(&der(&issued)).unwrap();
    assert_eq!(peer.identity.to_string(), format!("spiffe://fleet.test/agent/{host}"));
    assert_eq!(peer.identity.to_string(), issued.identity);
    assert_eq!(peer.serial, issued.serial);
    assert_eq!(peer.public_key_sha256, requested.sha256());
    assert_eq!(peer.not_after, issued.not_after_ms / 1000);
    let validity = Validity::of(&der(&issued)).unwrap();
    let life = u64::try_from(validity.not_after - validity.not_before).unwrap();
    assert!(life.abs_diff((PEER_LIFE + BACKDATING).as_secs()) <= 1, "{life}");
    // And the key that was asked for can use it.
    Credential::new(vec![der(&issued)], key).unwrap();
}

/// Attack 8: CA:true, another's name, 2000 years, two URI names, the controller's DNS name.
#[test]
fn a_hostile_request_gets_only_what_we_say() {
    let (_folder, authority) = authority();
    let mut wanted = CertificateParams::new(vec!["vigie.example.com".to_owned()]).unwrap();
    for uri in ["spiffe://fleet.test/operator/root", "spiffe://fleet.test/controller/one"] {
        wanted.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    wanted.distinguished_name.push(DnType::CommonName, "root");
    let pair = KeyPair::generate().unwrap();
    let request = wanted.serialize_request(&pair).unwrap();
    let requested = RequestedKey::read(request.der()).unwrap();
    let host = HostId::new();
    let issued = authority.agent(host, &requested).unwrap();
    // Reading it as a peer's refuses a CA and a second URI.
    let peer = PeerCertificate::read(&der(&issued)).unwrap();
    assert_eq!(peer.identity.name(), host.to_string());
    assert_eq!(peer.identity.role(), Role::Agent);
    let validity = Validity::of(&der(&issued)).unwrap();
    assert!(validity.not_after < date_time_ymd(2100, 1, 1).unix_timestamp());
    let text = String::from_utf8_lossy(&issued.der).into_owned();
    for theirs in ["vigie.example.com", "operator/root", "controller/one"] {
        assert!(!text.contains(theirs), "{theirs}");
    }
}

#[test]
fn a_request_without_proof_of_possession_is_refused() {
    let key = PrivateKey::generate().unwrap();
    let mut request = key.certificate_request().unwrap();
    assert!(RequestedKey::read(&request).is_ok());
    let last = request.len() - 1;
    request[last] ^= 1;
    assert!(matches!(RequestedKey::read(&request), Err(RequestError::Invalid(_))));
    assert!(matches!(RequestedKey::read(b"hello"), Err(RequestError::Invalid(_))));
    assert!(matches!(RequestedKey::read(&[0x30; 10_000]), Err(RequestError::TooLong)));
}

#[test]
fn only_the_one_kind_of_key_is_taken() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let request = CertificateParams::default().serialize_request(&pair).unwrap();
    assert!(matches!(RequestedKey::read(request.der()), Err(RequestError::Algorithm)));
}

#[test]
fn the_controller_carries_its_address() {
    let (_folder, authority) = authority();
    for address in ["vigie.example.com", "192.0.2.7", "2001:db8::1"] {
        let credential = authority.controller("one", address).unwrap();
        assert_eq!(credential.identity().unwrap().to_string(), "spiffe://fleet.test/controller/one");
        assert_eq!(Pin::of(&credential.chain()[1]).unwrap(), authority.pin().unwrap());
    }
    assert!(authority.controller("One", "vigie.example.com").is_err());
    assert!(authority.operator("../root", &request_key()).is_err());
}

fn request_key() -> RequestedKey {
    RequestedKey::read(&PrivateKey::generate().unwrap().certificate_request().unwrap()).unwrap()
}

#[test]
fn serials_keep_their_length() {
    for _ in 0..100 {
        let serial = serial().unwrap();
        assert!((0x40..0x80).contains(&serial[0]));
    }
}
