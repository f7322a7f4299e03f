//! A command's end of the door.

use std::{io, time::Duration};

use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::mpsc,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::host::door::wire::{self, Answer, FromHost, Hello, Said, ToHost, Welcome};

/// How long whoever guards the host may take to say whom it speaks for; its first look at the host takes ten seconds
/// at most.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers that wait to be read.
const WAITING: usize = 256;

/// Why a command is not let in.
#[derive(Debug)]
pub(super) enum Unwelcome {
    /// This has to end first.
    Busy(String),
    Silent(io::Error),
}

/// Speaks to whoever guards the host.
pub(super) struct Line {
    to: OwnedWriteHalf,
    answers: mpsc::Receiver<Answer>,
    _reading: AbortOnDropHandle<()>,
}

impl Line {
    /// Says hello, and hears whom it is spoken to for. `run` is what the command was called with where it is to change the
    /// host, else empty.
    ///
    /// # Errors
    /// When nobody answers in time, or something else has to end first.
    pub(super) async fn open(stream: UnixStream, run: &str) -> Result<(Self, Welcome), Unwelcome> {
        let (mut from, to) = stream.into_split();
        let (sender, answers) = mpsc::channel(WAITING);
        // A task of its own: a message that is read half must not be given up for something else.
        let reading = tokio::spawn(async move {
            loop {
                match wire::read::<FromHost>(&mut from).await {
                    Ok(Some(FromHost { answer: Some(answer) })) => {
                        if sender.send(answer).await.is_err() {
                            return;
                        }
                    }
                    Ok(Some(FromHost { answer: None })) => {}
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "what the agent says cannot be read");
                        return;
                    }
                }
            }
        });
        let mut line = Self { to, answers, _reading: AbortOnDropHandle::new(reading) };
        let hello = Hello { version: env!("CARGO_PKG_VERSION").to_owned(), run: run.to_owned() };
        // Who turns this away may have gone before it is said, and has told why.
        let said = line.say(Said::Hello(hello)).await;
        match (timeout(PATIENCE, line.next()).await, said) {
            (Ok(Some(Answer::Welcome(welcome))), _) => Ok((line, welcome)),
            (Ok(Some(Answer::Busy(busy))), _) => Err(Unwelcome::Busy(busy.by)),
            (_, Err(error)) => Err(Unwelcome::Silent(error)),
            (Ok(_), Ok(())) => {
                let words = "it does not let this command in";
                Err(Unwelcome::Silent(io::Error::new(io::ErrorKind::ConnectionAborted, words)))
            }
            (Err(_), Ok(())) => {
                let words = format!("no word in {} s", PATIENCE.as_secs());
                Err(Unwelcome::Silent(io::Error::new(io::ErrorKind::TimedOut, words)))
            }
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub(super) async fn say(&mut self, said: Said) -> io::Result<()> {
        wire::write(&mut self.to, &ToHost { said: Some(said) }).await
    }

    /// The next answer; nothing once nobody is there any more.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }
}
