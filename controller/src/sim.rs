//! The controller without a network, for the simulation in tests/sim: the same parts behind the same doors, each rpc
//! called in this process. What is missing is TLS and HTTP/2, and what no run depends on.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tower::Layer as _;
use vigie_proto::{
    id::{HostId, TokenId},
    v1::{link_server::LinkServer, runs_server::RunsServer},
};

use crate::{
    audit::{Audit, Intent},
    authority::{Certificate, IssueError},
    clock::Clock,
    fleet::Fleet,
    incidents::Incidents,
    permit::{Gate, Gated},
    rpc::{link::LinkRpc, runs::RunsRpc},
    runbooks::Runbooks,
    runs::{Evaluation, Runs},
    serve::ServeError,
    store::{HostRow, Issue, NewOperator, RedeemError, Redemption, Store, Token, TokenFor},
    tasks::{Watching, remember},
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
    fleet: Fleet,
    runs: Runs,
    sessions: TaskTracker,
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
        let gate = Gate::new(audit, health);
        Ok(Self {
            operators: gate.layer(Routes::new(RunsServer::new(RunsRpc { runs: runs.clone() }))),
            agents: gate.layer(Routes::new(LinkServer::new(link))),
            fleet,
            runs,
            sessions,
            resting,
        })
    }

    /// Tells every part to end, as a stop does. What a crash leaves behind does not wait for it.
    pub fn stop(&self) {
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
    redeem(store, TokenFor::Operator, Some(operator)).await?;
    let mut enrolled = Vec::new();
    for name in hosts {
        let grants = TokenFor::Agent { host_name: name.clone(), labels: Default::default(), replaces: false };
        enrolled.extend(redeem(store, grants, None).await?);
    }
    Ok(enrolled)
}

async fn redeem(
    store: &dyn Store,
    grants: TokenFor,
    operator: Option<NewOperator>,
) -> Result<Option<HostRow>, RedeemError> {
    const SECRET: [u8; 32] = [1; 32];
    let intent = Intent::own("simulation", "", "");
    let token = Token::new(TokenId::new(), &SECRET, grants, i64::MAX);
    store.add_token(&intent, &token).await?;
    let secret = zeroize::Zeroizing::new(SECRET.to_vec());
    let redemption = Redemption { token: token.id, secret, key_sha256: [0; 32], now_ms: 0, operator, intent };
    Ok(store.redeem(&redemption, &Names).await?.agent.map(|agent| agent.host))
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
