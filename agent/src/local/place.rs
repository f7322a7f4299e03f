//! Where a command finds whoever guards the host: in the agent that runs, or in its own process.

use std::{io, path::Path, sync::Arc, time::Duration};

use rustix::process::geteuid;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use vigie_proto::{id::HostId, v1::HostState};
use vigie_view::run::RunView;

use super::{
    error::LocalError,
    line::{Line, Unwelcome},
    talk::Talk,
};
use crate::{
    config::{ServeArgs, Settings},
    enrolled::Enrolled,
    folder::Alone,
    host::{
        Host,
        clock::SystemClock,
        dispatch::{Dispatch, Local, Parts},
        docker::Engine,
        door::{self, About, wire::Welcome},
        journal::{FileStorage, Service},
        message::Inbox,
        stacks::Stacks,
        watch as lookout,
    },
    net::enrol::JOURNAL,
};

/// An agent that starts or stops holds its folder for moments without opening its door.
const MOMENTS: u32 = 25;
/// Whoever only looks is in a hurry, and needs nobody's place.
const FEW_MOMENTS: u32 = 3;
const MOMENT: Duration = Duration::from_millis(200);

/// What a command is called that only looks.
const LOOKING: &str = "diagnose";

/// How long what runs in this process may go on after a person wants it to end; the agent's own patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whoever guards the host, found.
pub(super) struct Place {
    pub(super) line: Line,
    pub(super) welcome: Welcome,
    inside: Option<Inside>,
}

/// The half that guards the host, in this very process.
struct Inside {
    serving: JoinHandle<()>,
    /// There where orders are taken: the loop, its stop, and the journal's thread.
    dispatch: Option<(JoinHandle<()>, CancellationToken, Service)>,
    /// The network half that there is not: its end of the channel keeps the loop going.
    _inbox: Option<mpsc::Sender<Inbox>>,
    /// Last, so that nobody else works with the folder before all of it has ended.
    _alone: Option<Alone>,
}

impl Place {
    /// Finds it: the agent where one runs, else here. `run` is what the command was called with where it is to change the
    /// host, which is done by whoever holds the journal, and by nobody else; empty where it only looks.
    ///
    /// # Errors
    /// When an agent has the journal and cannot be spoken to, another run has to end first, or this host cannot be worked on
    /// from here.
    pub(super) async fn find(args: &ServeArgs, run: &str, talk: &mut Talk) -> Result<Self, LocalError> {
        let acts = !run.is_empty();
        let path = door::path(&args.state);
        let mut alone = None;
        for _ in 0..if acts { MOMENTS } else { FEW_MOMENTS } {
            match UnixStream::connect(&path).await {
                Ok(stream) => match Line::open(stream, run).await {
                    Ok((line, welcome)) => return Self::in_agent(line, welcome),
                    Err(Unwelcome::Busy(by)) if acts => return Err(LocalError::Busy(by)),
                    Err(_) if acts => return Err(LocalError::Silent(args.state.clone())),
                    Err(_) => {
                        talk.say("The agent does not answer: this looks without it.");
                        return Self::looking(args, None, talk).await;
                    }
                },
                // Whoever is not root finds the folder shut, and looks by himself.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !acts => break,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                }
                Err(source) => return Err(LocalError::Door { path, source }),
            }
            if !args.state.is_dir() {
                break;
            }
            alone = match Alone::command(&args.state, if acts { run } else { LOOKING }) {
                // Only whoever may write there can have the folder; to look, nobody needs it.
                Err(_) if !acts => break,
                taken => taken?,
            };
            if alone.is_some() {
                break;
            }
            sleep(MOMENT).await;
        }
        match (acts, alone) {
            (true, Some(alone)) => Self::acting(args, run, alone, talk).await,
            (true, None) if args.state.is_dir() => Err(match Alone::holder(&args.state) {
                Some(by) => LocalError::Busy(by),
                None => LocalError::Silent(args.state.clone()),
            }),
            (true, None) => match Enrolled::load(&args.state) {
                Err(error) => Err(LocalError::Enrolled(Box::new(error))),
                Ok(_) => Err(LocalError::Silent(args.state.clone())),
            },
            (false, alone) => Self::looking(args, alone, talk).await,
        }
    }

    fn in_agent(line: Line, welcome: Welcome) -> Result<Self, LocalError> {
        let own = env!("CARGO_PKG_VERSION");
        if welcome.version != own {
            return Err(LocalError::Version { agent: welcome.version, own });
        }
        Ok(Self { line, welcome, inside: None })
    }

    /// Whether what is done runs in this very process.
    pub(super) fn is_inside(&self) -> bool {
        self.inside.is_some()
    }

    /// Looks from here, without a journal: nothing can be ordered.
    async fn looking(args: &ServeArgs, alone: Option<Alone>, talk: &mut Talk) -> Result<Self, LocalError> {
        let settings = Settings::load(&args.config)?;
        let enrolled = Enrolled::load(&args.state).ok();
        let host = Arc::new(match &enrolled {
            Some(_) => Host::of(settings, &args.state, &args.state.join(JOURNAL)),
            None => {
                let engine = Engine::new(settings.docker_socket.clone());
                let stacks = Stacks::open(&args.state, engine.clone(), settings.stacks.clone());
                Host::new(settings, engine, stacks)
            }
        });
        if !geteuid().is_root() {
            talk.say("You are not root: what only root may look at is not known.");
        }
        let about = about(&host, enrolled.as_ref(), talk).await;
        let id = enrolled.map_or_else(HostId::new, |enrolled| enrolled.host);
        let local = Local::looking(Arc::new(host), Arc::new(SystemClock), id);
        Self::inside(local, about, "", None, None, alone).await
    }

    /// Brings up here what an agent has: the dispatch, on the host's journal.
    async fn acting(args: &ServeArgs, run: &str, alone: Alone, talk: &mut Talk) -> Result<Self, LocalError> {
        let enrolled = Enrolled::load(&args.state).map_err(|error| LocalError::Enrolled(Box::new(error)))?;
        let settings = Settings::load(&args.config)?;
        talk.say("No agent runs on this host: this works on its journal without one.");
        let storage = FileStorage::new(&args.state.join(JOURNAL)).map_err(LocalError::Journal)?;
        let (service, journal) = Service::start(storage).map_err(LocalError::Journal)?;
        let host = Arc::new(Host::of(settings, &args.state, &args.state.join(JOURNAL)));
        let about = about(&host, Some(&enrolled), talk).await;
        let (inbox, messages) = mpsc::channel(1);
        let dispatch = Dispatch::new(Parts {
            trust: enrolled.trust()?,
            journal,
            executor: Arc::new(host),
            clock: Arc::new(SystemClock),
            // Without a session nothing is sent; the next agent has it in its journal.
            outbox: mpsc::channel(1).0,
            state: about.state.clone(),
            watching: lookout::line().0,
            boot_id: boot_id(),
        });
        let (local, stop) = (dispatch.local(), CancellationToken::new());
        let guard = tokio::spawn(dispatch.run(messages, stop.clone(), PATIENCE));
        let dispatch = Some((guard, stop, service));
        Self::inside(local, about, run, dispatch, Some(inbox), Some(alone)).await
    }

    async fn inside(
        local: Local,
        about: About,
        run: &str,
        dispatch: Option<(JoinHandle<()>, CancellationToken, Service)>,
        inbox: Option<mpsc::Sender<Inbox>>,
        alone: Option<Alone>,
    ) -> Result<Self, LocalError> {
        let (ours, theirs) = UnixStream::pair().map_err(LocalError::Inside)?;
        let serving = tokio::spawn(async move {
            if let Err(error) = door::serve(theirs, local, about).await {
                tracing::warn!(%error, "the command is turned away");
            }
        });
        let inside = Inside { serving, dispatch, _inbox: inbox, _alone: alone };
        let (line, welcome) = Line::open(ours, run).await.map_err(|unwelcome| match unwelcome {
            Unwelcome::Busy(by) => LocalError::Busy(by),
            Unwelcome::Silent(error) => LocalError::Inside(error),
        })?;
        Ok(Self { line, welcome, inside: Some(inside) })
    }

    /// Leaves. What runs in this process comes to its end first.
    pub(super) async fn close(self, drove: &Result<RunView, LocalError>, talk: &mut Talk) {
        let Self { line, inside, .. } = self;
        drop(line);
        let Some(inside) = inside else { return };
        // The session is over once the command's end of the line is gone.
        if let Err(error) = inside.serving.await {
            tracing::error!(%error, "the half that guards the host died");
        }
        let Some((guard, stop, service)) = inside.dispatch else { return };
        if let Err(LocalError::Interrupted { under_way, .. }) = drove
            && !under_way.is_empty()
        {
            let what = under_way.join(", ");
            talk.say(format!(
                "Waiting for {what} to end, for {} s at most. Ctrl-C again leaves at once: what became of it is found out when \
                 the agent starts.",
                PATIENCE.as_secs()
            ));
        }
        stop.cancel();
        if let Err(error) = guard.await {
            tracing::error!(%error, "the half that guards the host died");
        }
        // It waits for the disk.
        if let Err(error) = tokio::task::spawn_blocking(move || service.join()).await {
            tracing::error!(%error, "the journal's thread died");
        }
    }
}

/// Looks at the host once, as an agent does again and again.
async fn about(host: &Arc<Host>, enrolled: Option<&Enrolled>, talk: &mut Talk) -> About {
    talk.progress("looking at this host's stacks");
    host.stacks().refresh().await;
    let state = HostState {
        stacks: host.stacks().snapshot(),
        // Whoever reads this is on the host already.
        docker_error: host.stacks().docker_error(),
        ..HostState::default()
    };
    // What is seen once does not change any more: nobody has to hold the other end.
    let (_, state) = watch::channel(Some(Arc::new(state)));
    let name = enrolled.map_or_else(
        || rustix::system::uname().nodename().to_string_lossy().into_owned(),
        |enrolled| enrolled.name.clone(),
    );
    About { name, state }
}

fn boot_id() -> String {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    text.trim().to_owned()
}
