//! Child processes: an absolute program, its arguments, exactly the declared environment, a deadline, bounded output.
//! Never a shell.

pub mod keeper;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use vigie_proto::v1::{CapturedText, OutputSource};

/// Where bare program names are looked for. Fixed, so that nobody's environment decides what root runs.
const SEARCH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What is kept of each stream unless a caller needs more: half from its beginning, half from its end.
const KEPT: usize = 64 * 1024;

/// Where output is left out, a line break this near is dropped back to; without one, so many bytes go, which is longer
/// than the secrets of one line.
const LINE_BREAK_WITHIN: usize = 4 * 1024;
const FRAGMENT: usize = 512;

/// How long a group has to die after SIGTERM before SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Takes output while it is produced.
pub trait OutputSink: Send + Sync {
    /// Called with each piece as it is read. Must not block: what cannot be taken is dropped, for the record is kept
    /// elsewhere.
    fn write(&self, source: OutputSource, data: &[u8]);
}

/// A program to run.
pub struct Child<'a> {
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    sink: Option<&'a dyn OutputSink>,
    keep: usize,
    stop: Option<CancellationToken>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Exit {
    /// -1 when a signal ended it.
    pub code: i32,
    /// 0 when no signal ended it.
    pub signal: i32,
    /// True when it was killed because its time was up; the output is what there was until then.
    pub timed_out: bool,
    /// True when it was stopped because somebody asked for it; the output is what there was until then.
    pub stopped: bool,
    pub stdout: Captured,
    pub stderr: Captured,
}

impl Exit {
    /// Whether it ended by itself with status 0.
    pub fn success(&self) -> bool {
        self.code == 0 && !self.timed_out && !self.stopped
    }
}

/// Why a program could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("no program {0:?} in {path}", path = SEARCH.join(":"))]
    NotFound(String),
    #[error("{program} cannot be started")]
    Start { program: PathBuf, source: std::io::Error },
    #[error("waiting for {program} failed")]
    Wait { program: PathBuf, source: std::io::Error },
    /// It had begun, and what kept it is gone: nobody knows how far it came.
    #[error("{program} began, and nobody saw how it ended")]
    Lost { program: PathBuf },
}

/// Resolves a bare name in the fixed path; takes an absolute path as it is.
///
/// # Errors
/// When there is no such program, or the path is relative.
pub fn resolve(program: &str) -> Result<PathBuf, ChildError> {
    let not_found = || ChildError::NotFound(program.to_owned());
    let path = Path::new(program);
    if path.is_absolute() {
        return if path.is_file() { Ok(path.to_owned()) } else { Err(not_found()) };
    }
    if program.contains('/') || program.is_empty() {
        return Err(not_found());
    }
    SEARCH
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
        .ok_or_else(not_found)
}

impl<'a> Child<'a> {
    /// A program by bare name or absolute path.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn new(program: &str) -> Result<Self, ChildError> {
        Ok(Self {
            program: resolve(program)?,
            args: Vec::new(),
            environment: vec![
                ("PATH".to_owned(), SEARCH.join(":")),
                ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ],
            directory: None,
            sink: None,
            keep: KEPT,
            stop: None,
        })
    }

    /// Adds arguments, handed over as they are.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to an environment that otherwise holds only PATH and LC_ALL.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory; `/` otherwise.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sends output on while the program runs.
    #[must_use]
    pub fn sink(mut self, sink: &'a dyn OutputSink) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Keeps this many bytes of each stream, half from its beginning and half from its end: for output that is parsed
    /// and not shown.
    #[must_use]
    pub fn keep(mut self, bytes: usize) -> Self {
        self.keep = bytes;
        self
    }

    /// Has the program stopped, as at its deadline, when this says so.
    #[must_use]
    pub fn stop(mut self, stop: CancellationToken) -> Self {
        self.stop = Some(stop);
        self
    }

    /// The absolute program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs the program to its end or to the deadline, whichever is first. Its whole process group dies with it.
    ///
    /// # Errors
    /// When it cannot be started or waited for. A program that fails is no error here.
    pub async fn run(self, deadline: Instant) -> Result<Exit, ChildError> {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.directory.as_deref().unwrap_or(Path::new("/")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ChildError::Start { program: self.program.clone(), source })?;
        // A child that was just spawned and not yet waited for has an id.
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut captured = (Captured::new(self.keep), Captured::new(self.keep));
        let (mut status, mut timed_out, mut stopped) = (None, false, false);
        {
            let reads = async {
                tokio::join!(
                    read(stdout, OutputSource::Stdout, &mut captured.0, self.sink),
                    read(stderr, OutputSource::Stderr, &mut captured.1, self.sink),
                );
            };
            tokio::pin!(reads);
            let (mut reading, mut kill_at) = (true, None);
            while status.is_none() || reading {
                tokio::select! {
                    ended = child.wait(), if status.is_none() => {
                        status = Some(ended.map_err(|source| ChildError::Wait { program: self.program.clone(), source })?);
                        // A grandchild may hold the pipes open for ever: what it says after this is not waited for.
                        kill_at.get_or_insert(Instant::now() + GRACE);
                    }
                    () = &mut reads, if reading => reading = false,
                    () = tokio::time::sleep_until(deadline), if !timed_out && !stopped && status.is_none() => {
                        timed_out = true;
                        group.signal(libc::SIGTERM);
                        kill_at = Some(Instant::now() + GRACE);
                    }
                    () = asked(self.stop.as_ref()), if !timed_out && !stopped && status.is_none() => {
                        stopped = true;
                        group.signal(libc::SIGTERM);
                        kill_at = Some(Instant::now() + GRACE);
                    }
                    () = sleep_until(kill_at), if kill_at.is_some() => {
                        group.signal(libc::SIGKILL);
                        if status.is_some() {
                            break;
                        }
                        kill_at = None;
                    }
                }
            }
        }
        group.signal(libc::SIGKILL);
        let status = status.unwrap_or_default();
        Ok(Exit {
            code: status.code().unwrap_or(-1),
            signal: std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0),
            timed_out,
            stopped,
            stdout: captured.0,
            stderr: captured.1,
        })
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn asked(stop: Option<&CancellationToken>) {
    match stop {
        Some(stop) => stop.cancelled().await,
        None => std::future::pending().await,
    }
}

/// A process group, killed when dropped, so that a cancelled operation leaves nothing behind.
struct Group(Option<i32>);

impl Group {
    fn signal(&self, signal: i32) {
        let pid = self.0.and_then(rustix::process::Pid::from_raw);
        if let (Some(pid), Some(signal)) = (pid, rustix::process::Signal::from_named_raw(signal)) {
            // Nobody left to signal is what is wanted.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

async fn read(
    stream: Option<impl AsyncRead + Unpin>,
    source: OutputSource,
    captured: &mut Captured,
    sink: Option<&dyn OutputSink>,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 * 1024];
    // A pipe that breaks has ended.
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        captured.push(&buffer[..read]);
        if let Some(sink) = sink {
            sink.write(source, &buffer[..read]);
        }
    }
}

/// Output within a bound: its beginning and its end.
#[derive(Debug)]
pub struct Captured {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    /// How much each of the two may hold.
    half: usize,
}

impl Captured {
    fn new(keep: usize) -> Self {
        Self { head: Vec::new(), tail: VecDeque::new(), total: 0, half: keep / 2 }
    }

    fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let room = self.half.saturating_sub(self.head.len()).min(data.len());
        let (head, rest) = data.split_at(room);
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..excess);
    }

    /// Whether something had to be left out.
    pub fn truncated(&self) -> bool {
        ((self.head.len() + self.tail.len()) as u64) < self.total
    }

    /// All that was kept, as text; what is no UTF-8 is replaced, and a line says how much is left out between. Where
    /// something is, whole lines stand on both sides of it: half a secret is none that redaction knows.
    pub fn text(&self) -> CapturedText {
        let truncated = self.truncated();
        let mut bytes = self.head.clone();
        if truncated {
            let newline = |byte: &u8| *byte == b'\n';
            let near = self.head.len().saturating_sub(LINE_BREAK_WITHIN);
            let head = match self.head[near..].iter().rposition(newline) {
                Some(at) => near + at + 1,
                None => self.head.len().saturating_sub(FRAGMENT),
            };
            let tail = match self.tail.iter().take(LINE_BREAK_WITHIN).position(newline) {
                Some(at) => at + 1,
                None => FRAGMENT.min(self.tail.len()),
            };
            bytes.truncate(head);
            let left_out = self.total - (head + self.tail.len() - tail) as u64;
            if bytes.last() != Some(&b'\n') {
                bytes.push(b'\n');
            }
            bytes.extend_from_slice(format!("… {left_out} bytes left out …\n").as_bytes());
            bytes.extend(self.tail.range(tail..));
        } else {
            bytes.extend(&self.tail);
        }
        CapturedText {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            total_bytes: self.total,
            truncated,
        }
    }

    /// All that was kept, as lines.
    pub fn lines(&self) -> Vec<String> {
        self.text().text.lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A deadline that no test reaches unless it hangs.
    fn ample() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn script(text: &str) -> Child<'static> {
        // A shell is the shortest way to a program that misbehaves; the agent itself never starts one.
        Child::new("sh").unwrap().args(["-c", text])
    }

    #[tokio::test]
    async fn output_status_and_environment() {
        let exit = script("echo out; echo err >&2; env; pwd; exit 3")
            .env("ENV_FILE", ".env.prod")
            .run(ample())
            .await
            .unwrap();
        assert_eq!((exit.code, exit.signal, exit.timed_out), (3, 0, false));
        assert!(!exit.success());
        assert_eq!(exit.stderr.lines(), ["err"]);
        let mut lines = exit.stdout.lines();
        lines.sort();
        let names: Vec<&str> = lines.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        // PWD and the like are the shell's own.
        let own = ["ENV_FILE", "LC_ALL", "PATH"];
        assert!(own.iter().all(|name| names.contains(name)), "{names:?}");
        assert!(
            names.iter().all(|name| own.contains(name) || ["PWD", "OLDPWD", "SHLVL", "_"].contains(name)),
            "{names:?}"
        );
        assert!(lines.contains(&"/".to_owned()));
    }

    #[tokio::test]
    async fn arguments_are_no_words_of_a_shell() {
        let exit = Child::new("echo").unwrap().args(["$HOME; id", "a  b", "*"]).run(ample()).await.unwrap();
        assert_eq!(exit.stdout.lines(), ["$HOME; id a  b *"]);
    }

    #[tokio::test]
    async fn a_signal_that_ends_it_is_told() {
        let exit = script("kill -KILL $$").run(ample()).await.unwrap();
        assert_eq!((exit.code, exit.signal, exit.timed_out), (-1, libc::SIGKILL, false));
    }

    #[test]
    fn only_absolute_paths_and_names_in_the_fixed_path() {
        assert!(resolve("sh").unwrap().is_absolute());
        for bad in ["", "./sh", "../bin/sh", "bin/sh", "no-such-program", "/no/such/program", "/"] {
            assert!(matches!(resolve(bad), Err(ChildError::NotFound(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_is_no_program_cannot_be_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let child = Child::new(file.path().to_str().unwrap()).unwrap();
        assert!(matches!(child.run(ample()).await, Err(ChildError::Start { .. })));
    }

    #[tokio::test]
    async fn one_that_ignores_sigterm_is_killed_and_its_output_kept() {
        let begun = Instant::now();
        let exit = script("trap '' TERM; echo begun; while :; do sleep 60; done")
            .run(begun + Duration::from_millis(300))
            .await
            .unwrap();
        assert!(exit.timed_out);
        assert_eq!((exit.code, exit.signal), (-1, libc::SIGKILL));
        assert_eq!(exit.stdout.lines(), ["begun"]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn one_that_heeds_sigterm_may_say_so() {
        let exit = script("trap 'echo stopping; exit 0' TERM; echo begun; while :; do sleep 0.05; done")
            .run(Instant::now() + Duration::from_millis(300))
            .await
            .unwrap();
        assert!(exit.timed_out && !exit.success());
        assert_eq!(exit.stdout.lines(), ["begun", "stopping"]);
    }

    #[tokio::test]
    async fn a_flood_is_bounded_and_its_two_ends_are_kept() {
        let exit = script("echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last")
            .run(ample())
            .await
            .unwrap();
        assert!(exit.success());
        let text = exit.stdout.text();
        assert!(text.truncated && exit.stdout.truncated());
        assert_eq!(text.total_bytes, 20_000_000 + "first\n\nlast\n".len() as u64);
        assert!(text.text.starts_with("first\nxxx") && text.text.ends_with("xxx\nlast\n"));
        assert!(text.text.len() < KEPT + 100, "{}", text.text.len());
        let left_out = text.total_bytes - KEPT as u64 + 2 * FRAGMENT as u64;
        assert!(text.text.contains(&format!("\n… {left_out} bytes left out …\n")));
    }

    #[test]
    fn no_part_of_what_straddles_a_cut_is_told() {
        for (before, after) in [("first\n", "\nlast"), ("", "")] {
            let mut captured = Captured::new(4096);
            let (head, tail) = ("x".repeat(2048 - 5 - before.len()), "x".repeat(2048 - 5 - after.len()));
            // Half of the secret ends the head, and half of another one begins the tail.
            for piece in
                [head.as_str(), before, "s3cr3t-word", &"y".repeat(9000), "s3cr3t-word", after, &tail]
            {
                captured.push(piece.as_bytes());
            }
            let text = captured.text().text;
            assert!(captured.truncated() && text.contains(" bytes left out …\n"));
            assert!(!text.contains("s3c") && !text.contains("word"), "{text}");
            assert_eq!(
                (text.contains("first\n… "), text.contains("…\nlastx")),
                (!before.is_empty(), !after.is_empty())
            );
        }
    }

    #[tokio::test]
    async fn more_is_kept_when_more_is_asked_for() {
        let exit = script("head -c 300000 /dev/zero | tr '\\0' x").keep(1 << 20).run(ample()).await.unwrap();
        assert_eq!((exit.stdout.truncated(), exit.stdout.text().text.len()), (false, 300_000));
    }

    #[tokio::test]
    async fn a_grandchild_that_holds_the_pipes_delays_nothing_for_long() {
        let begun = Instant::now();
        let exit = script("sleep 300 & echo $!").run(ample()).await.unwrap();
        assert!(exit.success() && !exit.timed_out);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(has_ended(exit.stdout.lines()[0].parse().unwrap()).await);
    }

    #[tokio::test]
    async fn a_grandchild_in_a_session_of_its_own_delays_nothing_for_long() {
        let begun = Instant::now();
        let exit = script("setsid sleep 20 & echo done").run(ample()).await.unwrap();
        assert!(exit.success());
        assert_eq!(exit.stdout.lines(), ["done"]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn the_whole_group_dies_at_the_deadline() {
        let exit = script("sleep 300 & echo $!; wait")
            .run(Instant::now() + Duration::from_millis(300))
            .await
            .unwrap();
        assert!(exit.timed_out);
        assert!(has_ended(exit.stdout.lines()[0].parse().unwrap()).await);
    }

    #[tokio::test]
    async fn one_that_is_asked_to_stop_tells_what_it_said_until_then() {
        let (told, mut pids) = tokio::sync::mpsc::unbounded_channel();
        let sink = Told(Mutex::new(told));
        let stop = CancellationToken::new();
        let run = script("trap '' TERM; sleep 300 & echo $!; wait; wait")
            .sink(&sink)
            .stop(stop.clone())
            .run(ample());
        tokio::pin!(run);
        let pid = tokio::select! {
            _ = &mut run => panic!("it ended"),
            pid = pids.recv() => pid.unwrap(),
        };
        stop.cancel();
        let exit = run.await.unwrap();
        assert!(exit.stopped && !exit.timed_out && !exit.success());
        assert_eq!(exit.stdout.lines(), [pid.to_string()]);
        assert!(has_ended(pid).await);
    }

    #[tokio::test]
    async fn a_run_that_is_dropped_leaves_nothing_behind() {
        let (told, mut pids) = tokio::sync::mpsc::unbounded_channel();
        let sink = Told(Mutex::new(told));
        let run = script("sleep 300 & echo $!; wait").sink(&sink).run(ample());
        tokio::pin!(run);
        let pid = tokio::select! {
            _ = &mut run => panic!("it ended"),
            pid = pids.recv() => pid.unwrap(),
        };
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        // Putting another run in its place drops the first.
        run.set(script("true").run(ample()));
        assert!(has_ended(pid).await);
    }

    /// Tells the first number that is written.
    struct Told(Mutex<tokio::sync::mpsc::UnboundedSender<i32>>);

    impl OutputSink for Told {
        fn write(&self, source: OutputSource, data: &[u8]) {
            assert_eq!(source, OutputSource::Stdout);
            if let Ok(pid) = String::from_utf8_lossy(data).trim().parse() {
                self.0.lock().unwrap().send(pid).unwrap();
            }
        }
    }

    /// Whether a process is gone, or dead and only not yet reaped by its parent.
    async fn has_ended(pid: i32) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map_or("X", |(_, rest)| &rest[..1]);
            if matches!(state, "X" | "Z") {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }
}
