//! What one call of `vigiectl` has around it: streams, folders, a person at the terminal or none, and Ctrl-C.

use std::sync::Arc;

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _},
    sync::watch,
};
use vigie_proto::text::escape;
use vigie_transport::network::Network;

use crate::{
    cli::Global,
    client::{Client, Stale},
    context::Home,
    error::Error,
    output::{Output, Stream},
};

/// The process's surroundings, or a test's.
pub struct Surroundings {
    pub stdin: Box<dyn AsyncBufRead + Send + Unpin>,
    pub stdout: Stream,
    pub stderr: Stream,
    pub terminal: Terminal,
    pub home: Home,
    /// The name that a login goes by where none is given.
    pub user: String,
    pub interrupt: Interrupt,
    /// What the controller is reached through.
    pub network: Arc<dyn Network>,
    pub clock: Clock,
}

/// What time it is, in Unix milliseconds.
pub type Clock = fn() -> i64;

/// Which streams are a terminal, and what it can do.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Somebody can be asked: stdin and stderr are a terminal.
    pub asks: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Colour is welcome where there is a terminal (`NO_COLOR` is not set).
    pub colour: bool,
    pub width: usize,
}

impl Terminal {
    /// No terminal at all: a script, or a test.
    pub const NONE: Self = Self { asks: false, stdout: false, stderr: false, colour: false, width: 100 };
}

/// Tells that the person pressed Ctrl-C.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// An interrupt with its trigger: sending `true` pulls it.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (trigger, receiver) = watch::channel(false);
        (trigger, Self(receiver))
    }

    /// Returns once it was pulled, and never otherwise.
    pub async fn wait(&mut self) {
        while !*self.0.borrow_and_update() {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// One call, its command line read.
pub(crate) struct Invocation {
    pub(crate) output: Output,
    pub(crate) home: Home,
    pub(crate) context: Option<String>,
    pub(crate) yes: bool,
    /// Agreed beforehand to what loses something.
    pub(crate) yes_destroy: bool,
    pub(crate) user: String,
    pub(crate) interrupt: Interrupt,
    network: Arc<dyn Network>,
    clock: Clock,
    stdin: Box<dyn AsyncBufRead + Send + Unpin>,
    asks: bool,
    /// Written by every answer of the controller's.
    pub(crate) stale: Stale,
}

/// A token is 300 characters; whatever is so much longer is another file.
const LONGEST_INPUT: u64 = 64 * 1024;

impl Invocation {
    pub(crate) fn new(surroundings: Surroundings, global: &Global, output: Output) -> Self {
        Self {
            output,
            home: surroundings.home,
            context: global.context.clone(),
            yes: global.yes || global.yes_destroy,
            yes_destroy: global.yes_destroy,
            user: surroundings.user,
            interrupt: surroundings.interrupt,
            network: surroundings.network,
            clock: surroundings.clock,
            stdin: surroundings.stdin,
            asks: surroundings.terminal.asks,
            stale: Stale::default(),
        }
    }

    /// Connects to the controller of the context in use.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        Client::connect(self.network(), &self.home, self.context.as_deref(), &self.stale).await
    }

    /// What the controller is reached through.
    pub(crate) fn network(&self) -> Arc<dyn Network> {
        Arc::clone(&self.network)
    }

    /// What time it is, in Unix milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// Says that what was shown may be behind, where the controller says so.
    pub(crate) fn say_stale(&mut self) {
        let Some((since_ms, why)) = self.stale.get() else { return };
        let talk = &self.output.talk;
        let line = format!(
            "{} what the controller holds may be behind since {}: {}",
            talk.yellow("stale:"),
            talk.time(since_ms),
            escape(&why, false)
        );
        self.output.say(line);
    }

    /// Whether there is a person to ask.
    pub(crate) fn asks(&self) -> bool {
        self.asks
    }

    /// Asks for a yes. Everything else is a no, and so is silence.
    ///
    /// # Errors
    /// When the person interrupts instead of answering; `run` is the run that the question is about.
    pub(crate) async fn agrees(&mut self, question: &str, run: Option<&str>) -> Result<bool, Error> {
        let answer = self.answer(&format!("{question} [y/N]"), run).await?;
        Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Asks for a word, so that nobody agrees by habit.
    ///
    /// # Errors
    /// As [`agrees`](Self::agrees).
    pub(crate) async fn types(&mut self, word: &str, run: Option<&str>) -> Result<bool, Error> {
        let question = format!("This cannot be undone. Type {word} to go on:");
        Ok(self.answer(&question, run).await? == word)
    }

    async fn answer(&mut self, question: &str, run: Option<&str>) -> Result<String, Error> {
        self.output.ask(question);
        let mut answer = String::new();
        tokio::select! {
            read = self.stdin.read_line(&mut answer) => {
                read.map_err(|source| Error::Input("the answer".to_owned(), source))?;
            }
            () = self.interrupt.wait() => return Err(Error::Interrupted { run: run.map(str::to_owned) }),
        }
        Ok(answer.trim().to_owned())
    }

    /// Everything on stdin, up to a bound.
    pub(crate) async fn read_input(&mut self) -> Result<zeroize::Zeroizing<String>, Error> {
        let failed = |source| Error::Input("stdin".to_owned(), source);
        let mut text = zeroize::Zeroizing::new(String::with_capacity(4096));
        if self.asks {
            // At a terminal one line is all there is: nobody wants to press Ctrl-D after a paste.
            self.stdin.read_line(&mut text).await.map_err(failed)?;
        } else {
            (&mut self.stdin).take(LONGEST_INPUT).read_to_string(&mut text).await.map_err(failed)?;
        }
        Ok(text)
    }
}
