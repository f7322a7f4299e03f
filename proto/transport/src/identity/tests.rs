use proptest::prelude::*;

use super::*;

#[test]
fn reads_and_writes_one_form() {
    let text = "spiffe://fleet.example/agent/0192f0c1-vps_1.eu";
    let identity: Identity = text.parse().unwrap();
    assert_eq!(
        (identity.domain(), identity.role(), identity.name()),
        ("fleet.example", Role::Agent, "0192f0c1-vps_1.eu")
    );
    assert_eq!(identity.to_string(), text);
}

#[test]
fn refuses_each_fault_by_name() {
    use IdentityError as E;
    let long_name = format!("spiffe://d/agent/{}", "a".repeat(MAX_NAME + 1));
    let long = format!("spiffe://{}/agent/a", "d".repeat(10_000));
    for (text, expected) in [
        ("", E::Scheme),
        ("https://d/agent/a", E::Scheme),
        ("SPIFFE://d/agent/a", E::Scheme),
        ("spiffe:///agent/a", E::Domain),
        ("spiffe://d/agent", E::Shape),
        ("spiffe://d/agent/a/", E::Shape),
        ("spiffe://d/agent/a/../b", E::Shape),
        ("spiffe://d//a", E::Role(UnknownRole)),
        ("spiffe://d/root/a", E::Role(UnknownRole)),
        ("spiffe://d/Agent/a", E::Role(UnknownRole)),
        ("spiffe://d/agent/", E::Name),
        ("spiffe://d/agent/.", E::Name),
        ("spiffe://d/agent/..", E::Name),
        ("spiffe://d/agent/-rf", E::Name),
        ("spiffe://d/agent/A", E::Name),
        ("spiffe://d/agent/%2e%2e", E::Name),
        ("spiffe://d/agent/a\0", E::Name),
        ("spiffe://d/agent/a\u{202e}", E::Name),
        ("spiffe://d/agent/a?b", E::Name),
        ("spiffe://d:443/agent/a", E::Domain),
        ("spiffe://u@d/agent/a", E::Domain),
        (&long_name, E::Name),
        (&long, E::TooLong { length: long.len() }),
    ] {
        assert_eq!(text.parse::<Identity>(), Err(expected), "{text:?}");
    }
}

#[test]
fn refuses_bytes_that_are_no_certificate() {
    for bytes in [&b""[..], b"\x30\x03\x02\x01\x00", &[0xff; 64]] {
        let certificate = CertificateDer::from(bytes);
        assert_eq!(Identity::from_certificate(&certificate), Err(IdentityError::Certificate(Malformed)));
    }
}

fn segment(longest: usize) -> impl Strategy<Value = String> {
    proptest::string::string_regex(&format!("[a-z0-9][a-z0-9._-]{{0,{}}}", longest - 1)).unwrap()
}

proptest! {
    #[test]
    fn every_identity_survives_a_round_trip(
        domain in segment(150),
        role in proptest::sample::select(&Role::ALL[..]),
        name in segment(MAX_NAME),
    ) {
        let identity = Identity::new(&domain, role, &name).unwrap();
        prop_assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
    }

    #[test]
    fn what_parses_prints_as_it_was(text in "(spiffe://)?[a-zA-Z0-9./%_ -]{0,80}") {
        if let Ok(identity) = text.parse::<Identity>() {
            prop_assert_eq!(identity.to_string(), text);
        }
    }

    #[test]
    fn hostile_text_never_panics(text in "\\PC*", prefixed in "\\PC{0,300}") {
        let _ = text.parse::<Identity>();
        let _ = format!("spiffe://{prefixed}").parse::<Identity>();
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Identity::from_certificate(&CertificateDer::from(bytes));
    }
}
