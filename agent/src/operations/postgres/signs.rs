//! What the server's log says went wrong, by kind and by time, and whether a start has overcome it since.

use std::{
    collections::VecDeque,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use vigie_proto::v1::{PostgresLogSign, PostgresLogSignsRequest, PostgresLogSignsResult};

use super::server;
use crate::{
    host::postgres::ServerContainer,
    operations::{Context, Fault, text},
};

/// Lines when the request does not say.
const LINES: u32 = 3000;
/// What of a log is read at most.
const BYTES: usize = 2 * 1024 * 1024;
/// How many of the last lines of severity FATAL and PANIC are told.
const FATAL: usize = 10;

/// Parts of lines by the sign that they are, in lower case; the first that fits counts. The words are those of
/// PostgreSQL's sources, in English: `lc_messages` of the official image is.
const SIGNS: [(&str, &[&str]); 17] = [
    ("disk_full", &["no space left on device", "disk quota exceeded"]),
    (
        "data_directory",
        &[
            "is not a database cluster directory",
            "has wrong ownership",
            "has invalid permissions",
            "lock file \"postmaster.pid\" already exists",
            "could not open directory \"pg_",
            "data directory \"",
        ],
    ),
    (
        "version_mismatch",
        &[
            "database files are incompatible with server",
            "the data directory was initialized by postgresql version",
        ],
    ),
    (
        "config_error",
        &[
            "contains errors",
            "unrecognized configuration parameter",
            "invalid value for parameter",
            "is outside the valid range for parameter",
            "could not load pg_hba.conf",
            "could not load /",
            "syntax error in file",
            "could not access file \"",
            "could not map anonymous shared memory",
            "must be less than max_connections",
            "could not create any tcp/ip sockets",
        ],
    ),
    (
        "corruption",
        &[
            "corrupt",
            "invalid page in block",
            "could not locate a valid checkpoint record",
            "invalid primary checkpoint record",
            "could not read block",
            "page verification failed",
            "incorrect checksum in control file",
            "calculated crc checksum does not match",
            "invalid magic number",
            "could not access status of transaction",
            "missing chunk number",
            "could not find the database system",
            "could not open file \"base/",
            "could not open file \"global/",
            "could not open file \"pg_",
            "could not read file \"global/pg_control\"",
            "unexpected data beyond eof",
            "found xmin",
            "is not a valid postgresql",
            "xlog flush request",
        ],
    ),
    ("wal_missing", &["requested wal segment", "could not find a valid record after"]),
    ("panic", &["panic:  "]),
    (
        "crash",
        &[
            "was terminated by signal",
            "terminating any other active server processes",
            "terminated abnormally",
        ],
    ),
    ("out_of_memory", &["out of memory", "cannot allocate memory"]),
    ("role_unknown", &["detail:  role \"", "fatal:  role \""]),
    ("auth_failed", &["authentication failed for user"]),
    ("no_hba_entry", &["no pg_hba.conf entry"]),
    ("database_unknown", &["fatal:  database \""]),
    (
        "too_many_connections",
        &["too many clients already", "remaining connection slots are reserved", "too many connections for"],
    ),
    (
        "recovery",
        &["was not properly shut down; automatic recovery in progress", "was interrupted; last known up"],
    ),
    ("deadlock", &["deadlock detected"]),
    ("lock_timeout", &["canceling statement due to lock timeout"]),
];

/// Finds signs.
pub(in crate::operations) async fn log_signs(
    request: PostgresLogSignsRequest,
    cx: &Context,
) -> Result<PostgresLogSignsResult, Fault> {
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Ok(PostgresLogSignsResult::default());
    };
    let Some(container) = &server.container else {
        return Ok(PostgresLogSignsResult { service: server.service, ..Default::default() });
    };
    let wanted = if request.lines == 0 { LINES } else { request.lines };
    let (tail, error) = cx.host.docker().logs(&container.id, wanted, 0, BYTES, cx.deadline).await;
    if let Some(error) = error {
        return Err(error.into());
    }
    let (mut lines, mut truncated, mut source) = (tail.lines, tail.truncated, "container");
    let count = usize::try_from(wanted).unwrap_or(usize::MAX);
    if let Some((file, cut)) = collected(container, count) {
        source = if lines.is_empty() { "file" } else { "both" };
        truncated |= cut;
        lines.extend(file);
    }
    truncated |= lines.len() >= count;
    // The engine merges two streams line by line; a start writes into both.
    if lines.iter().filter(|line| time_of(line).is_some()).count() * 2 > lines.len() {
        in_order(&mut lines);
    }
    let mut result = read(&lines);
    for sign in &mut result.signs {
        sign.line = text::text_up_to(&cx.host, &sign.line, 500);
    }
    result.last_fatal = text::lines(&cx.host, &result.last_fatal);
    Ok(PostgresLogSignsResult { service: server.service, source: source.to_owned(), truncated, ..result })
}

/// The newest file that the server's own collector writes, where it writes one.
fn collected(container: &ServerContainer, count: usize) -> Option<(Vec<String>, bool)> {
    let folder = match container.configured("log_directory") {
        Some(folder) if folder.starts_with('/') => return None,
        Some(folder) => container.data_source.as_ref()?.join(folder),
        None => container.data_source.as_ref()?.join("log"),
    };
    let files = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((about.modified().ok()?, entry.path()))
    });
    let (_, newest): (_, PathBuf) =
        files.filter(|(_, path)| path.extension().is_some_and(|end| end == "log")).max()?;
    let mut file = fs::File::open(newest).ok()?;
    let size = file.metadata().ok()?.len();
    let from = size.saturating_sub(BYTES as u64);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut text = Vec::new();
    file.take(BYTES as u64).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines: VecDeque<String> = text.lines().map(ToOwned::to_owned).collect();
    let cut = from > 0 || lines.len() > count;
    while lines.len() > count {
        lines.pop_front();
    }
    Some((lines.into(), cut))
}

/// By time, each line without one staying behind the line before it.
fn in_order(lines: &mut Vec<String>) {
    let mut at = 0;
    let mut timed: Vec<(i64, String)> = std::mem::take(lines)
        .into_iter()
        .map(|line| {
            at = time_of(&line).unwrap_or(at);
            (at, line)
        })
        .collect();
    timed.sort_by_key(|(at, _)| *at);
    lines.extend(timed.into_iter().map(|(_, line)| line));
}

/// What a line says of the server's own life.
enum Life {
    Starts,
    Ready,
    Ends,
}

fn life(line: &str) -> Option<Life> {
    if line.contains("database system is ready to accept") {
        Some(Life::Ready)
    } else if line.contains("LOG:  starting PostgreSQL") {
        Some(Life::Starts)
    } else if line.contains("database system is shut down") || line.contains("aborting startup due to") {
        Some(Life::Ends)
    } else {
        None
    }
}

fn sign_of(line: &str) -> Option<&'static str> {
    let lower = line.to_ascii_lowercase();
    // What a client asked for is quoted behind these, and may say anything.
    if ["statement:  ", "context:  ", "query:  ", "hint:  "].iter().any(|quoted| lower.contains(quoted)) {
        return None;
    }
    // The severities at which a server says what is wrong with it; a client's own mistake is an ERROR.
    let severe = ["fatal:  ", "panic:  ", "log:  ", "detail:  ", "warning:  ", "error:  "]
        .iter()
        .any(|level| lower.contains(level))
        || lower.starts_with("postgres: ");
    if !severe {
        return None;
    }
    SIGNS.iter().find(|(_, parts)| parts.iter().any(|part| lower.contains(part))).map(|(sign, _)| *sign)
}

/// The signs, as the lines have them: nothing is redacted yet.
fn read(lines: &[String]) -> PostgresLogSignsResult {
    let mut result = PostgresLogSignsResult {
        present: true,
        lines: u32::try_from(lines.len()).unwrap_or(u32::MAX),
        ..PostgresLogSignsResult::default()
    };
    let mut fatal: VecDeque<&String> = VecDeque::new();
    for line in lines {
        let at = time_of(line).unwrap_or_default();
        match life(line) {
            Some(Life::Ready) => {
                (result.ready, result.ready_at_ms) = (true, at);
                result.signs.iter_mut().for_each(|sign| sign.current = false);
            }
            Some(Life::Starts) => (result.ready, result.starts) = (false, result.starts + 1),
            Some(Life::Ends) => result.ready = false,
            None => {}
        }
        if line.contains("PANIC:  ") || line.contains("FATAL:  ") {
            fatal.push_back(line);
            if fatal.len() > FATAL {
                fatal.pop_front();
            }
        }
        // A PANIC is one whatever its words are, and its words are a sign of their own.
        let panic = line.contains("PANIC:  ").then_some("panic");
        for found in sign_of(line).into_iter().chain(panic.filter(|_| sign_of(line) != Some("panic"))) {
            count(&mut result.signs, found, at, line);
        }
    }
    result.last_fatal = fatal.into_iter().cloned().collect();
    result
}

fn count(signs: &mut Vec<PostgresLogSign>, name: &str, at: i64, line: &str) {
    let at_sign = signs.iter().position(|sign| sign.sign == name).unwrap_or_else(|| {
        signs.push(PostgresLogSign { sign: name.to_owned(), first_at_ms: at, ..PostgresLogSign::default() });
        signs.len() - 1
    });
    let sign = &mut signs[at_sign];
    sign.count += 1;
    sign.last_at_ms = at.max(sign.last_at_ms);
    line.clone_into(&mut sign.line);
    sign.current = true;
}

/// The time at a line's beginning, `2026-11-25 02:33:10.742 UTC`: PostgreSQL's default prefix. Of other zones than UTC
/// nobody can tell how far they are off.
fn time_of(line: &str) -> Option<i64> {
    let stamp = line.get(..23)?;
    let zone = line.get(23..)?.trim_start();
    if !(zone.starts_with("UTC") || zone.starts_with("GMT")) {
        return None;
    }
    let time = chrono::NaiveDateTime::parse_from_str(stamp, "%Y-%m-%d %H:%M:%S%.3f").ok()?;
    Some(time.and_utc().timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from PostgreSQL 15.20 in a container whose write-ahead log was zeroed.
    const PANIC: &str = include_str!("fixtures/log-panic.txt");
    /// The same after a start with a setting that it does not take.
    const CONFIG: &str = include_str!("fixtures/log-config.txt");
    /// A page of a table was damaged on disk while the server was stopped.
    const PAGE: &str = include_str!("fixtures/log-page.txt");

    fn of(log: &str) -> PostgresLogSignsResult {
        let mut lines: Vec<String> = log.lines().map(ToOwned::to_owned).collect();
        in_order(&mut lines);
        read(&lines)
    }

    fn current(found: &PostgresLogSignsResult) -> Vec<&str> {
        found.signs.iter().filter(|sign| sign.current).map(|sign| sign.sign.as_str()).collect()
    }

    #[test]
    fn a_panic_at_every_start() {
        let found = of(PANIC);
        let current = current(&found);
        assert!(current.contains(&"panic") && current.contains(&"corruption") && !found.ready, "{found:?}");
        let panic = found.signs.iter().find(|sign| sign.sign == "panic").unwrap();
        assert!(
            panic.count >= 2 && panic.first_at_ms > 0 && panic.last_at_ms > panic.first_at_ms,
            "{panic:?}"
        );
        assert!(panic.line.contains("could not locate a valid checkpoint record"));
        assert!(found.last_fatal.iter().any(|line| line.contains("PANIC:  ")));
    }

    #[test]
    fn a_configuration_that_does_not_hold() {
        let found = of(CONFIG);
        assert_eq!(current(&found), ["config_error"], "{found:?}");
        assert!(!found.ready);
    }

    #[test]
    fn a_damaged_page_while_all_else_is_well() {
        let found = of(PAGE);
        assert_eq!(current(&found), ["corruption"], "{found:?}");
        assert!(found.ready && found.starts == 1);
        // A start makes it history, and not well.
        let again = format!(
            "{PAGE}2026-11-25 03:20:05.001 UTC [1] LOG:  database system is ready to accept connections\n"
        );
        let found = of(&again);
        assert!(current(&found).is_empty() && found.signs.iter().any(|sign| sign.sign == "corruption"));
    }

    #[test]
    fn what_a_client_says_is_no_sign() {
        for line in [
            "2026-11-25 03:14:10.268 UTC [32] STATEMENT:  INSERT INTO t VALUES ('PANIC:  corrupt')",
            "2026-11-25 03:14:10.268 UTC [32] ERROR:  relation \"x\" does not exist at character 15",
            "\tConnection matched pg_hba.conf line 100: \"host all all all scram-sha-256\"",
        ] {
            assert_eq!(sign_of(line), None, "{line}");
        }
        for (line, sign) in [
            (
                "2026-11-25 03:14:10.268 UTC [32] PANIC:  could not write to file \"pg_wal/xlogtemp.53\": No space left on device",
                "disk_full",
            ),
            ("2026-11-25 03:14:10.268 UTC [32] DETAIL:  Role \"nobody\" does not exist.", "role_unknown"),
            (
                "2026-11-25 03:14:10.268 UTC [32] FATAL:  sorry, too many clients already",
                "too_many_connections",
            ),
            (
                "2026-11-25 03:14:10.268 UTC [1] LOG:  server process (PID 88) was terminated by signal 9: Killed",
                "crash",
            ),
            (
                "2026-11-25 03:14:10.268 UTC [1] FATAL:  database files are incompatible with server",
                "version_mismatch",
            ),
        ] {
            assert_eq!(sign_of(line), Some(sign), "{line}");
        }
    }
}
