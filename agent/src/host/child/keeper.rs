//! Programs that outlive the agent.
//!
//! An order's program is run by a *keeper*: a process of its own, in a transient systemd unit where systemd runs and in a
//! process group of its own elsewhere, so that an agent that is killed, replaced or restarted ends nothing half-way. The
//! keeper holds the program to its deadline, bounds what is kept of its output, and writes down how it ended. An agent
//! that starts again waits for the keepers of the orders that had begun, and learns from them what it missed.
//!
//! ```text
//! children/ORDER/N/call    what to run: written by the agent
//!                  lock    held by the keeper for as long as it lives; holds its process id
//!                  begun   there from just before the program is started
//!                  stop    `1` once it is to be stopped, or never to begin: written by the agent
//!                  ended   how it ended; its blocks are there from the first, since a disk may fill up meanwhile
//! ```
//!
//! All of a folder is made before the keeper is called and goes with the folder, once the order's end is in the journal:
//! nobody makes or removes a single file of it later, but for `begun`.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Seek as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use prost::Message as _;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};
use tokio::{
    process::Command,
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use vigie_proto::{id::TaskId, v1::OutputSource};

use super::{Captured, Child, ChildError, Exit, OutputSink, asked, read, resolve};

/// The agent's own command that is the keeper.
pub const COMMAND: &str = "keep";

/// Where the keepers' folders are, in the agent's state folder.
pub const CHILDREN: &str = "children";

/// Of each stream at most so much is kept, whatever a caller asks for: the record's room is made before the start.
const KEPT: usize = 256 * 1024;

/// What a record holds beside the two streams.
const BESIDE: usize = 4096;

/// Pieces of live output that wait for the agent; what does not fit is not shown, and kept all the same.
const PIECES: usize = 64;

/// How long a keeper has, after its program's deadline, to write down how that ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, PartialEq, prost::Message)]
struct Call {
    #[prost(string, tag = "1")]
    program: String,
    #[prost(string, repeated, tag = "2")]
    args: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    environment: Vec<Variable>,
    #[prost(string, tag = "4")]
    directory: String,
    /// Bytes to keep of each stream.
    #[prost(uint64, tag = "5")]
    keep: u64,
    /// Milliseconds that it may run, from its start.
    #[prost(uint64, tag = "6")]
    time_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Variable {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// How it ended.
#[derive(Clone, PartialEq, prost::Message)]
struct Ended {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(int32, tag = "2")]
    signal: i32,
    #[prost(bool, tag = "3")]
    timed_out: bool,
    #[prost(bool, tag = "4")]
    stopped: bool,
    /// Why it could not be run; empty when it was.
    #[prost(string, tag = "5")]
    failed: String,
    /// It was given up, or stopped, before its keeper came to start it.
    #[prost(bool, tag = "6")]
    given_up: bool,
    #[prost(message, optional, tag = "7")]
    stdout: Option<Stream>,
    #[prost(message, optional, tag = "8")]
    stderr: Option<Stream>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stream {
    #[prost(bytes = "vec", tag = "1")]
    head: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    tail: Vec<u8>,
    #[prost(uint64, tag = "3")]
    total: u64,
}

impl From<&Captured> for Stream {
    fn from(kept: &Captured) -> Self {
        Self { head: kept.head.clone(), tail: kept.tail.iter().copied().collect(), total: kept.total }
    }
}

impl From<Stream> for Captured {
    fn from(stream: Stream) -> Self {
        let half = stream.head.len();
        Self { head: stream.head, tail: stream.tail.into(), total: stream.total, half }
    }
}

/// Where the programs of one order are kept.
#[derive(Debug)]
pub struct Keeping {
    folder: PathBuf,
    name: String,
    keeper: PathBuf,
    next: AtomicU32,
}

/// What became of a program that an earlier agent started.
#[derive(Debug)]
pub enum Found {
    /// Its keeper wrote down how it ended.
    Ended(Exit),
    /// It could not be run.
    Failed(String),
    /// It began, and its keeper is gone: the machine went down, or somebody killed it.
    Lost,
    /// It never began, and will not.
    NeverBegan,
}

impl Keeping {
    /// Keeps an order's programs below the agent's state folder. Nothing is made before the first one.
    pub fn new(state: &Path, order: TaskId) -> io::Result<Self> {
        let folder = state.join(CHILDREN).join(order.to_string());
        let keeper = std::env::current_exe()?;
        Ok(Self { folder, name: order.to_string(), keeper, next: AtomicU32::new(1) })
    }

    /// Has another program be the keeper than this one: for tests, which are no agent.
    #[must_use]
    pub fn by(mut self, keeper: PathBuf) -> Self {
        self.keeper = keeper;
        self
    }

    /// Makes the next program's folder, with all that its keeper will need of the disk.
    fn prepare(&self, call: &Call) -> io::Result<(PathBuf, u32)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(number.to_string());
        let made = (|| {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let keep = usize::try_from(call.keep).unwrap_or(KEPT);
            for (name, bytes) in [
                ("call", call.encode_to_vec()),
                ("ended", vec![0; 2 * keep + BESIDE]),
                ("stop", b"0".to_vec()),
                ("lock", Vec::new()),
            ] {
                let mut file =
                    File::options().write(true).create_new(true).mode(0o600).open(folder.join(name))?;
                file.write_all(&bytes)?;
                file.sync_all()?;
            }
            sync_folder(&folder)?;
            sync_folder(&self.folder)
        })();
        if made.is_err() {
            // On a full disk it must not take the last room.
            let _ = fs::remove_dir_all(&folder);
        }
        made.map(|()| (folder, number))
    }
}

impl Child<'_> {
    /// As [`run`](Child::run), and goes on without the agent. Where the disk has no room for a keeper's folder the program
    /// is run all the same, and would end with the agent: it may be the one that makes room.
    ///
    /// # Errors
    /// As there, and [`ChildError::Lost`] when its keeper ended without a word.
    pub async fn run_kept(self, keeping: &Keeping, deadline: Instant) -> Result<Exit, ChildError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let call = Call {
            program: self.program.to_string_lossy().into_owned(),
            args: self.args.clone(),
            environment: self
                .environment
                .iter()
                .map(|(name, value)| Variable { name: name.clone(), value: value.clone() })
                .collect(),
            directory: self
                .directory
                .as_ref()
                .map(|own| own.to_string_lossy().into_owned())
                .unwrap_or_default(),
            keep: self.keep.min(KEPT) as u64,
            time_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        };
        let (folder, number) = match keeping.prepare(&call) {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    program = call.program,
                    "a program has no keeper, and would end with the agent"
                );
                return self.run(deadline).await;
            }
        };
        let start = |source| ChildError::Start { program: self.program.clone(), source };
        let mut keeper = launcher(keeping, &folder, number)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let (stdout, stderr) = (keeper.stdout.take(), keeper.stderr.take());
        // The record has what is kept; here it is only shown.
        let (mut nothing, mut nought) = (Captured::new(0), Captured::new(0));
        let ended = async {
            let (_, _, status) = tokio::join!(
                read(stdout, OutputSource::Stdout, &mut nothing, self.sink),
                read(stderr, OutputSource::Stderr, &mut nought, self.sink),
                keeper.wait(),
            );
            status
        };
        tokio::pin!(ended);
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                status = &mut ended => {
                    status.map_err(|source| ChildError::Wait { program: self.program.clone(), source })?;
                    break;
                }
                () = asked(stop.as_ref()), if stop.is_some() => {
                    stop = None;
                    ask_to_stop(&folder);
                }
            }
        }
        // Whoever started the keeper may have gone before it.
        match found(folder).await.map_err(start)? {
            Found::Ended(exit) => Ok(exit),
            Found::Failed(why) => Err(start(io::Error::other(why))),
            Found::Lost => Err(ChildError::Lost { program: self.program }),
            // It was asked to stop before its keeper had come to start it.
            Found::NeverBegan if self.stop.is_some_and(|stop| stop.is_cancelled()) => {
                let (stdout, stderr) = (Captured::new(0), Captured::new(0));
                Ok(Exit { code: -1, signal: 0, timed_out: false, stopped: true, stdout, stderr })
            }
            Found::NeverBegan => Err(start(io::Error::other("its keeper did not start"))),
        }
    }
}

/// The call that starts a keeper apart from the agent.
fn launcher(keeping: &Keeping, folder: &Path, number: u32) -> Command {
    let systemd = Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root();
    let mut command = match resolve("systemd-run") {
        Ok(program) if systemd => {
            let mut command = Command::new(program);
            command
                .args(["--quiet", "--collect", "--pipe", "--wait", "--service-type=exec"])
                .arg(format!("--unit=vigie-{}-{number}", keeping.name))
                .arg("--description=A program that a Vigie order runs")
                // Asked to stop, the keeper stops its program and writes down how it ended.
                .args(["--property=KillMode=mixed", "--property=TimeoutStopSec=20", "--"])
                .arg(&keeping.keeper);
            command
        }
        _ => Command::new(&keeping.keeper),
    };
    command.arg(COMMAND).arg(folder).env_clear().current_dir("/").process_group(0);
    command
}

/// Has a keeper stop its program, or not start it. The mark comes first, and only then its keeper is looked for: one that is
/// not there by then looks for the mark later. One that has ended needs no asking.
fn ask_to_stop(folder: &Path) {
    let marked =
        File::options().write(true).open(folder.join("stop")).and_then(|mut file| file.write_all(b"1"));
    if let Err(error) = marked {
        tracing::warn!(folder = %folder.display(), error = &error as &dyn std::error::Error, "a program may go on");
    }
    let id = fs::read_to_string(folder.join("lock")).ok().and_then(|text| text.trim().parse().ok());
    let Some(id) = id.and_then(Pid::from_raw) else { return };
    // The process is held before it is looked at, so that whoever got a dead keeper's number is left alone.
    if let Ok(process) = pidfd_open(id, PidfdFlags::empty())
        && is_keeper(id, folder)
    {
        // It may end at this moment.
        let _ = pidfd_send_signal(process, rustix::process::Signal::TERM);
    }
}

/// Whether a process is the keeper that works in a folder, by how it was called.
fn is_keeper(id: Pid, folder: &Path) -> bool {
    let place = folder.components().rev().take(3).collect::<Vec<_>>();
    let place: PathBuf = place.into_iter().rev().collect();
    let called = fs::read(format!("/proc/{}/cmdline", id.as_raw_nonzero())).unwrap_or_default();
    called.split(|byte| *byte == 0).any(|word| Path::new(std::ffi::OsStr::from_bytes(word)).ends_with(&place))
}

/// Whether the agent has asked for it.
fn is_to_stop(folder: &Path) -> bool {
    fs::read(folder.join("stop")).is_ok_and(|mark| mark == b"1")
}

/// Waits for a keeper's end and reads what it wrote down. One that has not begun by then never will.
async fn found(folder: PathBuf) -> io::Result<Found> {
    let read = tokio::task::spawn_blocking(move || found_now(&folder)).await;
    read.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn found_now(folder: &Path) -> io::Result<Found> {
    let lock = File::options().read(true).write(true).open(folder.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let record = recorded(folder)?;
    if let Some(ended) = record {
        return Ok(match ended {
            Ended { given_up: true, .. } => Found::NeverBegan,
            Ended { failed, .. } if !failed.is_empty() => Found::Failed(failed),
            ended => Found::Ended(Exit {
                code: ended.code,
                signal: ended.signal,
                timed_out: ended.timed_out,
                stopped: ended.stopped,
                stdout: ended.stdout.unwrap_or_default().into(),
                stderr: ended.stderr.unwrap_or_default().into(),
            }),
        });
    }
    if folder.join("begun").exists() {
        return Ok(Found::Lost);
    }
    // While we hold its lock: a keeper that comes late finds this.
    record_end(folder, &Ended { given_up: true, ..Ended::default() })?;
    Ok(Found::NeverBegan)
}

/// The programs of an order, as an agent finds them that did not start them; waits for those that still run, and has them
/// stopped once `stop` says so.
///
/// # Errors
/// When the folder cannot be read.
pub async fn programs(state: &Path, order: TaskId, stop: &CancellationToken) -> io::Result<Vec<Found>> {
    let folder = state.join(CHILDREN).join(order.to_string());
    let mut numbers = Vec::new();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    let mut programs = Vec::new();
    for number in numbers {
        let folder = folder.join(number.to_string());
        // Its folder was not complete: nobody was called.
        if !folder.join("lock").exists() {
            programs.push(Found::NeverBegan);
            continue;
        }
        let ended = found(folder.clone());
        tokio::pin!(ended);
        programs.push(tokio::select! {
            biased;
            ended = &mut ended => ended?,
            () = stop.cancelled() => {
                ask_to_stop(&folder);
                ended.await?
            }
        });
    }
    Ok(programs)
}

/// Lets go of what was kept of an order whose end is written down.
pub fn forget(state: &Path, order: TaskId) {
    let folder = state.join(CHILDREN).join(order.to_string());
    match fs::remove_dir_all(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(folder = %folder.display(), error = &error as &dyn std::error::Error, "stays behind");
        }
    }
}

/// The orders that have something in the folder of keepers.
pub fn orders(state: &Path) -> Vec<TaskId> {
    let Ok(entries) = fs::read_dir(state.join(CHILDREN)) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The keeper's whole life: it runs what its folder calls for and writes down how that ended.
///
/// # Errors
/// When the folder is not one that an agent made, or nothing can be written there.
pub fn keep(folder: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // It listens before anybody can know whom to wake: nobody is there yet to be ended by it.
    let asked = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate())?
    };
    let mut lock = File::options().read(true).write(true).open(folder.join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    if recorded(folder)?.is_some() || folder.join("begun").exists() {
        return Err(io::Error::other("this program was run before, or given up"));
    }
    lock.write_all(std::process::id().to_string().as_bytes())?;
    // Whoever asks from here on wakes this process; whoever asked before has left the mark.
    if is_to_stop(folder) {
        return record_end(folder, &Ended { given_up: true, ..Ended::default() });
    }
    let call = Call::decode(fs::read(folder.join("call"))?.as_slice())?;
    let deadline = Instant::now() + Duration::from_millis(call.time_ms);
    File::options().write(true).create_new(true).mode(0o600).open(folder.join("begun"))?.sync_all()?;
    sync_folder(folder)?;
    let ended = runtime.block_on(run(&call, deadline, asked));
    record_end(folder, &ended)?;
    // What is still to be shown has had its time; the thread that shows it may hang on a pipe that nobody reads.
    runtime.shutdown_timeout(LAST_WORDS);
    Ok(())
}

async fn run(call: &Call, deadline: Instant, mut asked: Signal) -> Ended {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        asked.recv().await;
        stopping.cancel();
    });
    let shown = Shown::start();
    let child = match Child::new(&call.program) {
        Ok(child) => child,
        Err(error) => return Ended { failed: error.to_string(), ..Ended::default() },
    };
    let mut child = child
        .args(call.args.iter().cloned())
        .sink(&shown)
        .stop(stop)
        .keep(usize::try_from(call.keep).unwrap_or(KEPT));
    child.environment = call.environment.iter().map(|own| (own.name.clone(), own.value.clone())).collect();
    if !call.directory.is_empty() {
        child = child.directory(&call.directory);
    }
    match child.run(deadline).await {
        Ok(exit) => Ended {
            code: exit.code,
            signal: exit.signal,
            timed_out: exit.timed_out,
            stopped: exit.stopped,
            stdout: Some((&exit.stdout).into()),
            stderr: Some((&exit.stderr).into()),
            ..Ended::default()
        },
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Ended { failed: format!("{error}{cause}"), ..Ended::default() }
        }
    }
}

/// Shows output to the agent while there is one, from a thread of its own: an agent that does not read must not hold up
/// the program.
struct Shown(std::sync::mpsc::SyncSender<(OutputSource, Vec<u8>)>);

impl Shown {
    fn start() -> Self {
        let (sender, pieces) = std::sync::mpsc::sync_channel::<(OutputSource, Vec<u8>)>(PIECES);
        std::thread::spawn(move || {
            for (source, piece) in pieces {
                // An agent that has gone reads no more.
                let _ = match source {
                    OutputSource::Stderr => io::stderr().write_all(&piece),
                    _ => io::stdout().write_all(&piece).and_then(|()| io::stdout().flush()),
                };
            }
        });
        Self(sender)
    }
}

impl OutputSink for Shown {
    fn write(&self, source: OutputSource, data: &[u8]) {
        let _ = self.0.try_send((source, data.to_vec()));
    }
}

/// How a program ended, if that was written down whole: `length: u32 | crc: u32 | record`.
fn recorded(folder: &Path) -> io::Result<Option<Ended>> {
    let bytes = fs::read(folder.join("ended"))?;
    let (Some(length), Some(sum)) =
        (bytes.first_chunk::<4>(), bytes.get(4..).and_then(<[u8]>::first_chunk::<4>))
    else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let record = bytes.get(8..).and_then(|rest| rest.get(..length));
    let whole = record.filter(|record| length > 0 && crc32fast::hash(record) == u32::from_le_bytes(*sum));
    Ok(whole.and_then(|record| Ended::decode(record).ok()))
}

/// Writes it into the blocks that are there for it.
fn record_end(folder: &Path, ended: &Ended) -> io::Result<()> {
    let record = ended.encode_to_vec();
    let length = u32::try_from(record.len()).map_err(io::Error::other)?;
    let mut file = File::options().write(true).open(folder.join("ended"))?;
    file.seek(io::SeekFrom::Start(8))?;
    file.write_all(&record)?;
    file.sync_data()?;
    // The head comes last, so that a record counts only once all of it is there.
    file.seek(io::SeekFrom::Start(0))?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&crc32fast::hash(&record).to_le_bytes())?;
    file.sync_data()
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
