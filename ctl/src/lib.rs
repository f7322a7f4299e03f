//! `vigiectl`: the fleet on a laptop.
//!
//! - [`cli`] is the grammar, [`commands`] what each command does, one file a verb;
//! - [`view`] makes text and documents of what was heard, without I/O, and [`output`] alone writes;
//! - [`runs`] opens, follows and signs runs; [`client`] is the connection;
//! - [`context`] and [`keys`] are what stays on this machine.
//!
//! Architecture Invariant: what is signed is rendered from the very bytes that the signature covers, and a plan that
//! holds anything this program cannot read is never signed. Data goes to stdout and talk to stderr, nowhere but in
//! [`output`]. Nothing global is read below [`run`]: all that a command knows of the process comes in
//! [`Surroundings`].

mod cli;
mod client;
mod commands;
mod context;
mod error;
mod invocation;
mod keys;
mod output;
mod runs;
mod view;

use std::{ffi::OsString, time::SystemTime};

use clap::Parser as _;

use cli::Cli;
pub use context::Home;
pub use error::Error;
use invocation::Invocation;
pub use invocation::{Clock, Interrupt, Surroundings, Terminal};
pub use output::Stream;
use output::{Format, Output, look::Look};
use vigie_view::exit;
pub use vigie_view::exit::Exit;

/// Does what the command line says, and tells how it ended.
///
/// `arguments` begin with the program's name.
pub async fn run<A>(arguments: impl IntoIterator<Item = A>, surroundings: Surroundings) -> Exit
where
    A: Into<OsString> + Clone,
{
    let terminal = surroundings.terminal;
    let now_ms = (surroundings.clock)();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, surroundings),
    };
    let format = cli.global.output;
    let look = |is_terminal: bool| Look {
        colour: is_terminal && terminal.colour,
        width: terminal.width,
        wide: format == Format::Wide,
        now_ms,
        zone: None,
    };
    let mut surroundings = surroundings;
    let output = Output::new(
        (
            std::mem::replace(&mut surroundings.stdout, Box::new(std::io::sink())),
            std::mem::replace(&mut surroundings.stderr, Box::new(std::io::sink())),
        ),
        format,
        (look(terminal.stdout), look(terminal.stderr)),
        terminal,
    );
    let mut interrupt = surroundings.interrupt.clone();
    let mut invocation = Invocation::new(surroundings, &cli.global, output);
    // A command that follows a run hears the interrupt itself, first, and knows the run's id; the others just end.
    let ended = tokio::select! {
        biased;
        ended = commands::dispatch(cli.command, &mut invocation) => ended,
        () = interrupt.wait() => Err(Error::Interrupted { run: None }),
    };
    invocation.output.clear();
    invocation.say_stale();
    ended.unwrap_or_else(|error| {
        invocation.output.error(&error);
        error.exit()
    })
}

/// Help and version go to stdout, what is wrong with the command line to stderr.
fn explain(error: &clap::Error, mut surroundings: Surroundings) -> Exit {
    let is_terminal =
        if error.use_stderr() { surroundings.terminal.stderr } else { surroundings.terminal.stdout };
    let text = error.render();
    let text =
        if is_terminal && surroundings.terminal.colour { text.ansi().to_string() } else { text.to_string() };
    let stream = if error.use_stderr() { &mut surroundings.stderr } else { &mut surroundings.stdout };
    // Nobody is left to tell when the stream is closed.
    stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).unwrap_or_default();
    if error.use_stderr() { Exit::Usage } else { Exit::Ok }
}

/// The system's clock, in Unix milliseconds.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
