use std::{error::Error, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use vigie_transport::{
    credential::Credential,
    identity::Role,
    tls::{ClientAuth, TlsConfigError, server_config},
};

use crate::authority::{Authority, CONTROLLER_LIFE, IssueError, renew_after};

/// When to try again what failed.
const AGAIN: Duration = Duration::from_secs(3600);

/// The TLS configurations of the three listeners, which take a new one for the next connection.
pub(crate) struct Doors {
    operators: watch::Sender<Arc<ServerConfig>>,
    agents: watch::Sender<Arc<ServerConfig>>,
    enrolment: watch::Sender<Arc<ServerConfig>>,
    authority: Arc<Authority>,
    id: String,
    address: String,
}

/// Why the listeners have no configuration.
#[derive(Debug, thiserror::Error)]
pub enum DoorsError {
    #[error("the controller's own certificate cannot be issued")]
    Issue(#[from] IssueError),
    #[error("the listeners cannot be configured")]
    Tls(#[from] TlsConfigError),
}

/// One configuration for each listener.
struct Configs {
    operators: Arc<ServerConfig>,
    agents: Arc<ServerConfig>,
    enrolment: Arc<ServerConfig>,
}

impl Configs {
    /// A new certificate, and what each listener asks of its clients.
    fn make(authority: &Authority, id: &str, address: &str) -> Result<Self, DoorsError> {
        let credential: Credential = authority.controller(id, address)?;
        let of = |role| ClientAuth::Required { roots: authority.roots(role) };
        Ok(Self {
            operators: server_config(&credential, of(Role::Operator))?,
            agents: server_config(&credential, of(Role::Agent))?,
            enrolment: server_config(&credential, ClientAuth::None)?,
        })
    }
}

impl Doors {
    /// The first certificate and configurations.
    pub(crate) fn new(authority: Arc<Authority>, id: &str, address: &str) -> Result<Self, DoorsError> {
        let configs = Configs::make(&authority, id, address)?;
        Ok(Self {
            operators: watch::Sender::new(configs.operators),
            agents: watch::Sender::new(configs.agents),
            enrolment: watch::Sender::new(configs.enrolment),
            authority,
            id: id.to_owned(),
            address: address.to_owned(),
        })
    }

    pub(crate) fn operators(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.operators.subscribe()
    }

    pub(crate) fn agents(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.agents.subscribe()
    }

    pub(crate) fn enrolment(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.enrolment.subscribe()
    }

    fn renew(&self) -> Result<(), DoorsError> {
        let configs = Configs::make(&self.authority, &self.id, &self.address)?;
        self.operators.send_replace(configs.operators);
        self.agents.send_replace(configs.agents);
        self.enrolment.send_replace(configs.enrolment);
        Ok(())
    }
}

/// Replaces the controller's certificate each time a third of its life has passed.
pub(crate) async fn renew(doors: Doors, stop: CancellationToken) {
    let mut wait = renew_after(CONTROLLER_LIFE);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = match doors.renew() {
            Ok(()) => {
                tracing::info!("the controller has a new certificate");
                renew_after(CONTROLLER_LIFE)
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "the controller's certificate was not renewed");
                AGAIN
            }
        };
    }
}
