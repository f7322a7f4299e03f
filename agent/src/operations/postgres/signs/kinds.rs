//! Which lines are signs of what. The words are those of PostgreSQL's sources, in English: `lc_messages` of the official
//! image is.

use super::line::{Level, Line, without_quoted};

/// What the lines of a kind have in common.
struct Kind {
    sign: &'static str,
    levels: &'static [Level],
    /// In lower case. `^` stands for the message's beginning, before anything is taken out of it; `$` for its end. Whatever
    /// stands elsewhere is looked for in what is left without quotes.
    words: &'static [&'static str],
}

use Level::{Detail, Error, Fatal, Log, Panic, Raw, Warning};

/// The first that fits counts.
const KINDS: [Kind; 18] = [
    Kind {
        sign: "disk_full",
        levels: &[Log, Warning, Error, Fatal, Panic, Detail, Raw],
        words: &["no space left on device$", "disk quota exceeded$"],
    },
    // The folder of one database, while the server runs.
    Kind { sign: "corruption", levels: &[Fatal], words: &["^\"base/"] },
    Kind {
        sign: "data_directory",
        levels: &[Fatal, Log, Raw],
        words: &[
            "^data directory \"",
            "is not a valid data directory",
            "^lock file \"postmaster.pid\" already exists",
            "^could not open directory \"pg_",
        ],
    },
    Kind {
        sign: "version_mismatch",
        levels: &[Fatal, Detail],
        words: &[
            "^database files are incompatible with server",
            "^the data directory was initialized by postgresql version",
        ],
    },
    Kind {
        sign: "config_error",
        // What a client sets wrongly is an ERROR.
        levels: &[Log, Fatal, Raw],
        words: &[
            "contains errors",
            "^unrecognized configuration parameter",
            "^invalid value for parameter",
            "is outside the valid range for parameter",
            "^could not load pg_hba.conf",
            "^could not load /",
            "syntax error in file",
            "^could not access file \"",
            "^could not map anonymous shared memory",
            "must be less than max_connections",
            "^could not create any tcp/ip sockets",
        ],
    },
    Kind {
        sign: "corruption",
        levels: &[Log, Warning, Error, Fatal, Panic, Raw],
        words: &[
            // Pages and files of tables.
            "^invalid page in block ",
            "^page verification failed",
            "^could not read block ",
            "^could not read blocks ",
            "^unexpected data beyond eof in block ",
            "^could not open file \"base/",
            "^could not open file \"global/",
            "^could not open file \"pg_tblspc/",
            "^could not read file \"base/",
            "^could not read file \"global/",
            // Rows and indexes.
            "^missing chunk number ",
            "^unexpected chunk number ",
            "^unexpected chunk size ",
            "^corrupted page pointers",
            "^corrupted item pointer",
            "^corrupted line pointer",
            "^corrupted item lengths",
            "^compressed data is corrupt",
            "^compressed pglz data is corrupt",
            "^compressed lz4 data is corrupt",
            "^found xmin ",
            "^found xmax ",
            "^found update xid ",
            "^found multixact ",
            "^index \"\" contains ",
            "^index \"\" is not a btree",
            "^right sibling's left-link does not match",
            "^left link changed unexpectedly",
            "^failed to re-find parent key in index",
            "^could not find left sibling of block ",
            "^xlog flush request ",
            "^catalog is missing ",
            "^pg_attribute catalog is missing ",
            // What tells which transactions have committed.
            "^could not access status of transaction ",
            "^could not open file \"pg_xact/",
            "^could not open file \"pg_multixact/",
            "^could not read file \"pg_xact/",
            // Where the server begins.
            "^incorrect checksum in control file",
            "^calculated crc checksum does not match",
            "^relation mapping file \"\" contains ",
            "^invalid primary checkpoint record",
            "^invalid checkpoint record",
            "^could not locate a valid checkpoint record",
            "^could not locate required checkpoint record",
            "^could not find the database system",
            "^checksum verification failed in file ",
        ],
    },
    Kind {
        sign: "wal_missing",
        levels: &[Log, Error, Fatal],
        words: &["requested wal segment ", "^could not find a valid record after"],
    },
    Kind {
        sign: "crash",
        levels: &[Log],
        words: &[
            "was terminated by signal ",
            "^terminating any other active server processes",
            "terminated abnormally",
        ],
    },
    Kind {
        sign: "out_of_memory",
        levels: &[Log, Error, Fatal, Panic, Raw],
        words: &["^out of memory", "cannot allocate memory$"],
    },
    Kind { sign: "role_unknown", levels: &[Fatal, Detail], words: &["^role \""] },
    Kind { sign: "auth_failed", levels: &[Fatal], words: &["authentication failed for user"] },
    Kind {
        sign: "no_hba_entry",
        levels: &[Fatal],
        words: &["^no pg_hba.conf entry", "^pg_hba.conf rejects connection"],
    },
    Kind { sign: "database_unknown", levels: &[Fatal], words: &["^database \""] },
    Kind {
        sign: "too_many_connections",
        levels: &[Fatal],
        words: &[
            "too many clients already",
            "remaining connection slots are reserved",
            "^too many connections for",
        ],
    },
    Kind {
        sign: "recovery",
        levels: &[Log],
        words: &[
            "was not properly shut down; automatic recovery in progress",
            "^database system was interrupted; last known up",
        ],
    },
    Kind { sign: "deadlock", levels: &[Error], words: &["^deadlock detected"] },
    Kind { sign: "lock_timeout", levels: &[Error], words: &["^canceling statement due to lock timeout"] },
    Kind { sign: "os_refused", levels: &[Panic, Fatal], words: &REFUSED_AT_END },
];

/// What the operating system says when it does not let a server at its files, which are whole.
const REFUSED: [&str; 8] = [
    "permission denied",
    "operation not permitted",
    "too many open files",
    "too many open files in system",
    "read-only file system",
    "no space left on device",
    "disk quota exceeded",
    "cannot allocate memory",
];
const REFUSED_AT_END: [&str; 4] =
    ["permission denied$", "operation not permitted$", "too many open files$", "read-only file system$"];

/// What the line that begins an entry is a sign of. `rest` are the entry's other lines and what stands right behind it.
pub(super) fn signs_of(line: &Line<'_>, rest: &[&str]) -> Vec<&'static str> {
    // What a function raises is its author's own, at any severity up to ERROR.
    if rest.iter().any(|line| raised(line)) {
        return Vec::new();
    }
    let (raw, plain) = plain(line.message);
    // `pg_read_file` says it of a file that a client named.
    let damage_is_in_doubt = line.doubtful
        || refused(&plain)
        || plain.starts_with("could not open file \"\" for reading")
        || rest.iter().any(|line| refused(&self::plain(line).1));
    let kind = KINDS.iter().find(|kind| {
        kind.levels.contains(&line.level)
            && !(kind.sign == "corruption" && damage_is_in_doubt)
            && kind.words.iter().any(|words| fits(words, &raw, &plain))
    });
    let mut signs: Vec<&'static str> = kind.map(|kind| kind.sign).into_iter().collect();
    // A PANIC is one whatever its words are, unless they are the operating system's, and its words are a sign of their own.
    if line.level == Panic && !line.doubtful && !signs.contains(&"os_refused") {
        signs.push("panic");
    }
    signs
}

/// What a line that belongs to an entry is a sign of by itself.
pub(super) fn signs_of_part(line: &Line<'_>) -> Option<&'static str> {
    let (raw, plain) = plain(line.message);
    let fit = |kind: &&Kind| {
        kind.levels.contains(&line.level) && kind.words.iter().any(|words| fits(words, &raw, &plain))
    };
    KINDS.iter().find(fit).map(|kind| kind.sign)
}

/// A message in lower case, and the same without what its quotes hold. An end in a full stop is a sentence's.
fn plain(message: &str) -> (String, String) {
    let lower = message.trim_end().trim_end_matches('.').to_ascii_lowercase();
    let plain = without_quoted(&lower);
    (lower, plain)
}

fn fits(words: &str, raw: &str, plain: &str) -> bool {
    if let Some(begin) = words.strip_prefix('^') {
        raw.starts_with(begin) || plain.starts_with(begin)
    } else if let Some(end) = words.strip_suffix('$') {
        plain.ends_with(end)
    } else {
        plain.contains(words)
    }
}

fn refused(plain: &str) -> bool {
    REFUSED.iter().any(|words| plain.ends_with(words))
}

/// `CONTEXT:  PL/pgSQL function f() line 3 at RAISE`
fn raised(line: &str) -> bool {
    Line::of(line).is_some_and(|line| line.level == Level::Context && line.message.contains(" at RAISE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<&'static str> {
        let lines: Vec<&str> = text.lines().collect();
        let first = Line::of(lines[0]).unwrap();
        if first.level.begins() {
            signs_of(&first, &lines[1..])
        } else {
            signs_of_part(&first).into_iter().collect()
        }
    }

    #[test]
    fn what_a_client_says_is_no_sign() {
        for line in [
            "[32] STATEMENT:  INSERT INTO t VALUES ('PANIC:  corrupt')",
            "[32] ERROR:  relation \"x\" does not exist at character 15",
            "[32] ERROR:  relation \"corrupt_docs\" does not exist at character 15",
            "[32] ERROR:  column t.invalid page in block 3 does not exist",
            "[32] ERROR:  duplicate key value violates unique constraint \"corrupt\"",
            "[32] DETAIL:  Key (status)=(corrupt) already exists.",
            "[32] DETAIL:  Key (status)=(a: No space left on device) already exists.",
            "[32] ERROR:  invalid input syntax for type integer: \"PANIC:  x\"",
            "[32] ERROR:  invalid input syntax for type integer: \"x\" PANIC:  invalid page in block 3\"",
            "[32] ERROR:  PANIC:  invalid page in block 3",
            "[32] ERROR:  unrecognized configuration parameter \"corrupt\"",
            "[32] ERROR:  invalid page in block 3 of relation base/1/2\n\
             [32] CONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE",
            "[32] LOG:  invalid magic number 0000 in log segment 000000010000000000000005, offset 0",
            "[32] ERROR:  \"base/1\" is not a view",
            "[32] ERROR:  could not open file \"base/1/2\" for reading: No such file or directory",
            "[32] FATAL:  canceling authentication due to timeout",
        ] {
            assert_eq!(of(&format!("2026-11-25 03:14:10.268 UTC {line}")), Vec::<&str>::new(), "{line}");
        }
    }

    #[test]
    fn what_the_server_says() {
        for (line, signs) in [
            (
                "PANIC:  could not write to file \"pg_wal/xlogtemp.53\": No space left on device",
                &["disk_full", "panic"] as &[_],
            ),
            ("DETAIL:  Role \"nobody\" does not exist.", &["role_unknown"]),
            ("FATAL:  sorry, too many clients already", &["too_many_connections"]),
            ("LOG:  server process (PID 88) was terminated by signal 9: Killed", &["crash"]),
            ("FATAL:  database files are incompatible with server", &["version_mismatch"]),
            ("ERROR:  invalid page in block 3 of relation base/16384/33015", &["corruption"]),
            ("ERROR:  index \"docs_pkey\" contains unexpected zero page at block 0", &["corruption"]),
            ("ERROR:  could not open file \"base/16384/33015\": No such file or directory", &["corruption"]),
            (
                "ERROR:  could not open file \"base/16384/33015.1\" (target block 131072): previous segment is only 3 blocks",
                &["corruption"],
            ),
            (
                "ERROR:  could not access status of transaction 700\n\
                 DETAIL:  Could not open file \"pg_xact/0000\": No such file or directory.",
                &["corruption"],
            ),
            ("ERROR:  could not read block 3 in file \"base/1/2\": Input/output error", &["corruption"]),
            ("PANIC:  WAL contains references to invalid pages", &["panic"]),
            (
                "FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000005 has already been removed",
                &["wal_missing"],
            ),
            ("LOG:  could not fork new process for connection: Cannot allocate memory", &["out_of_memory"]),
        ] {
            let line: String =
                line.lines().map(|line| format!("2026-11-25 03:14:10.268 UTC [32] {line}\n")).collect();
            assert_eq!(of(&line), signs, "{line}");
        }
        assert_eq!(of("postgres: could not find the database system"), ["corruption"]);
    }

    #[test]
    fn what_the_operating_system_refuses_is_no_damage() {
        for (line, signs) in [
            ("ERROR:  could not open file \"base/1/2\": Permission denied", &[] as &[&str]),
            ("ERROR:  could not open file \"pg_xact/0000\": Too many open files", &[]),
            ("LOG:  could not open file \"base/1/2\": Too many open files in system", &[]),
            ("FATAL:  could not open file \"global/1262\": Read-only file system", &["os_refused"]),
            ("PANIC:  could not open file \"global/pg_control\": Permission denied", &["os_refused"]),
            ("ERROR:  could not extend file \"base/1/2\": No space left on device", &["disk_full"]),
            (
                "ERROR:  could not access status of transaction 700\n\
                 DETAIL:  Could not open file \"pg_xact/0000\": Permission denied.",
                &[],
            ),
        ] {
            let line: String =
                line.lines().map(|line| format!("2026-11-25 03:14:10.268 UTC [32] {line}\n")).collect();
            assert_eq!(of(&line), signs, "{line}");
        }
    }

    #[test]
    fn a_client_that_names_itself_like_a_severity_says_nothing() {
        let line = "2026-11-25 03:14:10.268 UTC [32] app@PANIC:  corrupt LOG:  checkpoint starting";
        assert_eq!(of(line), Vec::<&str>::new());
        let line = "2026-11-25 03:14:10.268 UTC [32] x ERROR:  invalid page in block 3 ERROR:  nothing";
        assert_eq!(of(line), Vec::<&str>::new());
    }
}
