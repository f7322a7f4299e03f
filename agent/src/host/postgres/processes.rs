//! A server's processes, as this machine sees them.
//!
//! PostgreSQL writes into its processes' titles who is connected and what they do. That is what is left to read when no
//! connection is: when a superuser's clients have used up the reserved ones too, or the server is not up yet.

use std::{fs, path::Path};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ServerContainer;

/// Clock ticks a second in `/proc/PID/stat`; Linux has no other number for programs.
const TICKS: u64 = 100;

/// One process of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// As this machine counts.
    pub host_pid: i32,
    /// As the server counts.
    pub pid: i32,
    pub started_at_ms: i64,
    /// As in `/proc/PID/stat`: `S` sleeps, `T` is stopped, `D` waits for a disk.
    pub state: char,
    /// Without `postgres: ` and the cluster's name.
    pub title: String,
}

/// What a client's process says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub user: String,
    pub database: String,
    /// Its address; empty for the socket.
    pub address: String,
    /// The catalogue's word: active, idle, idle_in_transaction, idle_in_transaction_aborted.
    pub state: &'static str,
    /// The command's name while it is active, with ` waiting` behind it where it waits for a lock.
    pub activity: String,
}

impl Process {
    /// The client that this process serves; `None` for the server's own.
    pub fn client(&self) -> Option<Client> {
        // `user database 172.18.0.4(53744) idle`, `user database [local] idle in transaction`.
        let mut words = self.title.splitn(4, ' ');
        let (user, database, place) = (words.next()?, words.next()?, words.next()?);
        let activity = words.next().unwrap_or_default().trim();
        let address = match place.strip_suffix(')').and_then(|place| place.rsplit_once('(')) {
            Some((address, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => address,
            None if place == "[local]" => "",
            _ => return None,
        };
        if user == "walsender" {
            return None;
        }
        let state = match activity {
            "idle" => "idle",
            "idle in transaction" => "idle_in_transaction",
            "idle in transaction (aborted)" => "idle_in_transaction_aborted",
            _ => "active",
        };
        Some(Client {
            user: user.to_owned(),
            database: database.to_owned(),
            address: address.to_owned(),
            state,
            activity: activity.to_owned(),
        })
    }

    /// Asks this very process to end, as `pg_terminate_backend` does. The process is held while it is looked at again,
    /// so that no other one is met that took its number.
    ///
    /// # Errors
    /// Why it was not asked.
    pub fn terminate(&self, container: &ServerContainer) -> Result<(), String> {
        let gone = || "it is over already".to_owned();
        let pid = Pid::from_raw(self.host_pid).ok_or_else(gone)?;
        let held =
            pidfd_open(pid, PidfdFlags::empty()).map_err(|error| format!("it cannot be held: {error}"))?;
        let again = read(self.host_pid, &namespace(container.pid).ok_or_else(gone)?).ok_or_else(gone)?;
        if again != *self {
            return Err(format!("it is at something else now: {}", again.title));
        }
        pidfd_send_signal(&held, Signal::TERM).map_err(|error| format!("it cannot be told to end: {error}"))
    }
}

/// All processes of a server's container that are PostgreSQL's; empty when it does not run.
pub fn of(container: &ServerContainer) -> Vec<Process> {
    let Some(namespace) = (container.pid > 0).then(|| namespace(container.pid)).flatten() else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<Process> = pids.filter_map(|pid| read(pid, &namespace)).collect();
    found.sort_by_key(|process| (process.started_at_ms, process.pid));
    found
}

/// The state letter of the container's first process: the server's own, which takes connections.
pub fn first_state(container: &ServerContainer) -> Option<char> {
    Some(stat(container.pid)?.0)
}

fn namespace(pid: i32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn read(pid: i32, namespace: &Path) -> Option<Process> {
    if self::namespace(pid).as_deref() != Some(namespace) {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&command);
    let title = line.trim_end_matches('\0').replace('\0', " ");
    let title = title.strip_prefix("postgres: ")?;
    // `cluster_name` comes first where there is one: `15/main: checkpointer`.
    let title = match title.split_once(": ") {
        Some((cluster, rest)) if !cluster.contains(' ') => rest,
        _ => title,
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let inner = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?
        .split_whitespace()
        .last()?
        .parse()
        .ok()?;
    let (state, started_at_ms) = stat(pid)?;
    Some(Process { host_pid: pid, pid: inner, started_at_ms, state, title: title.trim().to_owned() })
}

fn stat(pid: i32) -> Option<(char, i64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold blanks and parentheses of its own.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let ticks: u64 = fields.nth(18)?.parse().ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some((state, boot * 1000 + i64::try_from(ticks * 1000 / TICKS).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Titles as PostgreSQL 15 wrote them.
    #[test]
    fn titles_tell_clients_from_the_servers_own() {
        let client = |title: &str| {
            let process =
                Process { host_pid: 1, pid: 1, started_at_ms: 0, state: 'S', title: title.to_owned() };
            process
                .client()
                .map(|client| (client.user, client.database, client.address, client.state, client.activity))
        };
        let of = |user: &str, database: &str, address: &str, state, activity: &str| {
            Some((user.to_owned(), database.to_owned(), address.to_owned(), state, activity.to_owned()))
        };
        assert_eq!(
            client("sylion_user sylion_prod 172.18.0.4(53744) idle"),
            of("sylion_user", "sylion_prod", "172.18.0.4", "idle", "idle")
        );
        assert_eq!(
            client("sylion_user sylion_prod [local] idle in transaction"),
            of("sylion_user", "sylion_prod", "", "idle_in_transaction", "idle in transaction")
        );
        assert_eq!(
            client("sylion_user sylion_prod ::1(53744) SELECT waiting"),
            of("sylion_user", "sylion_prod", "::1", "active", "SELECT waiting")
        );
        for own in [
            "checkpointer ",
            "logical replication launcher ",
            "startup recovering 000000010000000000000003",
            "walsender replicator 172.18.0.9(4000) streaming 0/3000060",
            "autovacuum worker sylion_prod",
        ] {
            assert_eq!(client(own), None, "{own}");
        }
    }

    #[test]
    fn this_very_process_has_a_beginning() {
        let (state, started) = stat(i32::try_from(std::process::id()).unwrap()).unwrap();
        let now = crate::host::clock::now().timestamp_millis();
        assert!(
            matches!(state, 'R' | 'S') && started > now - 3_600_000 && started < now + 2000,
            "{started} {now}"
        );
    }
}
