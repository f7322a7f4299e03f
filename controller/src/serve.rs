//! The controller at work: its parts put together, and taken apart in order.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Server, server::Router};
use tonic_health::ServingStatus;
use tower::layer::util::{Identity, Stack};
use vigie_proto::v1::{
    IncidentContact, enrolment_server::EnrolmentServer, hosts_server::HostsServer,
    incidents_server::IncidentsServer, link_server::LinkServer, runbooks_server::RunbooksServer,
    runs_server::RunsServer,
};
use vigie_transport::{
    identity::Role,
    server::{Admits, Incoming, Listener, limits},
};

use crate::{
    audit::Audit,
    authority::{Authority, AuthorityError},
    clock::SystemClock,
    config::{Config, ConfigError, alone},
    enrolment::Enrolments,
    error::RunsError,
    fleet::Fleet,
    incidents::Incidents,
    monitoring::{Monitoring, MonitoringError, keep_looking},
    notify::{Channel, ChannelError, deliver},
    parts::{Parts, within},
    permit::Gate,
    rpc::{
        LARGEST_ANSWER, LARGEST_APPLICATION, LARGEST_REPORT, LARGEST_REQUEST, enrolment::EnrolmentRpc,
        hosts::HostsRpc, incidents::IncidentsRpc, link::LinkRpc, runbooks::RunbooksRpc, runs::RunsRpc,
    },
    runbooks::Runbooks,
    runs::{Evaluation, Runs},
    store::{Sqlite, Store, StoreError},
    tasks::{
        Doors, DoorsError, Outside, Watching, heartbeat, keep_watching, remember, renew, tend, watch_outside,
    },
};

/// How long a stop may take; who has not ended by then is named and left.
const DEADLINE: Duration = Duration::from_secs(10);

/// When drained agents may come back at the earliest, and over which time they spread: a restart takes a second or
/// two, and a fleet that comes back at once is a storm.
const BACK_AFTER_MS: u32 = 1_000;
const BACK_WITHIN_MS: u32 = 4_000;

/// Why the controller does not start. Each says which part.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the settings cannot be used")]
    Config(#[from] ConfigError),
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    #[error("the CAs cannot be used")]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Doors(#[from] DoorsError),
    #[error("open runs could not be taken up")]
    Runs(#[from] RunsError),
    #[error(
        "{address}, for {door}, cannot be listened on; is another controller running, or the address not this machine's?"
    )]
    Bind { door: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Monitoring(#[from] MonitoringError),
    #[error("the contract cannot be reflected")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Parts that had not ended when the deadline of a stop had passed.
#[derive(Debug, thiserror::Error)]
#[error("these had not ended {} s after they were asked to: {}", DEADLINE.as_secs(), .0.join(", "))]
pub struct Late(pub Vec<&'static str>);

/// A controller that serves.
pub struct Running {
    /// Where it listens: the ports that the system chose, if it was asked to.
    pub operators: SocketAddr,
    pub agents: SocketAddr,
    pub enrolment: SocketAddr,
    supervisor: JoinHandle<Result<(), Late>>,
}

impl Running {
    /// Completes when the controller has stopped, which it does when its token is cancelled.
    ///
    /// # Errors
    /// Names the parts that did not end in time.
    pub async fn stopped(self) -> Result<(), Late> {
        match self.supervisor.await {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "the supervisor died");
                Err(Late(vec!["the supervisor"]))
            }
        }
    }
}

/// Starts the controller. It serves until `shutdown` is cancelled; when this returns, it can be reached.
///
/// # Errors
/// When a part cannot be had.
pub async fn serve(config: Config, shutdown: CancellationToken) -> Result<Running, ServeError> {
    let settings = &config.settings;
    settings.check()?;
    let lock = alone(&config.state)?;
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&config.database()).await?);
    let authority = Arc::new(Authority::load(&config.authority(), &settings.domain)?);
    let audit = Audit::new(Arc::clone(&store));
    match audit.close_abandoned().await? {
        0 => {}
        entries => tracing::warn!(entries, "audit entries were left open by a stop"),
    }
    let fleet = Fleet::load(Arc::clone(&store), Arc::new(SystemClock)).await?;
    let runbooks = Runbooks::open(config.runbooks());
    let runs = Runs::new(
        Arc::clone(&store),
        fleet.clone(),
        runbooks.clone(),
        settings.id.clone(),
        Evaluation::Aside,
    );

    let doors = Doors::new(Arc::clone(&authority), &settings.id, &settings.address)?;
    let bind = |door, port, tls, admits| {
        let address = settings.socket(port);
        let failed = move |source| ServeError::Bind { door, address, source };
        let listener = Listener::bind(address, tls, admits).map_err(failed)?;
        let bound = listener.local_address().map_err(failed)?;
        Ok::<_, ServeError>((listener, bound))
    };
    let operators_only = Admits::Roles(&[Role::Operator]);
    let agents_only = Admits::Roles(&[Role::Agent]);
    let (operators, operators_at) =
        bind("operators", settings.operators_port, doors.operators(), operators_only)?;
    let (agents, agents_at) = bind("agents", settings.agents_port, doors.agents(), agents_only)?;
    let (enrolment, enrolment_at) =
        bind("enrolment", settings.enrolment_port, doors.enrolment(), Admits::Anyone)?;
    let public = |bound: SocketAddr| settings.at(bound.port());

    // Before anyone is accepted: what agents report about these runs has to find them.
    let resumed = runs.resume().await?;
    let enrolments = Enrolments::new(Arc::clone(&store), authority, fleet.clone(), settings.domain.clone());
    let sessions = TaskTracker::new();
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(vigie_proto::DESCRIPTORS)
        .build_v1()?;

    let channels = settings.notify.iter().map(Channel::open).collect::<Result<Vec<_>, _>>()?;
    let monitoring = settings.monitoring.as_ref().map(Monitoring::open).transpose()?;
    let contacts = settings
        .contacts
        .iter()
        .map(|known| IncidentContact { role: known.role.clone(), contact: known.contact.clone() })
        .collect();
    let incidents =
        Incidents::load(Arc::clone(&store), fleet.clone(), runs.clone(), channels.clone(), contacts).await?;
    let watching = Watching::new(settings.watch.every_s, runbooks.clone());
    let outside = Outside {
        every_s: if settings.watch.outside { settings.watch.every_s } else { 0 },
        fleet: fleet.clone(),
        runbooks: runbooks.clone(),
        incidents: incidents.clone(),
    };

    let gate = Gate::new(audit, store.health());
    let listening = CancellationToken::new();
    let mut serving = Parts::default();
    serving.spawn("the operators' listener", {
        let enrolments = enrolments.clone();
        let hosts = HostsRpc { fleet: fleet.clone(), enrolments, enrolment_address: public(enrolment_at) };
        let hosts = HostsServer::new(hosts).max_decoding_message_size(LARGEST_REQUEST);
        let runs = RunsServer::new(RunsRpc { runs: runs.clone() }).max_decoding_message_size(LARGEST_REQUEST);
        let runbooks =
            RunbooksServer::new(RunbooksRpc { runbooks }).max_decoding_message_size(LARGEST_REQUEST);
        let incidents = IncidentsServer::new(IncidentsRpc { incidents: incidents.clone() })
            .max_decoding_message_size(LARGEST_REQUEST);
        let router = server(&gate)
            .add_service(incidents.max_encoding_message_size(LARGEST_ANSWER))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(hosts.max_encoding_message_size(LARGEST_ANSWER))
            .add_service(runs.max_encoding_message_size(LARGEST_ANSWER))
            .add_service(runbooks.max_encoding_message_size(LARGEST_ANSWER));
        listen(router, operators.incoming(), listening.clone(), shutdown.clone())
    });
    serving.spawn("the agents' listener", {
        let link = LinkRpc {
            fleet: fleet.clone(),
            runs: runs.clone(),
            incidents: incidents.clone(),
            watching: watching.clone(),
            controller: settings.id.clone(),
            sessions: sessions.clone(),
        };
        let link = LinkServer::new(link)
            .max_decoding_message_size(LARGEST_REPORT)
            .max_encoding_message_size(LARGEST_REPORT);
        listen(server(&gate).add_service(link), agents.incoming(), listening.clone(), shutdown.clone())
    });
    serving.spawn("the enrolment's listener", {
        let (operators_address, agents_address) = (public(operators_at), public(agents_at));
        let service = EnrolmentServer::new(EnrolmentRpc { enrolments, operators_address, agents_address })
            .max_decoding_message_size(LARGEST_APPLICATION);
        listen(server(&gate).add_service(service), enrolment.incoming(), listening.clone(), shutdown.clone())
    });
    let resting = CancellationToken::new();
    let mut background = Parts::default();
    background.spawn("the store's keeping", tend(Arc::clone(&store), resting.clone()));
    background.spawn("the fleet's memory", remember(fleet.clone(), resting.clone()));
    background.spawn("the certificate's renewal", renew(doors, resting.clone()));
    background.spawn("the watch", keep_watching(watching, fleet.clone(), resting.clone()));
    background.spawn("the watch from outside", watch_outside(outside, resting.clone()));
    for channel in channels {
        let (news, store) = (incidents.news(), Arc::clone(&store));
        background.spawn("a channel of notices", deliver(channel, store, news, resting.clone()));
    }
    if let Some(monitoring) = monitoring {
        background.spawn(
            "the look at the monitoring",
            keep_looking(monitoring, incidents.clone(), resting.clone()),
        );
    }
    background.spawn("the incidents", incidents.turn(resting.clone()));
    if let Some(settings) = settings.heartbeat.clone() {
        background.spawn("the heartbeat", heartbeat(settings, Arc::clone(&store), resting.clone()));
    }

    tracing::info!(
        operators = %operators_at, agents = %agents_at, enrolment = %enrolment_at, runs = resumed, "serving"
    );
    let supervisor = tokio::spawn(async move {
        shutdown.cancelled().await;
        tracing::info!("stopping");
        let deadline = within(DEADLINE);
        health.set_service_status("", ServingStatus::NotServing).await;
        // Nobody new; then those who are here; then what they leave behind; the store last.
        listening.cancel();
        fleet.drain(BACK_AFTER_MS, BACK_WITHIN_MS);
        fleet.end_sessions();
        sessions.close();
        runs.stop();
        serving.spawn("sessions", async move { sessions.wait().await });
        serving.spawn("runs and their watchers", async move { runs.stopped().await });
        let mut late = serving.ended(deadline).await;
        resting.cancel();
        late.extend(background.ended(deadline).await);
        if timeout_at(deadline, store.close()).await.is_err() {
            late.push("the store");
        }
        drop(lock);
        if late.is_empty() { Ok(()) } else { Err(Late(late)) }
    });
    Ok(Running { operators: operators_at, agents: agents_at, enrolment: enrolment_at, supervisor })
}

pub(crate) type Guarded = Stack<Gate, Identity>;

/// A server with every limit set, behind the gate.
pub(crate) fn server(gate: &Gate) -> Server<Guarded> {
    limits(Server::builder()).layer(gate.clone())
}

/// Serves until told to stop, and then until the streams that are open have ended. A listener that ends before it was
/// told to takes the controller down: systemd starts it again, and half a controller would only look alive.
pub(crate) async fn listen(
    router: Router<Guarded>,
    incoming: Incoming,
    stop: CancellationToken,
    shutdown: CancellationToken,
) {
    let served = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()).await;
    if let Err(error) = &served {
        tracing::error!(error = error as &dyn Error, "a listener failed");
    }
    if !stop.is_cancelled() {
        shutdown.cancel();
    }
}
