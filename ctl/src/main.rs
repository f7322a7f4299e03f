//! The process around [`vigiectl::run`]: streams, environment, Ctrl-C, exit status.

use std::{
    env,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use tokio::{io::BufReader, runtime::Runtime};
use vigie_transport::network::System;
use vigiectl::{Exit, Home, Interrupt, Surroundings, Terminal};

fn main() -> ExitCode {
    let home = match Home::from_environment(|name| env::var_os(name).map(PathBuf::from)) {
        Ok(home) => home,
        Err(error) => return fail(&error.to_string()),
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let exit = runtime.block_on(async {
        let (trigger, interrupt) = Interrupt::new();
        tokio::spawn(async move {
            // Without a handler Ctrl-C ends the process as it always does.
            if tokio::signal::ctrl_c().await.is_ok() {
                trigger.send_replace(true);
                // A second one means that the first was not heard.
                tokio::signal::ctrl_c().await.unwrap_or_default();
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
        });
        vigiectl::run(env::args_os(), surroundings(home, interrupt)).await
    });
    // A question nobody answered still holds a thread on stdin; it is not waited for.
    runtime.shutdown_background();
    ExitCode::from(exit.code())
}

fn surroundings(home: Home, interrupt: Interrupt) -> Surroundings {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let terminal = Terminal {
        asks: io::stdin().is_terminal() && stderr.is_terminal(),
        stdout: stdout.is_terminal(),
        stderr: stderr.is_terminal(),
        colour: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && env::var_os("TERM").is_none_or(|term| term != "dumb"),
        width: rustix::termios::tcgetwinsize(&stderr)
            .map_or(0, |size| usize::from(size.ws_col))
            .max(Terminal::NONE.width),
    };
    Surroundings {
        stdin: Box::new(BufReader::new(tokio::io::stdin())),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        terminal,
        home,
        user: user().unwrap_or_default(),
        interrupt,
        network: Arc::new(System),
        clock: vigiectl::now_ms,
    }
}

/// Who sits here: what the session says, else what the system's list says of the process (a script run by a service
/// has no session).
fn user() -> Option<String> {
    let named = ["USER", "LOGNAME"].into_iter().filter_map(|name| env::var(name).ok());
    named.into_iter().find(|name| !name.is_empty()).or_else(|| {
        let id = rustix::process::getuid().as_raw().to_string();
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut entries = users.lines().map(|line| line.split(':'));
        entries.find_map(|mut entry| {
            let name = entry.next()?;
            (entry.nth(1)? == id).then(|| name.to_owned())
        })
    })
}

/// Before there is anything to say it with.
#[allow(clippy::print_stderr)]
fn fail(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(Exit::Failed.code())
}
