//! A controller of its own for each test, and peers of both kinds.

use std::{net::Ipv4Addr, path::Path};

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use vigie_controller::{Config, Init, Running, init, serve};
use vigie_proto::{
    order::{Domain, SigningKey},
    token::Token,
    v1::{
        self, EnrolRequest, EnrolResponse, FromAgent, Hello, HostState, RunEvent, Selector, SignedTrustList,
        Stack, ToAgent, TrustList, TrustedOperator, enrolment_client::EnrolmentClient, from_agent,
        hosts_client::HostsClient, link_client::LinkClient, run_event::Event, runs_client::RunsClient,
        to_agent, watch_run_response::Item,
    },
};
use vigie_transport::{
    client::{ConnectError, Keepalive, connect},
    credential::{Credential, PrivateKey},
    pin::Pin,
    tls::{ServerTrust, client_config},
};

/// A controller with its folder. Dropping it loses both.
pub(crate) struct Controller {
    pub(crate) config: Config,
    pub(crate) login: Token,
    pub(crate) running: Running,
    stop: CancellationToken,
    _folder: Option<tempfile::TempDir>,
}

impl Controller {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let controller = Self::within(folder.path()).await;
        Self { _folder: Some(folder), ..controller }
    }

    /// One whose state is made in a folder that the test keeps.
    pub(crate) async fn within(folder: &Path) -> Self {
        let made = init(wanted(&folder.join("state"))).await.unwrap();
        let stop = CancellationToken::new();
        let running = serve(made.config.clone(), stop.clone()).await.unwrap();
        Self { config: made.config, login: made.token, running, stop, _folder: None }
    }

    /// Stops it and starts it again on the same ports, as systemd would.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|| ()).await
    }

    /// The same, with something that happens in between.
    pub(crate) async fn restart_after(mut self, between: impl FnOnce()) -> Self {
        let Running { operators, agents, enrolment, .. } = &self.running;
        self.config.settings.operators_port = operators.port();
        self.config.settings.agents_port = agents.port();
        self.config.settings.enrolment_port = enrolment.port();
        self.stop.cancel();
        self.running.stopped().await.unwrap();
        between();
        let stop = CancellationToken::new();
        let running = serve(self.config.clone(), stop.clone()).await.unwrap();
        Self { running, stop, ..self }
    }

    /// Redeems a token as whoever holds it.
    pub(crate) async fn enrol(
        &self,
        token: &Token,
        key: &PrivateKey,
        operator: Option<(&str, SignedTrustList)>,
    ) -> Result<EnrolResponse, Status> {
        let trust = ServerTrust::Pinned(Pin::from_bytes(token.ca_pin));
        let channel = dial(self.running.enrolment.port(), trust, None).await.unwrap();
        let (operator_name, trust_list) =
            operator.map_or((String::new(), None), |(n, l)| (n.to_owned(), Some(l)));
        let request = EnrolRequest {
            token_id: token.id.to_string(),
            secret: token.secret.to_vec(),
            certificate_request: key.certificate_request().unwrap(),
            trust_list,
            operator_name,
        };
        Ok(EnrolmentClient::new(channel).enrol(request).await?.into_inner())
    }

    /// The first operator, logged in.
    pub(crate) async fn operator(&self) -> Operator {
        let (key, signing) = (PrivateKey::generate().unwrap(), SigningKey::from_seed(&[5; 32]));
        let list = trust_list("ada", &signing);
        let response = self.enrol(&self.login, &key, Some(("ada", list))).await.unwrap();
        assert_eq!(response.address, format!("localhost:{}", self.running.operators.port()));
        let peer = Peer::new(&response, key);
        let channel = peer.dial(self.running.operators.port()).await.unwrap();
        Operator {
            hosts: HostsClient::new(channel.clone()),
            runs: RunsClient::new(channel.clone()),
            channel,
            signing,
            peer,
        }
    }

    /// A host, enrolled with a token of the operator's.
    pub(crate) async fn host(&self, operator: &mut Operator, name: &str) -> Host {
        let made = operator
            .hosts
            .create_join_token(v1::CreateJoinTokenRequest {
                name: name.to_owned(),
                labels: vec![v1::Label { name: "env".to_owned(), value: "prod".to_owned() }],
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner();
        let token = join_token(&made, &self.login);
        let key = PrivateKey::generate().unwrap();
        let response = self.enrol(&token, &key, None).await.unwrap();
        assert_eq!(response.host_name, name);
        assert_eq!(response.address, format!("localhost:{}", self.running.agents.port()));
        assert!(response.trust_list.is_some());
        Host { id: response.host.clone(), incarnation: response.incarnation, peer: Peer::new(&response, key) }
    }
}

pub(crate) fn join_token(made: &v1::CreateJoinTokenResponse, login: &Token) -> Token {
    Token {
        id: made.token_id.parse().unwrap(),
        secret: zeroize::Zeroizing::new(made.secret.as_slice().try_into().unwrap()),
        ca_pin: login.ca_pin,
        trust_list: None,
        address: made.enrolment_address.clone(),
    }
}

pub(crate) fn wanted(state: &Path) -> Init {
    Init {
        state: state.to_owned(),
        address: "localhost".to_owned(),
        domain: "fleet.test".to_owned(),
        bind: Ipv4Addr::LOCALHOST.into(),
        operators_port: 0,
        agents_port: 0,
        enrolment_port: 0,
    }
}

pub(crate) fn trust_list(person: &str, signing: &SigningKey) -> SignedTrustList {
    let public_key = signing.public().to_bytes().to_vec();
    let operators = vec![TrustedOperator { person: person.to_owned(), public_key }];
    let list = TrustList { version: 1, operators }.encode_to_vec();
    SignedTrustList { signatures: vec![signing.sign(Domain::TrustList, &list)], trust_list: list }
}

/// Who holds a certificate of the fleet's.
pub(crate) struct Peer {
    pub(crate) credential: Credential,
    roots: Vec<rustls_pki_types::CertificateDer<'static>>,
}

impl Peer {
    fn new(response: &EnrolResponse, key: PrivateKey) -> Self {
        let chain = response.certificate_chain.iter().cloned().map(Into::into).collect();
        Self {
            credential: Credential::new(chain, key).unwrap(),
            roots: response.controller_roots.iter().cloned().map(Into::into).collect(),
        }
    }

    pub(crate) async fn dial(&self, port: u16) -> Result<Channel, ConnectError> {
        dial(port, ServerTrust::Roots(self.roots.clone()), Some(&self.credential)).await
    }

    pub(crate) async fn dial_bare(&self, port: u16) -> Result<Channel, ConnectError> {
        dial(port, ServerTrust::Roots(self.roots.clone()), None).await
    }
}

async fn dial(
    port: u16,
    trust: ServerTrust,
    credential: Option<&Credential>,
) -> Result<Channel, ConnectError> {
    let tls = client_config(trust, credential).unwrap();
    connect(format!("localhost:{port}").parse().unwrap(), tls, Keepalive::default()).await
}

/// An operator with everything that `vigiectl` would have.
pub(crate) struct Operator {
    pub(crate) hosts: HostsClient<Channel>,
    pub(crate) runs: RunsClient<Channel>,
    pub(crate) channel: Channel,
    pub(crate) signing: SigningKey,
    pub(crate) peer: Peer,
}

impl Operator {
    /// The same person, after the controller was restarted.
    pub(crate) async fn again(self, controller: &Controller) -> Self {
        let channel = self.peer.dial(controller.running.operators.port()).await.unwrap();
        Self {
            hosts: HostsClient::new(channel.clone()),
            runs: RunsClient::new(channel.clone()),
            channel,
            ..self
        }
    }

    pub(crate) async fn submit(&mut self, run: &str, spec: v1::RunSpec) -> Result<v1::RunSummary, Status> {
        let request = v1::SubmitRunRequest { run: run.to_owned(), spec: Some(spec) };
        Ok(self.runs.submit_run(request).await?.into_inner())
    }

    pub(crate) async fn watch(&mut self, run: &str, after_seq: u64, follow: bool) -> Watch {
        let request = v1::WatchRunRequest { run: run.to_owned(), after_seq, follow };
        Watch(self.runs.watch_run(request).await.unwrap().into_inner())
    }
}

/// A run's stream.
pub(crate) struct Watch(Streaming<v1::WatchRunResponse>);

impl Watch {
    pub(crate) async fn item(&mut self) -> Option<Item> {
        self.0.next().await.map(|item| item.unwrap().item.unwrap())
    }

    /// The next event; output is passed over.
    pub(crate) async fn event(&mut self) -> Option<RunEvent> {
        loop {
            match self.item().await? {
                Item::Event(event) => return Some(event),
                Item::Output(_) => {}
            }
        }
    }

    /// The first event for which `wanted` has an answer.
    pub(crate) async fn until<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = self.event().await.expect("the run goes on");
            if let Some(found) = event.event.as_ref().and_then(&wanted) {
                return found;
            }
        }
    }

    /// How the run closes.
    pub(crate) async fn closed(&mut self) -> v1::Closed {
        let closed = self.until(|event| match event {
            Event::Closed(closed) => Some(closed.clone()),
            _ => None,
        });
        let closed = closed.await;
        assert!(self.item().await.is_none(), "nothing comes after the end");
        closed
    }
}

/// A host's certificate, and what an agent would say with it.
pub(crate) struct Host {
    pub(crate) id: String,
    pub(crate) incarnation: u64,
    pub(crate) peer: Peer,
}

impl Host {
    /// Opens a session.
    pub(crate) async fn session(&self, controller: &Controller) -> Result<Session, Status> {
        let channel = self.peer.dial(controller.running.agents.port()).await.unwrap();
        let (up, receiver) = mpsc::channel(16);
        let state = HostState {
            stacks: vec![Stack { name: "sylion".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let hello = Hello { incarnation: self.incarnation, state: Some(state), ..Default::default() };
        up.send(FromAgent { message: Some(from_agent::Message::Hello(hello)) }).await.unwrap();
        let mut link = LinkClient::new(channel);
        let down = link.session(ReceiverStream::new(receiver)).await?.into_inner();
        let mut session = Session { up, down, link };
        match session.next().await {
            Some(to_agent::Message::Welcome(_)) => Ok(session),
            other => panic!("a session begins with a welcome, not {other:?}"),
        }
    }
}

/// One side of a session.
pub(crate) struct Session {
    pub(crate) up: mpsc::Sender<FromAgent>,
    down: Streaming<ToAgent>,
    pub(crate) link: LinkClient<Channel>,
}

impl Session {
    /// The next message beside what the agent is to watch for and whether it answers, which it does; `None` when the
    /// controller ended the session well.
    pub(crate) async fn next(&mut self) -> Option<to_agent::Message> {
        loop {
            match self.down.message().await.unwrap().map(|message| message.message.unwrap()) {
                Some(to_agent::Message::Watch(_)) => {}
                Some(to_agent::Message::Ping(ping)) => {
                    let pong = v1::Pong { seq: ping.seq, ..Default::default() };
                    self.say(from_agent::Message::Pong(pong)).await;
                }
                other => return other,
            }
        }
    }

    /// The status that the controller ends the session with.
    pub(crate) async fn refusal(&mut self) -> Status {
        loop {
            match self.down.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return status,
            }
        }
    }

    pub(crate) async fn say(&self, message: from_agent::Message) {
        self.up.send(FromAgent { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn probe(&mut self) -> v1::Probe {
        match self.next().await {
            Some(to_agent::Message::Probe(probe)) => probe,
            other => panic!("a probe was expected, not {other:?}"),
        }
    }

    pub(crate) async fn execute(&mut self) -> v1::Execute {
        match self.next().await {
            Some(to_agent::Message::Execute(execute)) => execute,
            other => panic!("an order was expected, not {other:?}"),
        }
    }

    pub(crate) async fn acknowledged(&mut self) -> Vec<String> {
        match self.next().await {
            Some(to_agent::Message::Acknowledge(acknowledge)) => acknowledge.orders,
            other => panic!("an acknowledgement was expected, not {other:?}"),
        }
    }

    /// Answers a probe.
    pub(crate) async fn answer(&self, probe: &v1::Probe, outcome: v1::Outcome) {
        let result = v1::ProbeResult { task: probe.task.clone(), outcome: Some(outcome) };
        self.say(from_agent::Message::ProbeResult(result)).await;
    }
}

/// Every host.
pub(crate) fn all() -> Selector {
    Selector { all: true, ..Default::default() }
}

/// A run of one operation on these hosts.
pub(crate) fn operation(selector: Selector, operation: v1::request::Operation) -> v1::RunSpec {
    let request = v1::Request { operation: Some(operation) };
    v1::RunSpec {
        selector: Some(selector),
        kind: Some(v1::run_spec::Kind::Operation(request)),
        ..v1::RunSpec::default()
    }
}

pub(crate) fn new_run() -> String {
    vigie_proto::id::RunId::new().to_string()
}
