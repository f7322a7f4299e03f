//! `vigie-agent`: reads its settings and its enrolment, builds the two halves, spawns them, waits for a signal, and
//! lets the orders that run come to their end. Or works on this host itself, without a controller.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Parser as _;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use vigie_agent::{
    config::{Cli, Command, EnrollArgs, Format, PolicyCommand, RunArgs, ServeArgs, Settings},
    enrolled::Enrolled,
    folder::Alone,
    host::{
        Host,
        child::keeper,
        clock::SystemClock,
        dispatch::{Dispatch, Parts},
        door::{self, About, Door},
        journal::{self, FileStorage, Service},
        policy::{self, standard},
        state, watch,
    },
    local::{self, Interrupt, Talk},
    net::{
        enrol::{self, JOURNAL},
        link::Link,
    },
    output,
};
use vigie_transport::{
    client::Keepalive,
    tls::{ServerTrust, client_config},
};
use vigie_view::exit::Exit;

/// Messages that wait between the halves.
const WAITING: usize = 64;

/// How long orders may go on after a signal; systemd's own patience is 90 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// And the last outcomes on their way to the controller.
const LAST_WORDS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Whoever sits at the host reads answers and not a log.
    let level = if is_local(&command) { "error" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("VIGIE_LOG").unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let done = match command {
        Command::Serve(args) => serve(&args),
        Command::Run(args) if is_service(&args) => serve(&args.local.place),
        Command::Run(args) => return locally(args.local.output, |talk, end| local::run(args, talk, end)),
        Command::Diagnose(args) => {
            return locally(args.local.output, |talk, end| local::diagnose(args, talk, end));
        }
        Command::Enroll(args) => enroll(&args),
        Command::Policy(command) => policy(command),
        Command::Journal { state } => journal(&state),
        Command::Keep { folder } => keeper::keep(&folder).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn is_local(command: &Command) -> bool {
    match command {
        Command::Diagnose(_) => true,
        Command::Run(args) => !is_service(args),
        _ => false,
    }
}

/// Units of earlier versions call `run` without a runbook. A person at a terminal has forgotten it.
fn is_service(args: &RunArgs) -> bool {
    args.runbook.is_none() && args.local.file.is_none() && !io::stdin().is_terminal()
}

/// Works on this host itself, and tells how it ended.
fn locally<F: Future<Output = Exit>>(format: Format, work: impl FnOnce(Talk, Interrupt) -> F) -> ExitCode {
    let ended = runtime().and_then(|runtime| {
        let exit = runtime.block_on(async {
            let interrupt = local::interrupts()?;
            Ok::<_, io::Error>(work(Talk::of_process(format), interrupt).await)
        });
        // A question that nobody answered still holds a thread on stdin; it is not waited for.
        runtime.shutdown_background();
        exit
    });
    match ended {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            output::complain(&error.into());
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::load(&args.config)?;
    let enrolled = Enrolled::load(&args.state)?;
    let _alone = Alone::agent(&args.state)?;
    let (service, journal) = Service::start(FileStorage::new(&args.state.join(JOURNAL))?)?;
    let host = Arc::new(host(settings, &args.state));
    let boot_id =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("the boot's id cannot be read")?;
    let roots = ServerTrust::Roots(enrolled.roots.clone());
    let tls = client_config(roots, Some(&enrolled.credential))?;
    tracing::info!(host = %enrolled, privileged = host.privileged(), "the agent starts");

    let (to_host, inbox) = mpsc::channel(WAITING);
    let (outbox, from_host) = mpsc::channel(WAITING);
    let (state, seen) = tokio::sync::watch::channel(None);
    let link = Link::new(enrolled.link.clone(), tls, Keepalive::default(), to_host, from_host);
    let (watching, line) = watch::line();
    let lookout = watch::Parts {
        executor: Arc::new(Arc::clone(&host)),
        clock: Arc::new(SystemClock),
        state: seen.clone(),
        line,
    };
    let about = About { name: enrolled.name.clone(), state: seen.clone() };
    let dispatch = Dispatch::new(Parts {
        trust: enrolled.trust()?,
        journal,
        executor: Arc::new(Arc::clone(&host)),
        clock: Arc::new(SystemClock),
        outbox,
        state: seen,
        watching,
        boot_id: boot_id.trim().to_owned(),
    });

    runtime()?.block_on(async {
        let (stop_host, stop_net) = (CancellationToken::new(), CancellationToken::new());
        let looking = tokio::spawn(state::watch(host, state));
        let lookout = tokio::spawn(watch::watch(lookout));
        let door = open_door(&args.state, &dispatch, about);
        let mut net = tokio::spawn(link.run(stop_net.clone()));
        let mut guard = tokio::spawn(dispatch.run(inbox, stop_host.clone(), PATIENCE));
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let died = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            _ = &mut net => true,
            _ = &mut guard => true,
        };
        tracing::info!("the agent stops");
        stop_host.cancel();
        looking.abort();
        lookout.abort();
        door.abort();
        if !guard.is_finished() {
            guard.await.context("the host half died")?;
        }
        // The host half is gone, so that the network half ends by itself once it has sent what was left.
        if !net.is_finished() && timeout(LAST_WORDS, net).await.is_err() {
            stop_net.cancel();
        }
        if died { bail!("one half of the agent ended by itself; the log above says more") } else { Ok(()) }
    })?;
    service.join();
    Ok(())
}

fn enroll(args: &EnrollArgs) -> anyhow::Result<()> {
    let enrolled = runtime()?.block_on(enrol::enroll(args))?;
    output::print(format_args!("enrolled as {enrolled}; the agents' link is {}", enrolled.link))?;
    Ok(())
}

fn policy(command: PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Check { file } => {
            let policy = policy::check(&file);
            if let Some(unsound) = policy.unsound() {
                bail!("{}\nhint: {}", unsound.reason, unsound.remedy);
            }
            Ok(output::print(policy)?)
        }
        PolicyCommand::Standard { exec, exec_any, allow, stack, config, state } => {
            let mut stacks = stack;
            if stacks.is_empty() {
                let host = host(Settings::load(&config)?, &state);
                runtime()?.block_on(host.stacks().refresh());
                stacks = host.stacks().snapshot().into_iter().map(|stack| stack.name).collect();
            }
            let exec = match (exec_any, exec.is_empty()) {
                (true, _) => standard::Exec::Anything,
                (false, true) => standard::Exec::Nothing,
                (false, false) => standard::Exec::Programs(exec),
            };
            let text = standard::text(&standard::Found::on_this_host(stacks), &exec, &allow);
            Ok(output::print(text.trim_end())?)
        }
    }
}

fn journal(state: &Path) -> anyhow::Result<()> {
    // Where nobody was enrolled there is no journal, and looking must not make one.
    Enrolled::load(state)?;
    let (lines, broken) = journal::look(&state.join(JOURNAL))?;
    for line in lines {
        output::print(line)?;
    }
    match broken {
        Some(seq) => bail!("the journal is corrupt from record {seq} on: this host refuses changes"),
        None => Ok(()),
    }
}

fn host(settings: Settings, state: &Path) -> Host {
    Host::of(settings, state, &state.join(JOURNAL))
}

/// Lets this host's root in. An agent that cannot, on a full disk for one, serves its controller all the same.
fn open_door(state: &Path, dispatch: &Dispatch, about: About) -> JoinHandle<()> {
    let door = Door::open(&door::path(state), dispatch.local(), about);
    tokio::spawn(async move {
        match door {
            Ok(door) => door.serve().await,
            Err(error) => {
                tracing::warn!(%error, "`vigie-agent run RUNBOOK` cannot speak to this agent");
            }
        }
    })
}

/// Two workers: an operation that computes does not hold up the link.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).max_blocking_threads(8).enable_all().build()
}
