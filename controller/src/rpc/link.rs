//! The agents' link: a session's two directions, and the outputs beside it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use vigie_proto::v1::{
    self, Finished, FromAgent, Hello, OutputChunk, OutputReceipt, ToAgent, from_agent::Message,
    link_server::Link,
};

use vigie_runbook::run::Challenge;

use crate::{
    error::LinkError,
    fleet::{Attached, End, Fleet},
    incidents::Incidents,
    permit::Permit,
    runs::{DoneHere, Report, Runs, Taken},
    tasks::Watching,
};

/// How long a new session may take to say hello.
const HELLO: Duration = Duration::from_secs(10);

/// How long an agent may leave our messages unread. HTTP/2's pings find a lost connection sooner; this one finds an
/// agent that is there and does not read.
const UNREAD: Duration = Duration::from_secs(30);

/// Messages between a session and its connection; the fleet's queue is before it.
const AHEAD: usize = 16;

/// Reports in one session about what this host was never asked, before the session is ended.
const STRAYS: u32 = 100;

/// Outcomes in one session that come too late for their runs, before the session is ended: each is written into the audit.
const LATE: u32 = 1000;

/// Deeds on the host itself that one session takes note of. What is more stays with the agent until its next one.
const DEEDS: u32 = 1000;

/// The largest piece of output, in bytes: what a slow watcher makes us hold is a multiple of it.
const LARGEST_CHUNK: usize = 256 * 1024;

/// The agents' link.
pub(crate) struct LinkRpc {
    pub(crate) fleet: Fleet,
    pub(crate) runs: Runs,
    pub(crate) incidents: Incidents,
    /// What agents are to watch for.
    pub(crate) watching: Watching,
    /// This replica's name.
    pub(crate) controller: String,
    /// Every session.
    pub(crate) sessions: TaskTracker,
}

type Downstream = mpsc::Sender<Result<ToAgent, Status>>;

#[tonic::async_trait]
impl Link for LinkRpc {
    type SessionStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let permit = Permit::of(&request)?;
        let mut upstream = request.into_inner();
        let hello = hello(&mut upstream).await?;
        let attached = self.fleet.attach(&permit, &self.controller, hello).await?;
        let (downstream, receiver) = mpsc::channel(AHEAD);
        let span = tracing::info_span!("session", host = attached.name, id = %attached.id);
        let session = Session {
            fleet: self.fleet.clone(),
            runs: self.runs.clone(),
            incidents: self.incidents.clone(),
            watch: self.watching.now(),
            ends_in: remaining(&permit),
            attached,
        };
        self.sessions.spawn(session.serve(upstream, downstream).instrument(span));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn output(
        &self,
        request: Request<Streaming<OutputChunk>>,
    ) -> Result<Response<OutputReceipt>, Status> {
        let permit = Permit::of(&request)?;
        let host = permit.caller().host().map_err(|_| LinkError::UnknownHost)?;
        let mut chunks = request.into_inner();
        let mut bytes = 0;
        while let Some(chunk) = chunks.message().await? {
            if chunk.data.len() > LARGEST_CHUNK {
                return Err(LinkError::Malformed("a piece of output is too large").into());
            }
            let task =
                chunk.task.parse().map_err(|_| LinkError::Malformed("a piece of output names no task"))?;
            bytes += chunk.data.len() as u64;
            self.runs.output(host, task, chunk)?;
        }
        Ok(Response::new(OutputReceipt { bytes }))
    }
}

/// The first message of a session.
async fn hello(upstream: &mut Streaming<FromAgent>) -> Result<Hello, Status> {
    let first =
        timeout(HELLO, upstream.message()).await.map_err(|_| LinkError::NoHello(HELLO.as_secs()))??;
    match first.and_then(|message| message.message) {
        Some(Message::Hello(hello)) => Ok(hello),
        _ => Err(LinkError::NoHello(HELLO.as_secs()).into()),
    }
}

/// How long the caller's certificate is still valid.
fn remaining(permit: &Permit) -> Duration {
    let not_after = permit.caller().certificate().map_or(0, |certificate| certificate.not_after);
    let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
    end.duration_since(SystemTime::now()).unwrap_or_default()
}

/// One session, served until either side ends it.
struct Session {
    attached: Attached,
    fleet: Fleet,
    runs: Runs,
    incidents: Incidents,
    /// What the agent is to watch for.
    watch: v1::Watch,
    /// Until the certificate's end: an open stream is never verified again by TLS.
    ends_in: Duration,
}

impl Session {
    async fn serve(self, upstream: Streaming<FromAgent>, downstream: Downstream) {
        let Attached { host, id, outbound, end, held, .. } = self.attached;
        tracing::info!(%host, "connected");
        self.fleet.watch(host, self.watch);
        let fleet = self.fleet.clone();
        let reader =
            Reader { host, session: id, fleet: self.fleet, runs: self.runs, incidents: self.incidents };
        let ended = tokio::select! {
            // Each branch lasts as long as the session, so that none keeps another from its turn.
            biased;
            ended = reader.read(upstream) => ended,
            ended = write(outbound, end, &downstream) => ended,
            () = fleet.pulse(host, id) => Ok(()),
            () = tokio::time::sleep(self.ends_in) => Err(LinkError::CertificateEnded),
            () = downstream.closed() => Ok(()),
        };
        // The host counts as gone before its agent can learn that it is.
        drop(held);
        match ended {
            Ok(()) => tracing::info!("disconnected"),
            Err(error) => {
                tracing::info!(reason = %error, "session ended");
                // The agent may have gone, or may not read.
                let _ = timeout(Duration::from_secs(1), downstream.send(Err(error.into()))).await;
            }
        }
    }
}

/// Sends what is queued, until the session is to end; what is queued then still goes out.
async fn write(
    mut outbound: mpsc::Receiver<ToAgent>,
    mut end: tokio::sync::watch::Receiver<Option<End>>,
    downstream: &Downstream,
) -> Result<(), LinkError> {
    loop {
        let message = tokio::select! {
            biased;
            message = outbound.recv() => message,
            _ = end.wait_for(Option::is_some) => None,
        };
        match message {
            Some(message) => {
                let sent = timeout(UNREAD, downstream.send(Ok(message))).await;
                sent.map_err(|_| LinkError::Stuck)?.map_err(|_| LinkError::Stuck)?;
            }
            None => {
                let why = *end.borrow();
                return match why {
                    Some(End::Superseded) => Err(LinkError::Superseded),
                    Some(End::Replaced) => Err(LinkError::Replaced),
                    Some(End::Stopping) | None => Ok(()),
                };
            }
        }
    }
}

/// The agent's side of a session.
struct Reader {
    host: vigie_proto::id::HostId,
    session: crate::fleet::SessionId,
    fleet: Fleet,
    runs: Runs,
    incidents: Incidents,
}

impl Reader {
    /// Reads until the agent ends the session, or says something that it may not.
    async fn read(&self, mut upstream: Streaming<FromAgent>) -> Result<(), LinkError> {
        let (mut strays, mut late, mut deeds) = (0, 0, 0);
        loop {
            let message = match upstream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::debug!(%status, "the connection broke");
                    return Ok(());
                }
            };
            self.fleet.heard_of(self.host, self.session);
            let taken = match decode(message)? {
                Said::Symptoms(symptoms) => {
                    // What an earlier session had left on its way is older than what the present one tells, once.
                    if self.fleet.session(self.host) == Some(self.session) {
                        self.incidents.shows(self.host, symptoms);
                    }
                    Taken::Run
                }
                Said::State(state) => {
                    self.fleet.reported(self.host, self.session, *state);
                    Taken::Run
                }
                Said::Journal(head) => {
                    self.fleet.journal_seen(self.host, self.session, head);
                    Taken::Run
                }
                Said::Report(report) => self.runs.report(self.host, *report).await,
                Said::Pong(pong) => {
                    self.fleet.answered(self.host, self.session, pong);
                    Taken::Run
                }
                Said::DoneHere(done) => {
                    deeds += 1;
                    if deeds <= DEEDS { self.done_here(*done) } else { Taken::Run }
                }
            };
            match taken {
                Taken::Run => {}
                Taken::Late => late += 1,
                Taken::Foreign => strays += 1,
            }
            if strays > STRAYS {
                return Err(LinkError::Malformed(
                    "too many reports about tasks that this host was not asked",
                ));
            }
            if late > LATE {
                return Err(LinkError::Malformed(
                    "too many outcomes of runs that are over, or not known here",
                ));
            }
        }
    }
}

impl Reader {
    /// Has what was done on the host itself written down, beside the session. The agent may forget it once the audit and every
    /// incident that it concerns have it.
    fn done_here(&self, done: DoneHere) -> Taken {
        let host = self.host;
        let Some(name) = self.fleet.name(host).filter(|_| self.runs.is_its_own(host, &done)) else {
            return Taken::Foreign;
        };
        let (fleet, runs, incidents) = (self.fleet.clone(), self.runs.clone(), self.incidents.clone());
        let order = done.order;
        self.runs.beside(host, order, |place| async move {
            if !runs.done_here(host, &name, &done).await {
                return;
            }
            incidents.done_here(host, &done, runs.stopping()).await;
            drop(place);
            if !runs.stopping().is_cancelled() {
                fleet.acknowledge(host, vec![order.to_string()]);
            }
        });
        Taken::Run
    }
}

/// What an agent says after its hello.
enum Said {
    /// Boxed, as reports are: both may be hundreds of bytes long.
    State(Box<v1::HostState>),
    Report(Box<Report>),
    Symptoms(v1::Symptoms),
    Journal(v1::AuditHead),
    Pong(v1::Pong),
    /// What the host's root did on the host itself.
    DoneHere(Box<DoneHere>),
}

fn decode(message: FromAgent) -> Result<Said, LinkError> {
    let task = |id: &str| id.parse().map_err(|_| LinkError::Malformed("a report names no task"));
    let outcome = |outcome: Option<_>| outcome.ok_or(LinkError::Malformed("a report has no outcome"));
    let report = |report| Said::Report(Box::new(report));
    Ok(match message.message.ok_or(LinkError::Malformed("an empty message"))? {
        Message::Hello(_) => return Err(LinkError::Malformed("a second hello")),
        Message::State(state) => Said::State(Box::new(state)),
        Message::Symptoms(symptoms) => Said::Symptoms(symptoms),
        Message::Pong(pong) => Said::Pong(pong),
        Message::ProbeResult(result) => {
            report(Report::Probed { task: task(&result.task)?, outcome: outcome(result.outcome)? })
        }
        Message::Prepared(prepared) => report(Report::Prepared {
            task: task(&prepared.task)?,
            outcome: outcome(prepared.outcome)?,
            challenge: Challenge { challenge: prepared.challenge, valid_ms: prepared.valid_ms },
        }),
        Message::Started(started) => {
            report(Report::Started { order: task(&started.order)?, at_ms: started.at_ms })
        }
        Message::Finished(finished) => {
            let Finished { order, outcome: ended, run, here } = finished;
            let (order, outcome) = (task(&order)?, outcome(ended)?);
            match here {
                Some(here) => Said::DoneHere(Box::new(DoneHere::read(order, here, &outcome)?)),
                None => report(Report::Finished { order, run, outcome }),
            }
        }
        Message::AuditHead(head) => Said::Journal(head),
    })
}
