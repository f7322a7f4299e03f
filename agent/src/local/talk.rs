//! The person at the host: what is shown, asked and answered. Data on stdout, talk on stderr.

use std::{
    fmt::Display,
    io::{self, BufRead as _, IsTerminal as _, Write},
    thread,
};

use rustix::termios::{QueueSelector, tcflush, tcgetwinsize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};
use vigie_view::{exit::Exit, look::Look};

use super::error::LocalError;
use crate::{
    config::Format,
    host::clock::{Clock as _, SystemClock},
};

/// Columns where nobody says how many there are.
const WIDTH: usize = 100;

/// Lines that a person writes ahead.
const LINES: usize = 64;

/// Turns true once the person wants it to end: by Ctrl-C, or by a lost terminal.
pub type Interrupt = watch::Receiver<bool>;

/// Listens for whatever ends a program by a person's will. The second time ends it at once.
///
/// # Errors
/// When the system does not let it listen.
pub fn interrupts() -> io::Result<Interrupt> {
    let (pulled, interrupt) = watch::channel(false);
    let mut signals =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    tokio::spawn(async move {
        for time in 0.. {
            let [interrupt, terminate, hangup] = &mut signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if time > 0 {
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
            pulled.send_replace(true);
        }
    });
    Ok(interrupt)
}

/// Both streams, and the person.
pub struct Talk {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    /// How data looks.
    pub(super) data: Look,
    /// How talk looks.
    pub(super) talk: Look,
    /// Whether data and talk go to the same screen.
    pub(super) one_screen: bool,
    /// Whether a line can be drawn over.
    live: bool,
    drawn: bool,
    answers: Answers,
    /// When something was asked last: what was written before is no answer to it.
    asked: Instant,
}

/// Where a person's answers come from.
enum Answers {
    /// There is nobody.
    Nobody,
    /// At the terminal, which is read from when something was first asked.
    Terminal(Option<mpsc::Receiver<(Instant, String)>>),
    /// Line by line.
    Lines(mpsc::Receiver<String>),
}

impl Talk {
    /// The process's own streams.
    pub fn of_process(format: Format) -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let set = |name: &str| std::env::var_os(name);
        let colour = set("NO_COLOR").is_none_or(|value| value.is_empty())
            && set("TERM").is_none_or(|term| term != "dumb");
        let width = tcgetwinsize(&stderr).map_or(0, |size| usize::from(size.ws_col)).max(WIDTH);
        let look = |is_terminal: bool| Look {
            colour: is_terminal && colour,
            width,
            wide: format == Format::Wide,
            now_ms: SystemClock.now_ms(),
            zone: None,
        };
        let asks = io::stdin().is_terminal() && stderr.is_terminal();
        Self {
            data: look(stdout.is_terminal()),
            talk: look(stderr.is_terminal()),
            one_screen: stdout.is_terminal() && stderr.is_terminal(),
            live: stderr.is_terminal(),
            drawn: false,
            answers: if asks { Answers::Terminal(None) } else { Answers::Nobody },
            asked: Instant::now(),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
        }
    }

    /// No terminal: what is said goes to these, and answers come line by line from `lines`, if anybody is there.
    pub fn to(
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
        lines: Option<mpsc::Receiver<String>>,
    ) -> Self {
        let now_ms = SystemClock.now_ms();
        let look = Look { colour: false, width: WIDTH, wide: false, now_ms, zone: None };
        Self {
            stdout,
            stderr,
            data: look.clone(),
            talk: look,
            one_screen: false,
            live: false,
            drawn: false,
            answers: lines.map_or(Answers::Nobody, Answers::Lines),
            asked: Instant::now(),
        }
    }

    /// Prints data.
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        self.clear();
        writeln!(self.stdout, "{text}")?;
        self.stdout.flush()
    }

    /// Says something. Where nobody hears it, that is no reason to fail.
    pub(super) fn say(&mut self, line: impl Display) {
        self.clear();
        writeln!(self.stderr, "{line}").and_then(|()| self.stderr.flush()).unwrap_or_default();
    }

    /// Draws one line over the last such line.
    pub(super) fn progress(&mut self, line: &str) {
        if self.live {
            let line: String = line.chars().take(self.talk.width.saturating_sub(1)).collect();
            let line = self.talk.dim(&line);
            write!(self.stderr, "\r\u{1b}[K{line}").and_then(|()| self.stderr.flush()).unwrap_or_default();
            self.drawn = true;
        }
    }

    /// Takes the progress line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            write!(self.stderr, "\r\u{1b}[K").unwrap_or_default();
        }
    }

    /// Says what went wrong, why, and what to do next.
    pub(super) fn error(&mut self, error: &LocalError) {
        let Some(message) = error.chain() else { return };
        let label = self.talk.red("error:");
        self.say(format!("{label} {message}"));
        if let Some(hint) = error.hint() {
            let label = self.talk.cyan("hint:");
            self.say(format!("{label} {hint}"));
        }
    }

    /// Whether there is a person to ask.
    pub(super) fn asks(&self) -> bool {
        !matches!(self.answers, Answers::Nobody)
    }

    /// Asks, and leaves the cursor behind the question. What a person typed before that agrees to nothing.
    pub(super) fn ask(&mut self, question: &str) {
        self.clear();
        if let Answers::Terminal(read) = &mut self.answers {
            // A terminal that is gone has nothing typed ahead, and ends the reading below.
            let _ = tcflush(io::stdin(), QueueSelector::IFlush);
            self.asked = Instant::now();
            read.get_or_insert_with(read_terminal);
        }
        write!(self.stderr, "{question} ").and_then(|()| self.stderr.flush()).unwrap_or_default();
    }

    /// The next line that a person writes; nothing once there is nobody any more.
    pub(super) async fn answer(&mut self) -> Option<String> {
        match &mut self.answers {
            Answers::Lines(lines) => lines.recv().await.map(|line| line.trim().to_owned()),
            Answers::Terminal(Some(lines)) => loop {
                let (read, line) = lines.recv().await?;
                if read >= self.asked {
                    return Some(line.trim().to_owned());
                }
            },
            Answers::Nobody | Answers::Terminal(None) => None,
        }
    }
}

/// Reads the terminal line by line, with when each came. The thread ends with the process, wherever it waits.
fn read_terminal() -> mpsc::Receiver<(Instant, String)> {
    let (lines, received) = mpsc::channel(LINES);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    received
}
