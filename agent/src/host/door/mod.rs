//! The door by which this host's own root comes in: a socket that is a file in the agent's private state folder.
//!
//! It is no network: nobody can knock who is not on the host, and the kernel says who does. Through it come the same
//! messages as over the link, for the same dispatch; an order needs no signature here, since whoever is root on the host
//! needs no agent to change it. What it gets for coming in by this door is the host's memory: one order at a time on a
//! stack, at most once, and written down.

pub mod wire;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWrite,
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use vigie_proto::{
    text::escape,
    v1::{Finished, HostState, Outcome, Started},
};

use super::{
    dispatch::{Local, Session, Spoken, Told},
    message::Outbox,
};
use wire::{Answer, Busy, FromHost, Said, ToHost, Welcome};

/// Commands that may speak at once.
const SESSIONS: usize = 16;

/// Answers that wait for a command that does not read.
const WAITING: usize = 64;

/// How long the first look at the host may take.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Shows that whoever speaks is root on this host, or runs as the agent itself does. What changes the host without a
/// signature takes one.
#[derive(Debug)]
pub struct Root(());

impl Root {
    /// Asks the kernel who is at the other end of a socket.
    ///
    /// # Errors
    /// When it is somebody else, or the kernel does not say.
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?.uid();
        if peer == 0 || peer == rustix::process::geteuid().as_raw() {
            return Ok(Self(()));
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer} is not this host's root")))
    }
}

/// Whom the door belongs to.
#[derive(Clone)]
pub struct About {
    /// What people call the host.
    pub name: String,
    /// The host's state as it was last found; `None` before the first look.
    pub state: watch::Receiver<Option<Arc<HostState>>>,
}

/// The door, open.
pub struct Door {
    listener: UnixListener,
    local: Local,
    about: About,
}

impl Door {
    /// Opens the door. Only whoever holds the state folder's lock may: what an earlier agent left there is removed.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn open(path: &Path, local: Local, about: About) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // The folder is private already; the kernel's word on who comes is what counts.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, local, about })
    }

    /// Lets commands in, for ever. What they ordered goes on without them, and without this.
    pub async fn serve(self) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                came = self.listener.accept() => match came {
                    Ok((stream, _)) if sessions.len() < SESSIONS => {
                        let (local, about) = (self.local.clone(), self.about.clone());
                        sessions.spawn(async move {
                            if let Err(error) = serve(stream, local, about).await {
                                tracing::warn!(%error, "a command on this host is turned away");
                            }
                        });
                    }
                    Ok((mut stream, _)) => {
                        tracing::warn!("too many commands speak to the agent: one is turned away");
                        // It fits into what a socket holds: nobody waits for the command to read it.
                        let _ = turn_away(&mut stream, format!("{SESSIONS} commands speak to the agent already")).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no command can come in");
                        // Out of files: some come free before long.
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Some(_) = sessions.join_next() => {}
            }
        }
    }
}

/// Where the door of an agent with this state folder is.
pub fn path(state: &Path) -> PathBuf {
    state.join("agent.sock")
}

/// Serves one command until it goes.
///
/// # Errors
/// When it may not come in, or does not speak as it should.
pub async fn serve(stream: UnixStream, local: Local, about: About) -> io::Result<()> {
    let root = Root::of(&stream)?;
    let id = stream.peer_cred()?.pid();
    let (mut from, mut to) = stream.into_split();
    let said = wire::read::<ToHost>(&mut from).await?.and_then(|message| message.said);
    let Some(Said::Hello(hello)) = said else { return Err(unsound("a command says no hello")) };
    let turn = match hello.run.as_str() {
        "" => None,
        run => match local.turn(named(run, id)).await {
            Ok(turn) => Some(turn),
            Err(by) => return turn_away(&mut to, by).await,
        },
    };
    let (answers, queue) = mpsc::channel(WAITING);
    let (told, told_of) = mpsc::unbounded_channel();
    let (output, outputs) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    tasks.spawn(write(to, queue, told_of, outputs));
    let session = Arc::new(Session::new(root, turn, told, output));
    // However this ends, nothing begins any more that the command ordered.
    let _end = session.end();
    // Whoever writes has gone where an answer is not taken, and what is read next says so.
    let _ = answers.send(Answer::Welcome(welcome(&local, about).await)).await;
    while let Some(message) = wire::read::<ToHost>(&mut from).await? {
        let (local, answers, session) = (local.clone(), answers.clone(), Arc::clone(&session));
        match message.said.ok_or_else(|| unsound("a command of another version speaks"))? {
            Said::Hello(_) => return Err(unsound("a second hello")),
            Said::Probe(probe) => {
                tasks.spawn(async move {
                    let _ = answers.send(Answer::Probed(local.probe(probe).await)).await;
                });
            }
            Said::Prepare(prepare) => {
                tasks.spawn(async move {
                    let _ = answers.send(Answer::Prepared(local.prepare(&session, prepare).await)).await;
                });
            }
            Said::Order(order) => {
                let wire::Order { order: id, leaf, run, person, remedy, not_after_ms } = order;
                let spoken = Spoken { leaf, run, person, remedy, not_after_ms };
                tasks.spawn(async move {
                    if let Err(failure) = local.order(&session, spoken).await {
                        let outcome = Some(Outcome::refused(failure));
                        let refused = Finished { order: id, outcome, ..Finished::default() };
                        let _ = answers.send(Answer::Finished(refused)).await;
                    }
                });
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

/// A run, for whoever has to wait for it.
fn named(run: &str, id: Option<i32>) -> String {
    let process = id.map(|id| format!(" (process {id})")).unwrap_or_default();
    format!("`vigie-agent {}`{process} is under way", escape(run, false))
}

/// Tells a command what it has to wait for.
async fn turn_away(to: &mut (impl AsyncWrite + Unpin), by: String) -> io::Result<()> {
    wire::write(to, &FromHost { answer: Some(Answer::Busy(Busy { by })) }).await
}

fn unsound(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Whom the command speaks to, once the host was looked at.
async fn welcome(local: &Local, about: About) -> Welcome {
    let About { name, mut state } = about;
    // An engine that hangs must not keep the command from the rest.
    let _ = timeout(FIRST_LOOK, state.wait_for(Option::is_some)).await;
    let state = state.borrow().as_deref().cloned().unwrap_or_default();
    let (host, incarnation) = local.host();
    Welcome {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host.to_string(),
        incarnation,
        name,
        stacks: state.stacks.into_iter().map(|stack| stack.name).collect(),
        docker_error: state.docker_error,
    }
}

/// Writes what the command is told: answers, what became of its orders, and what they print.
async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Answer>,
    mut told: mpsc::UnboundedReceiver<Told>,
    mut outputs: mpsc::Receiver<Outbox>,
) {
    loop {
        let answer = tokio::select! {
            biased;
            Some(told) = told.recv() => match told {
                Told::Started { order, at_ms } => Answer::Started(Started { order: order.to_string(), at_ms }),
                Told::Ended { order, outcome } => Answer::Finished(Finished {
                    order: order.to_string(),
                    outcome: Some(*outcome),
                    ..Finished::default()
                }),
            },
            Some(answer) = answers.recv() => answer,
            Some(output) = outputs.recv() => match output {
                Outbox::Output(chunk) => Answer::Output(chunk),
                Outbox::Message(_) => continue,
            },
            else => return,
        };
        if wire::write(&mut to, &FromHost { answer: Some(answer) }).await.is_err() {
            return;
        }
    }
}
