//! A program inside a container, its input and output streamed: how `psql` and `pg_dump` are run, which are where the
//! server is. Data passes in pieces, so that a dump of any size needs no room in the agent.

use std::io;

use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::{
    io::AsyncWriteExt as _,
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{Engine, EngineError};

/// What is kept of the words on standard error.
const WORDS: usize = 16 * 1024;

/// A program in a container. Never a shell: the words are its arguments.
pub struct Execution<'a> {
    pub container: &'a str,
    pub command: Vec<String>,
    /// `NAME=value`; where a password goes.
    pub environment: Vec<String>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i64,
    /// The beginning of its standard error.
    pub words: String,
}

/// Why it did not come to an end of its own.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("what it was to be given cannot be read")]
    Input(#[source] io::Error),
    #[error("it was not done in its time")]
    TimedOut,
}

impl Engine {
    /// Runs a program to its end. What `input` yields is given to it, and closed after; what it says goes to `output`,
    /// whose receiver may go away to end it.
    ///
    /// # Errors
    /// When it cannot be run, its input fails or its time is up. The program is then left with closed pipes.
    pub async fn execute(
        &self,
        execution: Execution<'_>,
        input: Option<mpsc::Receiver<io::Result<Bytes>>>,
        output: Option<mpsc::Sender<Bytes>>,
        deadline: Instant,
    ) -> Result<Ended, ExecutionError> {
        let Execution { container, command, environment } = execution;
        let options = CreateExecOptions {
            attach_stdin: Some(input.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command),
            env: Some(environment),
            ..CreateExecOptions::default()
        };
        let made = self
            .call("prepare a program", async |client| client.create_exec(container, options).await)
            .await
            .map_err(|error| error.naming("container", container))?;
        let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(64 * 1024) };
        let started = self
            .call("start a program", async |client| client.start_exec(&made.id, Some(options)).await)
            .await?;
        let StartExecResults::Attached { output: mut said, input: mut pipe } = started else {
            return Err(EngineError::Unknown("program that is attached".to_owned()).into());
        };
        let feed = async move {
            let Some(mut input) = input else { return Ok(()) };
            while let Some(piece) = input.recv().await {
                // A program that ends early says why itself.
                if pipe.write_all(&piece?).await.is_err() {
                    return Ok(());
                }
            }
            let _ = pipe.shutdown().await;
            Ok(())
        };
        let read = async move {
            let mut words = Vec::new();
            while let Some(piece) = said.next().await {
                match piece {
                    Ok(LogOutput::StdErr { message }) => {
                        let room = WORDS.saturating_sub(words.len()).min(message.len());
                        words.extend_from_slice(&message[..room]);
                    }
                    Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                        if let Some(output) = &output
                            && output.send(message).await.is_err()
                        {
                            break;
                        }
                    }
                    Ok(LogOutput::StdIn { .. }) => {}
                    Err(error) => return Err((error, words)),
                }
            }
            Ok(words)
        };
        let both = async {
            let read = std::pin::pin!(read);
            let mut feed = std::pin::pin!(feed);
            let mut read = read;
            let mut feeding = true;
            loop {
                tokio::select! {
                    fed = &mut feed, if feeding => {
                        feeding = false;
                        fed.map_err(ExecutionError::Input)?;
                    }
                    words = &mut read => return Ok(words),
                }
            }
        };
        let words = match timeout_at(deadline, both).await {
            Err(_) => return Err(ExecutionError::TimedOut),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Err((error, _)))) => return Err(self.failed("a program's output", error).await.into()),
            Ok(Ok(Ok(words))) => words,
        };
        let ended =
            self.call("look at a program", async |client| client.inspect_exec(&made.id).await).await?;
        Ok(Ended { code: ended.exit_code.unwrap_or(-1), words: String::from_utf8_lossy(&words).into_owned() })
    }
}
