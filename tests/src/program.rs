//! Running the workspace's programs.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// -1 when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be run at all.
    pub fn of(command: &mut Command) -> Self {
        match command.output() {
            Ok(output) => output.into(),
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(json) => json,
            Err(error) => panic!("not JSON ({error}): {self:?}"),
        }
    }

    /// Insists on an exit status.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// One of the workspace's programs, built in the profile that the tests are built in.
///
/// # Panics
/// When it has not been built: `tests/run` builds it, and so does `cargo build --workspace --bins`.
pub fn binary(name: &str) -> PathBuf {
    // The test runs from target/<profile>/deps.
    let test = std::env::current_exe().unwrap_or_default();
    let path = test.parent().and_then(Path::parent).unwrap_or(Path::new("")).join(name);
    assert!(path.is_file(), "{} is not there: run `cargo build --workspace --bins` first", path.display());
    path
}

/// So many ports that nobody listens on now. Below those that the system gives to clients, and in a place of its own for
/// each test's process: a port that is free now has to be free still when its server starts.
///
/// # Panics
/// When loopback has none.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let places = (32_000 - 20_000) / N;
    let first = std::process::id() as usize % places;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..places)
        .map(|place| 20_000 + (first + place) % places * N)
        .map(|first| std::array::from_fn(|number| u16::try_from(first + number).unwrap_or(u16::MAX)))
        .find(|ports: &[u16; N]| ports.iter().all(free))
        .unwrap_or_else(|| panic!("no free ports on loopback"))
}

/// Looks until something is so.
///
/// # Panics
/// When it is not within 30 seconds; says what was waited for.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_within(Duration::from_secs(30), what, holds);
}

/// Looks until something is so.
///
/// # Panics
/// When it is not within the time; says what was waited for.
pub fn wait_within(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < time, "{what}: not within {time:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
