//! `vigie-controller`: settings → build → serve → signal → drain with a deadline.

use std::{
    io::{IsTerminal as _, Write as _},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use vigie_controller::{
    Config, Init, Initialised,
    config::{AGENTS_PORT, ENROLMENT_PORT, OPERATORS_PORT, default_state},
    init,
    notify::Channel,
    serve,
};

/// The controller of a Vigie fleet.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new controller and print the first operator's login token
    Init {
        /// Where agents and operators will reach it: a DNS name or an IP address
        #[arg(long, value_name = "HOST")]
        address: String,
        /// The state folder [default: /var/lib/vigie-controller for root, else ~/.local/state/vigie-controller]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// The fleet's trust domain, which stands in every certificate
        #[arg(long, default_value = "vigie")]
        domain: String,
        /// The local address to listen on
        #[arg(long, default_value = "0.0.0.0", value_name = "ADDR")]
        bind: IpAddr,
        /// The port of the operators' API
        #[arg(long, default_value_t = OPERATORS_PORT, value_name = "PORT")]
        operators_port: u16,
        /// The port of the agents' link
        #[arg(long, default_value_t = AGENTS_PORT, value_name = "PORT")]
        agents_port: u16,
        /// The port of the enrolment
        #[arg(long, default_value_t = ENROLMENT_PORT, value_name = "PORT")]
        enrolment_port: u16,
    },
    /// Send a test notice over every channel of the settings, and say what became of it
    Notify {
        /// The state folder [default: /var/lib/vigie-controller for root, else ~/.local/state/vigie-controller]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// Serve until SIGTERM or SIGINT
    Serve {
        /// The state folder [default: /var/lib/vigie-controller for root, else ~/.local/state/vigie-controller]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("VIGIE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do when even that cannot be said.
            let _ = writeln!(std::io::stderr(), "vigie-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init { address, state, domain, bind, operators_port, agents_port, enrolment_port } => {
            let state = folder(state)?;
            let wanted = Init { state, address, domain, bind, operators_port, agents_port, enrolment_port };
            announce(&init(wanted).await?)
                .context("the token could not be printed; remove the state folder and begin again")
        }
        Command::Notify { state } => notify(&Config::load(&folder(state)?)?).await,
        Command::Serve { state } => {
            let config = Config::load(&folder(state)?)?;
            let shutdown = CancellationToken::new();
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let running = serve(config, shutdown.clone()).await?;
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                // A part of it failed.
                () = shutdown.cancelled() => {}
            }
            shutdown.cancel();
            Ok(running.stopped().await?)
        }
    }
}

/// Tries every channel, also after one that fails.
async fn notify(config: &Config) -> anyhow::Result<()> {
    let channels = &config.settings.notify;
    anyhow::ensure!(
        !channels.is_empty(),
        "{} has no [[notify]]; add one as docs/incidents.md shows",
        Config::file_in(&config.state).display()
    );
    let mut failed = 0;
    for settings in channels {
        let sent = match Channel::open(settings) {
            Ok(channel) => channel.test().await.map_err(anyhow::Error::from),
            Err(error) => Err(error.into()),
        };
        match sent {
            Ok(()) => writeln!(std::io::stdout(), "{}: sent", settings.name)?,
            Err(error) => {
                failed += 1;
                writeln!(std::io::stdout(), "{}: {error:#}", settings.name)?;
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} channels failed", channels.len());
    Ok(())
}

fn folder(state: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    state.map_or_else(|| default_state().context("there is no default state folder"), Ok)
}

/// The token alone goes to stdout, so that it can be piped into `vigiectl login`; what to do next goes to stderr.
fn announce(made: &Initialised) -> std::io::Result<()> {
    let Initialised { config, token } = made;
    let state = config.state.display();
    writeln!(std::io::stdout(), "{token}")?;
    writeln!(
        std::io::stderr(),
        "\nThe controller is made, in {state}. Next:\n\
         1. start it:            vigie-controller serve --state {state}\n\
         2. on your own machine: vigiectl login   (and paste the token above; it is good for one hour, once)\n\
         3. add a host:          vigiectl hosts add root@HOST"
    )
}
