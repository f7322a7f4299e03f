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
    backup::{Restored, backup, restore},
    config::{AGENTS_PORT, ENROLMENT_PORT, OPERATORS_PORT, default_state},
    init,
    notify::Channel,
    passphrase::{self, Twice},
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
    /// Save the whole state, keys included, into one encrypted file; the controller may go on serving
    Backup {
        /// The file to write; it must not exist
        file: PathBuf,
        /// The state folder [default: /var/lib/vigie-controller for root, else ~/.local/state/vigie-controller]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// A file, mode 0600, whose first line is the passphrase [default: stdin, asked for on a terminal]
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Make a controller's state of a backup, whole or not at all
    Restore {
        /// The backup
        file: PathBuf,
        /// The state folder [default: /var/lib/vigie-controller for root, else ~/.local/state/vigie-controller]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// A file, mode 0600, whose first line is the passphrase [default: stdin, asked for on a terminal]
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Also where there is a controller's state: it is moved aside and kept
        #[arg(long)]
        replace: bool,
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
        Command::Backup { file, state, passphrase_file } => {
            let config = Config::load(&folder(state)?)?;
            let passphrase = passphrase::read(passphrase_file.as_deref(), Twice::Yes)?;
            let list = backup(&config, &file, &passphrase).await?;
            let bytes: u64 = list.files.iter().map(|entry| entry.bytes).sum();
            writeln!(
                std::io::stdout(),
                "{}: {} files, {} KiB, read back and whole",
                file.display(),
                list.files.len(),
                bytes / 1024
            )?;
            Ok(())
        }
        Command::Restore { file, state, passphrase_file, replace } => {
            let state = folder(state)?;
            let passphrase = passphrase::read(passphrase_file.as_deref(), Twice::No)?;
            Ok(tell(&restore(&file, &state, &passphrase, replace).await?)?)
        }
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

fn tell(restored: &Restored) -> std::io::Result<()> {
    let Restored { config, list, runs, tokens, before } = restored;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{}: restored, controller {} of version {}",
        config.state.display(),
        list.id,
        list.version
    )?;
    writeln!(out, "{runs} open runs go on; {tokens} unused tokens are void")?;
    if let Some(before) = before {
        writeln!(out, "the state that was there before is in {}", before.display())?;
    }
    writeln!(
        std::io::stderr(),
        "\nStart it: vigie-controller serve --state {}\n\
         Hosts that were enrolled after the backup have to be enrolled again; all others come back by themselves.",
        config.state.display()
    )
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
