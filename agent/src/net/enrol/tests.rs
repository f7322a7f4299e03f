use std::sync::Mutex;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, transport::Server};
use vigie_proto::{
    id::TokenId,
    order::{Domain, SigningKey, digest},
    v1::{
        SignedTrustList, TrustList, TrustedOperator,
        enrolment_server::{Enrolment, EnrolmentServer},
    },
};
use vigie_transport::{
    server::{Admits, Listener, limits},
    tls::{ClientAuth, server_config},
};

use super::*;
use crate::net::tests::{Authority, key_file, loopback};

/// What the test's controller does with a request.
type Answer = Box<dyn Fn(EnrolRequest) -> Result<EnrolResponse, Status> + Send + Sync>;

struct Office(Arc<Mutex<Answer>>);

#[tonic::async_trait]
impl Enrolment for Office {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        (self.0.lock().unwrap())(request.into_inner()).map(Response::new)
    }
}

struct World {
    state: tempfile::TempDir,
    controllers: Authority,
    agents: Arc<Authority>,
    host: HostId,
    list: SignedTrustList,
    token: Token,
    answer: Arc<Mutex<Answer>>,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    fn new() -> Self {
        let controllers = Authority::new();
        let key = SigningKey::from_seed(&[7; 32]);
        let operator =
            TrustedOperator { person: "ada".to_owned(), public_key: key.public().to_bytes().to_vec() };
        let list = prost::Message::encode_to_vec(&TrustList { version: 1, operators: vec![operator] });
        let list = SignedTrustList { signatures: vec![key.sign(Domain::TrustList, &list)], trust_list: list };
        let answer: Arc<Mutex<Answer>> =
            Arc::new(Mutex::new(Box::new(|_| Err(Status::unavailable("not yet")))));
        let (_, config) = watch::channel(server_config(&controllers.controller(), ClientAuth::None).unwrap());
        let listener = Listener::bind(loopback(), config, Admits::Anyone).unwrap();
        let address = format!("localhost:{}", listener.local_address().unwrap().port());
        let stop = CancellationToken::new();
        let office = Office(Arc::clone(&answer));
        let stopped = stop.clone();
        tokio::spawn(async move {
            limits(Server::builder())
                .add_service(EnrolmentServer::new(office))
                .serve_with_incoming_shutdown(listener.incoming(), stopped.cancelled_owned())
                .await
                .unwrap();
        });
        let token = Token {
            id: TokenId::new(),
            secret: Zeroizing::new([1; 32]),
            ca_pin: *Pin::of(&controllers.root()).unwrap().as_bytes(),
            trust_list: Some(digest(&list.trust_list)),
            address,
        };
        Self {
            state: tempfile::tempdir().unwrap(),
            controllers,
            agents: Arc::new(Authority::new()),
            host: HostId::new(),
            list,
            token,
            answer,
            _stop: stop.drop_guard(),
        }
    }

    /// The good answer, changed by a test.
    fn answers(&self, incarnation: u64, change: impl Fn(&mut EnrolResponse) + Send + Sync + 'static) {
        let (agents, host) = (Arc::clone(&self.agents), self.host.to_string());
        let (root, list, state) = (self.controllers.root(), self.list.clone(), self.state.path().to_owned());
        *self.answer.lock().unwrap() = Box::new(move |request| {
            assert_eq!(request.secret, [1; 32]);
            assert!(!request.certificate_request.is_empty());
            // The request's key is the one in the state folder; a real controller reads it from the request.
            let key = PrivateKey::load(&key_file(&state)).unwrap();
            let identity = format!("spiffe://fleet.test/agent/{host}");
            let chain = agents.issue(&identity, key).chain().iter().map(|der| der.to_vec()).collect();
            let mut response = EnrolResponse {
                certificate_chain: chain,
                controller_roots: vec![root.to_vec()],
                identity,
                address: "vigie.example.com:7421".to_owned(),
                host: host.clone(),
                host_name: "vps1".to_owned(),
                incarnation,
                trust_list: Some(list.clone()),
            };
            change(&mut response);
            Ok(response)
        });
    }

    async fn enroll(&self, replace: bool) -> Result<Enrolled, EnrolError> {
        let token_file = self.state.path().join("token");
        vigie_transport::credential::write_private(&token_file, self.token.to_string().as_bytes()).unwrap();
        let args = EnrollArgs { token_file: Some(token_file), state: self.state.path().to_owned(), replace };
        enroll(&args).await
    }

    fn key(&self) -> String {
        fs::read_to_string(key_file(self.state.path())).unwrap()
    }
}

#[tokio::test]
async fn a_token_becomes_an_enrolment_that_can_be_read_again() {
    let world = World::new();
    world.answers(1, |_| {});
    world.enroll(false).await.unwrap();
    let enrolled = Enrolled::load(world.state.path()).unwrap();
    assert_eq!((enrolled.host, enrolled.name.as_str(), enrolled.incarnation), (world.host, "vps1", 1));
    assert_eq!(enrolled.trust().unwrap().keys.version(), 1);
    assert!(!key_file(world.state.path()).exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &world.state.path().join("host.json").metadata().unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let journal = Journal::open(FileStorage::new(&world.state.path().join(JOURNAL)).unwrap());
    assert!(!journal.index().is_broken());

    assert!(matches!(world.enroll(false).await, Err(EnrolError::Already(who)) if who.contains("vps1")));
    world.answers(2, |_| {});
    assert_eq!(world.enroll(true).await.unwrap().incarnation, 2);
    assert_eq!(Enrolled::load(world.state.path()).unwrap().incarnation, 2);
}

#[tokio::test]
async fn an_interrupted_enrolment_is_repeated_with_the_same_key() {
    let world = World::new();
    assert!(matches!(world.enroll(false).await, Err(EnrolError::Refused(_))));
    let key = world.key();
    assert!(matches!(world.enroll(false).await, Err(EnrolError::Refused(_))));
    assert_eq!(world.key(), key);
    assert!(!Enrolled::exists(world.state.path()));
}

#[tokio::test]
async fn a_wrong_answer_changes_nothing() {
    use AnswerError as E;
    let world = World::new();
    type Case = (fn(&mut EnrolResponse), fn(&E) -> bool);
    let cases: [Case; 8] = [
        (|answer| answer.certificate_chain.clear(), |error| matches!(error, E::Certificate(_))),
        (|answer| answer.host = HostId::new().to_string(), |error| matches!(error, E::Other { .. })),
        (|answer| answer.identity.push('x'), |error| matches!(error, E::Other { .. })),
        (|answer| answer.controller_roots.clear(), |error| matches!(error, E::NoRoots)),
        (
            |answer| answer.controller_roots = vec![Authority::new().root().to_vec()],
            |error| matches!(error, E::NotPinned),
        ),
        (|answer| answer.trust_list = None, |error| matches!(error, E::NoTrustList)),
        (
            |answer| answer.trust_list.as_mut().unwrap().trust_list.push(0),
            |error| matches!(error, E::Trust(TrustError::NotPinned)),
        ),
        (|answer| answer.address = "https://x".to_owned(), |error| matches!(error, E::Address(_))),
    ];
    for (at, (change, expected)) in cases.into_iter().enumerate() {
        world.answers(1, change);
        match world.enroll(false).await {
            Err(EnrolError::Answer(error)) => assert!(expected(&error), "{at}: {error:?}"),
            other => panic!("{at}: {other:?}"),
        }
        assert!(!Enrolled::exists(world.state.path()), "{at}");
    }
    // A certificate for somebody else's key.
    let agents = Arc::clone(&world.agents);
    let host = world.host;
    world.answers(1, move |answer| {
        let other =
            agents.issue(&format!("spiffe://fleet.test/agent/{host}"), PrivateKey::generate().unwrap());
        answer.certificate_chain = other.chain().iter().map(|der| der.to_vec()).collect();
    });
    assert!(matches!(world.enroll(false).await, Err(EnrolError::Answer(E::Certificate(_)))));
}

#[tokio::test]
async fn another_controller_is_not_spoken_to() {
    let mut world = World::new();
    world.token.ca_pin = [9; 32];
    assert!(matches!(world.enroll(false).await, Err(EnrolError::Connect(ConnectError::Pin { .. }))));
    world.token.trust_list = None;
    assert!(matches!(world.enroll(false).await, Err(EnrolError::NoTrustPin)));
}

#[tokio::test]
async fn a_damaged_enrolment_is_named_by_its_part() {
    let world = World::new();
    world.answers(1, |_| {});
    world.enroll(false).await.unwrap();
    let path = world.state.path().join("host.json");
    let text = fs::read_to_string(&path).unwrap();
    let pin = data_encoding::HEXLOWER.encode(&digest(&world.list.trust_list));
    for (from, to, part) in [
        (pin.as_str(), "00", "trust_pin"),
        (&world.host.to_string()[..], &HostId::new().to_string()[..], "certificate_chain"),
        ("vigie.example.com:7421", "vigie.example.com", "link"),
        ("{", "[", "the whole"),
    ] {
        vigie_transport::credential::write_private(&path, text.replacen(from, to, 1).as_bytes()).unwrap();
        let error = Enrolled::load(world.state.path()).unwrap_err().to_string();
        assert!(error.contains(&format!(": {part} is damaged")), "{error}");
    }
}
