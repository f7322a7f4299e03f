//! `psql` and `pg_dump` where the server is, so that they are of its version: in its container. Passwords go by the
//! environment, never by arguments.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
};

use bytes::Bytes;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};
use tokio::{sync::mpsc, time::Instant};

use super::folder::{Dump, room};
use crate::{
    host::{
        docker::exec::{Ended, Execution, ExecutionError},
        postgres::{self, Server},
        stacks::KnownStack,
    },
    operations::{Context, Fault},
};

/// Pieces that wait between a file and a program.
const PIECES: usize = 16;
const PIECE: usize = 64 * 1024;

/// Databases that are made here and dropped again begin so.
pub(in crate::operations) const SCRATCH: &str = "vigie_scratch_";

/// What must stay free beside what is written: PostgreSQL stops when its disk is full.
pub(in crate::operations) const RESERVE: u64 = 128 * 1024 * 1024;

/// The server of a stack, with its own programs.
pub(in crate::operations) struct Tools<'a> {
    cx: &'a Context,
    pub server: Server,
    container: String,
    pub user: String,
    pub database: String,
    environment: Vec<String>,
    port: u16,
}

impl<'a> Tools<'a> {
    /// Finds them.
    ///
    /// # Errors
    /// When the stack's server does not run, or not in a container of this host.
    pub(in crate::operations) async fn find(cx: &'a Context, stack: &KnownStack) -> Result<Self, Fault> {
        let server = Server::find(&cx.host, stack, "").await?;
        let Some(container) = server.container.as_ref() else {
            return Err(if server.is_service() {
                Fault::refused(
                    "postgres_stopped",
                    format!("the service `{}` has no container", server.service),
                )
                .hint("`vigiectl diagnose postgres-down` tells why it does not run")
            } else {
                Fault::refused("postgres_tools_absent", "PostgreSQL runs in no container of this stack, so that its pg_dump and psql are not at hand")
                    .hint("make and restore backups where the server is")
            });
        };
        if container.state != "running" {
            return Err(Fault::refused("postgres_stopped", format!("the container `{}` is {}", container.name, container.state))
                .hint("a server that cannot start is restored by hand: copy its volume first; `vigiectl diagnose postgres-down` tells why it does not run"));
        }
        let of_server = server.logins.iter().find(|login| login.source == postgres::Source::Server);
        let login = of_server.or(server.logins.first());
        let (user, password, database, port) = match login {
            Some(login) => {
                (login.user.clone(), login.password.as_str().to_owned(), login.database.clone(), login.port)
            }
            None => ("postgres".to_owned(), String::new(), "postgres".to_owned(), postgres::PORT),
        };
        // The stack's own word on its database outweighs the image's.
        let database = server
            .backend_login()
            .filter(|own| server.is_own(own))
            .map_or(database, |own| own.database.clone());
        let mut environment = vec![format!("PGAPPNAME={}", postgres::APPLICATION)];
        if !password.is_empty() {
            environment.push(format!("PGPASSWORD={password}"));
        }
        Ok(Self { cx, container: container.id.clone(), server, user, database, environment, port })
    }

    /// A session of whoever looks after the server, in this database.
    ///
    /// # Errors
    /// When the server lets nobody in.
    pub(in crate::operations) async fn session(&self, database: &str) -> Result<PgConnection, Fault> {
        Ok(self.server.administer(database, self.cx.deadline).await?)
    }

    /// Free bytes where the server keeps its data.
    ///
    /// # Errors
    /// When nothing tells.
    pub(in crate::operations) fn data_room(&self) -> Result<u64, Fault> {
        let container = self.server.container.as_ref();
        let place = container.and_then(|container| container.data_source.clone()).or_else(|| {
            container.map(|own| {
                Path::new("/proc")
                    .join(own.pid.to_string())
                    .join("root")
                    .join(own.data_directory.trim_start_matches('/'))
            })
        });
        let place = place.ok_or_else(|| {
            Fault::failed("postgres_failed", "nothing tells where the server keeps its data")
        })?;
        room(&place).map(|(free, _)| free).map_err(|error| Fault::failed("file_unreadable", error))
    }

    async fn run(
        &self,
        program: &str,
        args: &[&str],
        database: &str,
        input: Option<mpsc::Receiver<io::Result<Bytes>>>,
        output: Option<mpsc::Sender<Bytes>>,
        deadline: Instant,
    ) -> Result<Ended, ExecutionError> {
        let port = self.port.to_string();
        let mut command = vec![program.to_owned()];
        command.extend(["-U", &self.user, "-p", &port, "-d", database].map(str::to_owned));
        command.extend(args.iter().map(|arg| (*arg).to_owned()));
        let execution =
            Execution { container: &self.container, command, environment: self.environment.clone() };
        self.cx.host.docker().execute(execution, input, output, deadline).await
    }

    /// Hands a stream of SQL to psql: one transaction, stopped by the first error.
    ///
    /// # Errors
    /// With psql's own words. The transaction has then left nothing.
    pub(in crate::operations) async fn restore(
        &self,
        database: &str,
        input: mpsc::Receiver<io::Result<Bytes>>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let args =
            ["-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-o", "/dev/null", "-f", "-"];
        // What psql prints goes nowhere; somebody has to take it all the same.
        let ended = self.run("psql", &args, database, Some(input), None, deadline).await;
        finished(ended, "psql", "restore_failed")
    }

    /// Runs pg_dump, its text going to `output`.
    ///
    /// # Errors
    /// With pg_dump's own words.
    pub(in crate::operations) async fn dump(
        &self,
        database: &str,
        args: &[&str],
        output: mpsc::Sender<Bytes>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        finished(
            self.run("pg_dump", args, database, None, Some(output), deadline).await,
            "pg_dump",
            "dump_failed",
        )
    }

    /// Dumps a database into a compressed file: under a temporary name first, whole on the disk before it has its own,
    /// never over another file.
    ///
    /// # Errors
    /// When the dump or the file does not come to its end; nothing is then left of it.
    pub(in crate::operations) async fn dump_to(
        &self,
        database: &str,
        path: &Path,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let unwritable = |error: &io::Error| {
            Fault::failed("backup_unwritable", format!("{} cannot be written: {error}", path.display()))
                .hint("`vigiectl probe disk_usage` tells whether the disk is full")
        };
        let partial = path.with_extension("gz.partial");
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let target = partial.clone();
        let writing = tokio::task::spawn_blocking(move || -> io::Result<()> {
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            let file = options().open(&target)?;
            let mut encoder = GzEncoder::new(io::BufWriter::new(file), Compression::default());
            while let Some(piece) = pieces.blocking_recv() {
                encoder.write_all(&piece)?;
            }
            let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()
        });
        let dumped = self.dump(database, &["--clean", "--if-exists"], sender, deadline).await;
        let written = writing.await.map_err(|error| Fault::failed("internal", error))?;
        let done = match (written, dumped) {
            // A disk that is full closes pg_dump's pipe: the file's own error is the cause.
            (Err(error), _) => Err(unwritable(&error)),
            (Ok(()), Err(fault)) => Err(fault),
            (Ok(()), Ok(())) => put(&partial, path).map_err(|error| unwritable(&error)),
        };
        if done.is_err()
            && let Err(error) = fs::remove_file(&partial)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %partial.display(), "half a backup cannot be removed");
        }
        done
    }

    /// Makes an empty database like another one, with its owner and encoding.
    ///
    /// # Errors
    /// When the server does not.
    pub(in crate::operations) async fn create_like(&self, name: &str, like: &str) -> Result<(), Fault> {
        let mut session = self.session("postgres").await?;
        let row = sqlx::query(
            "SELECT quote_ident(pg_get_userbyid(datdba)) AS owner, quote_literal(pg_encoding_to_char(encoding)) AS encoding, \
             quote_literal(datcollate) AS collate, quote_literal(datctype) AS ctype FROM pg_database WHERE datname = $1",
        )
        .bind(like)
        .fetch_one(&mut session)
        .await
        .map_err(|error| postgres::fault(&error))?;
        let word = |column: &str| row.try_get::<String, _>(column).map_err(|error| postgres::fault(&error));
        let text = format!(
            "CREATE DATABASE {} OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {} TEMPLATE template0",
            quoted(name),
            word("owner")?,
            word("encoding")?,
            word("collate")?,
            word("ctype")?
        );
        let made = execute(&mut session, text).await;
        postgres::leave(session).await;
        made
    }

    /// Drops a database that was made here, whoever is still in it.
    ///
    /// # Errors
    /// When the server does not.
    pub(in crate::operations) async fn drop_scratch(&self, name: &str) -> Result<(), Fault> {
        // An operation's own deadline may be over: a scratch database is dropped all the same.
        let deadline = self.cx.deadline.max(Instant::now() + std::time::Duration::from_secs(15));
        let mut session = self.server.administer("postgres", deadline).await?;
        end_sessions(&mut session, name).await?;
        let dropped = execute(&mut session, format!("DROP DATABASE IF EXISTS {}", quoted(name))).await;
        postgres::leave(session).await;
        dropped
    }

    /// Drops what earlier operations had to leave behind: scratch databases older than two hours, with nobody in them.
    pub(in crate::operations) async fn sweep(&self) {
        let Ok(mut session) = self.session("postgres").await else { return };
        let left = sqlx::query(
            "SELECT datname FROM pg_database d WHERE datname LIKE 'vigie\\_scratch\\_%' \
             AND NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.datname = d.datname)",
        )
        .fetch_all(&mut session)
        .await
        .unwrap_or_default();
        for row in left {
            let Ok(name) = row.try_get::<String, _>("datname") else { continue };
            let made: Option<i64> =
                name[SCRATCH.len()..].split('_').next().and_then(|seconds| seconds.parse().ok());
            let old = made.is_some_and(|made| crate::host::clock::now().timestamp() - made > 7200);
            if old && execute(&mut session, format!("DROP DATABASE {}", quoted(&name))).await.is_err() {
                tracing::warn!(name, "a scratch database cannot be dropped");
            }
        }
        postgres::leave(session).await;
    }
}

/// A name for a scratch database: when it was made, and something that no other has.
pub(in crate::operations) fn scratch_name() -> Result<String, Fault> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| Fault::failed("internal", error))?;
    Ok(format!(
        "{SCRATCH}{}_{}",
        crate::host::clock::now().timestamp(),
        data_encoding::HEXLOWER.encode(&bytes)
    ))
}

/// An identifier in quotes.
pub(in crate::operations) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Runs a statement of our own making.
pub(in crate::operations) async fn execute(session: &mut PgConnection, text: String) -> Result<(), Fault> {
    session
        .execute(sqlx::raw_sql(AssertSqlSafe(text)))
        .await
        .map(|_| ())
        .map_err(|error| postgres::fault(&error))
}

/// Ends every session of a database but this one.
pub(in crate::operations) async fn end_sessions(
    session: &mut PgConnection,
    database: &str,
) -> Result<(), Fault> {
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()")
        .bind(database)
        .execute(session)
        .await
        .map(|_| ())
        .map_err(|error| postgres::fault(&error))
}

/// A dump's text, piece by piece.
///
/// # Errors
/// When the very file that was listed cannot be opened.
pub(in crate::operations) fn text_of(dump: &Dump) -> Result<mpsc::Receiver<io::Result<Bytes>>, Fault> {
    let file = dump.open().map_err(|error| {
        Fault::refused("backup_changed", error).hint("list them again: `vigiectl probe backup_list`")
    })?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let compressed = dump.is_compressed();
    // Ends with the file, or as soon as nobody takes its pieces.
    tokio::task::spawn_blocking(move || {
        let mut source: Box<dyn io::Read> =
            if compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        loop {
            let mut piece = vec![0; PIECE];
            let sent = match source.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    piece.truncate(read);
                    sender.blocking_send(Ok(Bytes::from(piece)))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let _ = sender.blocking_send(Err(error));
                    break;
                }
            };
            if sent.is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

/// A program's end as an operation's.
fn finished(ended: Result<Ended, ExecutionError>, program: &str, code: &str) -> Result<(), Fault> {
    match ended {
        Ok(Ended { code: 0, .. }) => Ok(()),
        Ok(Ended { code: status @ (126 | 127), words }) => Err(Fault::refused(
            "postgres_tools_absent",
            format!("the server's container has no {program} (status {status}): {}", first_error(&words)),
        )
        .hint("its image has to hold PostgreSQL's own programs, as the official one does")),
        Ok(Ended { code: status, words }) => {
            Err(Fault::failed(code, format!("{program} ended with status {status}: {}", first_error(&words))))
        }
        Err(ExecutionError::Engine(error)) => Err(error.into()),
        Err(ExecutionError::Input(error)) => {
            Err(Fault::failed("backup_unreadable", format!("the backup cannot be read to its end: {error}")))
        }
        Err(ExecutionError::TimedOut) => {
            Err(Fault::failed("timed_out", format!("{program} was not done in its time"))
                .hint("give it more with `--timeout`"))
        }
    }
}

/// The first line that says what went wrong, else the last one.
fn first_error(words: &str) -> &str {
    let says = |line: &&str| ["ERROR:", "FATAL:", "error:", "PANIC:"].iter().any(|word| line.contains(word));
    words.lines().find(says).or(words.lines().next_back()).unwrap_or("it said nothing").trim()
}

fn options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    // A dump holds everything that the database does: nobody else reads it.
    options.write(true).create_new(true).mode(0o600);
    options
}

/// Gives a finished file its name, unless another has it, and keeps that on the disk.
fn put(partial: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE) {
        // A filesystem that does not know the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !path.exists() => {
            fs::rename(partial, path)?;
        }
        renamed => renamed?,
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_tells_is_found() {
        let words = "SET\npsql:<stdin>:12: ERROR:  relation \"plans\" already exists\nmore\n";
        assert_eq!(first_error(words), "psql:<stdin>:12: ERROR:  relation \"plans\" already exists");
        assert_eq!(first_error("a\nb\n"), "b");
        assert_eq!(first_error(""), "it said nothing");
    }

    #[test]
    fn names_are_quoted_and_scratch_is_told_by_its_name() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        let (one, other) = (scratch_name().unwrap(), scratch_name().unwrap());
        assert!(one.starts_with(SCRATCH) && one != other && one.len() < 63);
    }

    #[test]
    fn a_finished_file_never_replaces_another() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, path) = (folder.path().join("a.partial"), folder.path().join("a"));
        fs::write(&partial, "new").unwrap();
        put(&partial, &path).unwrap();
        fs::write(&partial, "newer").unwrap();
        assert!(put(&partial, &path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
