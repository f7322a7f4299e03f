//! The controller for the simulations: the same parts behind the same doors, without what no run depends on.
//!
//! tests/sim calls each rpc in this process. tests/wire lets peers in over listeners of a simulated network, with TLS and
//! HTTP/2 as they are.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tower::Layer as _;
use vigie_proto::{
    id::{HostId, TokenId},
    v1::{link_server::LinkServer, runs_server::RunsServer},
};
use vigie_transport::{
    credential::{Credential, PrivateKey},
    identity::Role,
    network::Accept,
    server::{Admits, Listener},
};

use crate::{
    audit::{Audit, Intent},
    authority::{Authority, Certificate, IssueError, RequestedKey},
    clock::Clock,
    enrolment::Issuer,
    fleet::Fleet,
    incidents::Incidents,
    permit::{Gate, Gated},
    rpc::{LARGEST_ANSWER, LARGEST_REPORT, LARGEST_REQUEST, link::LinkRpc, runs::RunsRpc},
    runbooks::Runbooks,
    runs::{Evaluation, Runs},
    serve::{ServeError, listen, server},
    store::{Enrolment, HostRow, Issue, NewOperator, RedeemError, Redemption, Store, Token, TokenFor},
    tasks::{Doors, Watching, remember},
};

/// One listener's services behind the gate. Each request carries its [`Peer`](vigie_transport::server::Peer) among its
/// extensions, as the acceptor would have put it there.
pub type Door = Gated<Routes>;

/// A controller at work.
pub struct Controller {
    /// The runs' side of the operators' API.
    pub operators: Door,
    /// The agents' link.
    pub agents: Door,
    name: String,
    gate: Gate,
    /// The services of both doors.
    routes: (Routes, Routes),
    fleet: Fleet,
    runs: Runs,
    sessions: TaskTracker,
    listening: CancellationToken,
    resting: CancellationToken,
}

impl Controller {
    /// Starts one in the order in which [`serve`](crate::serve) does.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        runbooks: Runbooks,
        name: &str,
    ) -> Result<Self, ServeError> {
        let audit = Audit::new(Arc::clone(&store));
        audit.close_abandoned().await?;
        let fleet = Fleet::load(Arc::clone(&store), clock).await?;
        let runs = Runs::new(
            Arc::clone(&store),
            fleet.clone(),
            runbooks.clone(),
            name.to_owned(),
            Evaluation::AtOnce,
        );
        runs.resume().await?;
        let health = store.health();
        let incidents = Incidents::load(store, fleet.clone(), runs.clone(), Vec::new(), Vec::new()).await?;
        let (sessions, resting) = (TaskTracker::new(), CancellationToken::new());
        tokio::spawn(remember(fleet.clone(), resting.clone()));
        let link = LinkRpc {
            fleet: fleet.clone(),
            runs: runs.clone(),
            incidents,
            watching: Watching::new(0, runbooks),
            controller: name.to_owned(),
            sessions: sessions.clone(),
        };
        let operators = RunsServer::new(RunsRpc { runs: runs.clone() })
            .max_decoding_message_size(LARGEST_REQUEST)
            .max_encoding_message_size(LARGEST_ANSWER);
        let agents = LinkServer::new(link)
            .max_decoding_message_size(LARGEST_REPORT)
            .max_encoding_message_size(LARGEST_REPORT);
        let routes = (Routes::new(operators), Routes::new(agents));
        let gate = Gate::new(audit, health);
        Ok(Self {
            operators: gate.layer(routes.0.clone()),
            agents: gate.layer(routes.1.clone()),
            name: name.to_owned(),
            gate,
            routes,
            fleet,
            runs,
            sessions,
            listening: CancellationToken::new(),
            resting,
        })
    }

    /// Lets operators and agents in from a network, at the same acceptor and with the same limits as
    /// [`serve`](crate::serve) does. `address` is the name that they dial.
    ///
    /// # Errors
    /// When there is no certificate to show them.
    pub fn listen(
        &self,
        authority: &Arc<Authority>,
        address: &str,
        operators: Box<dyn Accept>,
        agents: Box<dyn Accept>,
    ) -> Result<(), ServeError> {
        let doors = Doors::new(Arc::clone(authority), &self.name, address)?;
        let operators = Listener::over(operators, doors.operators(), Admits::Roles(&[Role::Operator]));
        let agents = Listener::over(agents, doors.agents(), Admits::Roles(&[Role::Agent]));
        for (routes, listener) in [(&self.routes.0, operators), (&self.routes.1, agents)] {
            let router = server(&self.gate).add_routes(routes.clone());
            // A listener that ends before it was told to is a fault of the network, and of nobody here.
            let shutdown = CancellationToken::new();
            tokio::spawn(listen(router, listener.incoming(), self.listening.clone(), shutdown));
        }
        Ok(())
    }

    /// Tells every part to end, as a stop does. What a crash leaves behind does not wait for it.
    pub fn stop(&self) {
        self.listening.cancel();
        self.fleet.end_sessions();
        self.sessions.close();
        self.runs.stop();
        self.resting.cancel();
    }

    /// Completes when every part has ended.
    pub async fn stopped(&self) {
        self.sessions.wait().await;
        self.runs.stopped().await;
    }
}

/// Enrols the first operator and hosts, as their tokens would. A host's certificate has the host's id for a serial.
///
/// # Errors
/// When the store does not take them.
pub async fn enrol(
    store: &dyn Store,
    operator: NewOperator,
    hosts: &[String],
) -> Result<Vec<HostRow>, RedeemError> {
    redeem(store, TokenFor::Operator, Some(operator), &Names).await?;
    let mut enrolled = Vec::new();
    for name in hosts {
        let enrolment = redeem(store, joining(name), None, &Names).await?;
        enrolled.extend(enrolment.agent.map(|agent| agent.host));
    }
    Ok(enrolled)
}

/// A host, and by what it proves that it is this one.
pub type EnrolledHost = (HostRow, Credential);

/// Enrols the same with certificates that hold: the operator's credential, and each host with its own.
///
/// # Errors
/// When a key or certificate cannot be made, or the store does not take them.
pub async fn enrol_with(
    store: &dyn Store,
    authority: &Authority,
    operator: NewOperator,
    hosts: &[String],
) -> anyhow::Result<(Credential, Vec<EnrolledHost>)> {
    let (own, _) = redeem_with(store, authority, TokenFor::Operator, Some(operator)).await?;
    let mut enrolled = Vec::new();
    for name in hosts {
        let (credential, enrolment) = redeem_with(store, authority, joining(name), None).await?;
        enrolled.extend(enrolment.agent.map(|agent| (agent.host, credential)));
    }
    Ok((own, enrolled))
}

async fn redeem_with(
    store: &dyn Store,
    authority: &Authority,
    grants: TokenFor,
    operator: Option<NewOperator>,
) -> anyhow::Result<(Credential, Enrolment)> {
    let key = PrivateKey::generate()?;
    let requested = RequestedKey::read(&key.certificate_request()?)?;
    let enrolment = redeem(store, grants, operator, &Issuer { authority, key: &requested }).await?;
    Ok((Credential::new(vec![enrolment.certificate.clone().into()], key)?, enrolment))
}

fn joining(name: &str) -> TokenFor {
    TokenFor::Agent { host_name: name.to_owned(), labels: Default::default(), replaces: false }
}

async fn redeem(
    store: &dyn Store,
    grants: TokenFor,
    operator: Option<NewOperator>,
    issue: &dyn Issue,
) -> Result<Enrolment, RedeemError> {
    const SECRET: [u8; 32] = [1; 32];
    let intent = Intent::own("simulation", "", "");
    let token = Token::new(TokenId::new(), &SECRET, grants, i64::MAX);
    store.add_token(&intent, &token).await?;
    let secret = zeroize::Zeroizing::new(SECRET.to_vec());
    let redemption = Redemption { token: token.id, secret, key_sha256: [0; 32], now_ms: 0, operator, intent };
    store.redeem(&redemption, issue).await
}

/// Issues names instead of certificates: nobody looks at them in a simulation.
struct Names;

impl Issue for Names {
    fn agent(&self, host: HostId) -> Result<Certificate, IssueError> {
        Ok(certificate(format!("spiffe://vigie/agent/{host}"), host.to_string()))
    }

    fn operator(&self, name: &str) -> Result<Certificate, IssueError> {
        Ok(certificate(format!("spiffe://vigie/operator/{name}"), name.to_owned()))
    }
}

fn certificate(identity: String, serial: String) -> Certificate {
    Certificate { der: Vec::new(), identity, serial, not_after_ms: i64::MAX }
}
