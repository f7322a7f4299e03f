use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

use super::*;

fn credential() -> Credential {
    let key = PrivateKey::generate().unwrap();
    let pair = KeyPair::from_pem(&key.to_pem()).unwrap();
    let certificate = CertificateParams::new(vec!["vps1".to_owned()]).unwrap().self_signed(&pair).unwrap();
    Credential::new(vec![certificate.der().clone()], key).unwrap()
}

#[test]
fn a_key_survives_pem_and_says_nothing_in_debug() {
    let key = PrivateKey::generate().unwrap();
    let text = key.to_pem();
    assert_eq!(*PrivateKey::from_pem(&text).unwrap().to_pem(), *text);
    assert_eq!(*text, KeyPair::from_pem(&text).unwrap().serialize_pem().replace("\r\n", "\n"));
    assert_eq!(format!("{key:?}"), "PrivateKey(..)");
}

#[test]
fn other_kinds_of_key_are_refused() {
    let other = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
    assert!(matches!(PrivateKey::from_pem(&other), Err(KeyError::Kind(_))));
    assert!(matches!(PrivateKey::from_pem("no key"), Err(KeyError::Pem(_))));
}

#[test]
fn a_request_proves_possession_and_asks_for_nothing() {
    let request = PrivateKey::generate().unwrap().certificate_request().unwrap();
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let (rest, request) = X509CertificationRequest::from_der(&request).unwrap();
    assert!(rest.is_empty());
    assert_eq!(request.certification_request_info.subject.iter().count(), 0);
    assert_eq!(request.requested_extensions().map_or(0, Iterator::count), 0);
}

#[test]
fn a_private_file_is_replaced_whole_and_stays_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    for bytes in [&b"first, and longer"[..], b"second"] {
        write_private(&path, bytes).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "a temporary file stayed");
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    credential().save(&path).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Credential::load(&path, &path).unwrap_err();
        assert!(error.to_string().contains(&format!("run `chmod 600 {}`", path.display())), "{error}");
    }
}

#[test]
fn a_credential_rests_in_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.pem");
    let saved = credential();
    saved.save(&path).unwrap();
    let loaded = Credential::load(&path, &path).unwrap();
    assert_eq!(loaded.chain(), saved.chain());
    assert_eq!(*loaded.key().to_pem(), *saved.key().to_pem());
}

#[test]
fn failures_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let [missing, empty, large] = ["missing", "empty", "large"].map(|name| directory.path().join(name));
    write_private(&empty, b"").unwrap();
    write_private(&large, &vec![b'a'; 300_000]).unwrap();
    for path in [&missing, &empty, &large] {
        let error = PrivateKey::load(path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    assert!(matches!(read_public(&missing), Err(FileError::Missing { .. })));
    assert!(matches!(read_public(&large), Err(FileError::TooLong { .. })));
}

#[test]
fn a_key_and_another_keys_certificate_are_no_credential() {
    let chain = credential().chain().to_vec();
    let error = Credential::new(chain, PrivateKey::generate().unwrap()).unwrap_err();
    assert!(matches!(error, CredentialError::Mismatch(_)));
    assert!(matches!(
        Credential::new(Vec::new(), PrivateKey::generate().unwrap()),
        Err(CredentialError::NoCertificate)
    ));
}
