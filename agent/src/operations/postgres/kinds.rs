//! What a session is for, and what its statement looks like without the data in it.
//!
//! A session that must not be interrupted is told by what the server says it is, by its application's name, by its
//! statements and by the locks that it holds; each of the four is enough.

use sha2::{Digest as _, Sha256};

use super::statement::{self, after_quote, dollars};

/// Parts of the names under which tools of each kind connect.
const MIGRATIONS: [&str; 14] = [
    "migrat",
    "prisma",
    "drizzle",
    "flyway",
    "liquibase",
    "alembic",
    "knex",
    "typeorm",
    "sequelize",
    "goose",
    "dbmate",
    "sqitch",
    "golang-migrate",
    "phinx",
];
const BACKUPS: [&str; 9] = [
    "pg_dump",
    "pg_basebackup",
    "pgbackrest",
    "barman",
    "wal-g",
    "wal_g",
    "backup",
    "pg_receivewal",
    "pg_rman",
];
const RESTORES: [&str; 2] = ["pg_restore", "restore"];

/// What a session says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traits<'a> {
    /// `pg_stat_activity.backend_type`.
    pub backend_type: &'a str,
    pub application: &'a str,
    /// The last statement.
    pub query: &'a str,
    /// False for a session that idles outside of a transaction: its last statement is history then.
    pub in_transaction: bool,
    /// It holds an advisory lock, as migration tools do to be alone.
    pub advisory: bool,
    /// It holds a lock on a table or index of a user's that no reading and no writing of rows takes: ACCESS EXCLUSIVE, SHARE
    /// ROW EXCLUSIVE (a foreign key, a trigger) or SHARE UPDATE EXCLUSIVE.
    pub strong_lock: bool,
}

/// client, migration, vacuum, index_build, backup, restore, replication, own, server.
pub(super) fn of(traits: Traits<'_>) -> &'static str {
    let application = traits.application.to_ascii_lowercase();
    let named = |names: &[&str]| names.iter().any(|name| application.contains(name));
    match traits.backend_type {
        "walsender" | "walreceiver" => return "replication",
        // They wait for work, and are always there.
        kind if kind.ends_with("launcher") => return "server",
        kind if kind.starts_with("logical replication") => return "replication",
        kind if kind.starts_with("autovacuum") => return "vacuum",
        // Before PostgreSQL 10 nobody says; a parallel worker works for its leader.
        "client backend" | "" => {}
        _ => return "server",
    }
    if traits.application == crate::host::postgres::APPLICATION {
        return "own";
    }
    if named(&BACKUPS) {
        return "backup";
    }
    if named(&RESTORES) {
        return "restore";
    }
    if named(&MIGRATIONS) || traits.advisory {
        return "migration";
    }
    if !traits.in_transaction {
        return "client";
    }
    // What only changes of the schema hold tells a migration between two of its statements too; whoever takes such a lock
    // by name does nothing with it that could be left half done.
    statement::purpose(traits.query).unwrap_or(
        if traits.strong_lock && !statement::only_locks(traits.query) { "migration" } else { "client" },
    )
}

/// Why a session of this kind is left alone; `None` for one that may be ended.
pub(super) fn spared(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "client" => return None,
        "migration" => "a migration must not be cut in the middle",
        "vacuum" => "the server's own upkeep: ended, it begins again",
        "index_build" => "an index build that is ended has to begin again",
        "backup" => "a backup that is ended is none",
        "restore" => "a restore that is ended leaves half a database",
        "replication" => "a standby or a copy would fall behind",
        "own" => "this agent's own session",
        _ => "one of the server's own processes",
    })
}

/// By what a statement is known again.
pub(super) fn digest(query: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(query.as_bytes())[..8])
}

/// A statement with `?` in the place of its constants, blanks run together: what people wrote stays in the database.
pub(super) fn without_constants(query: &str) -> String {
    let (mut plain, mut rest) = (String::new(), query.trim());
    while let Some(first) = rest.chars().next() {
        let before = plain.chars().last();
        let in_word = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
        if first == '\'' {
            let escapes = matches!(before, Some('E' | 'e'))
                && !plain.chars().rev().nth(1).is_some_and(|c| c.is_alphanumeric() || c == '_');
            plain.push('?');
            rest = after_quote(&rest[1..], escapes);
        } else if first == '"' {
            // A name.
            let end = rest[1..].find('"').map_or(rest.len(), |at| at + 2);
            plain.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if first == '$'
            && !in_word
            && let Some((_, after)) = dollars(rest)
        {
            plain.push('?');
            rest = after;
        } else if first.is_ascii_digit() && !in_word {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
            plain.push('?');
            rest = &rest[end..];
        } else if first.is_whitespace() {
            plain.push(' ');
            rest = rest.trim_start();
        } else {
            plain.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds() {
        let working = |application, query| {
            of(Traits {
                backend_type: "client backend",
                application,
                query,
                in_transaction: true,
                ..Traits::default()
            })
        };
        assert_eq!(working("sylion-backend", "SELECT 1"), "client");
        assert_eq!(working("", "/* a */ -- b\n create  unique index concurrently i on t (a)"), "index_build");
        assert_eq!(working("psql", "REINDEX TABLE t"), "index_build");
        assert_eq!(working("psql", "ALTER TABLE t ADD c int"), "migration");
        assert_eq!(working("prisma-engine", "SELECT 1"), "migration");
        assert_eq!(working("pg_dump", "SELECT 1"), "backup");
        assert_eq!(working("psql", "COPY public.t (a) TO stdout;"), "backup");
        assert_eq!(working("psql", "COPY public.t (a) FROM stdin;"), "restore");
        assert_eq!(working("psql", "VACUUM FULL t"), "vacuum");
        assert_eq!(working("vigie", "SELECT 1"), "own");
        let server = |backend_type| of(Traits { backend_type, ..Traits::default() });
        assert_eq!(server("autovacuum worker"), "vacuum");
        assert_eq!(server("autovacuum launcher"), "server");
        assert_eq!(server("walsender"), "replication");
        assert_eq!(server("checkpointer"), "server");
        // What an idle session did last is over; that it keeps others out is not.
        let idle =
            Traits { backend_type: "client backend", query: "ALTER TABLE t ADD c int", ..Traits::default() };
        assert_eq!(of(idle), "client");
        assert_eq!(of(Traits { advisory: true, ..idle }), "migration");
        // `psql -f` between two statements, and somebody who locked a table and went away.
        let between = Traits { query: "SELECT 1", in_transaction: true, strong_lock: true, ..idle };
        assert_eq!(of(between), "migration");
        assert_eq!(of(Traits { strong_lock: false, ..between }), "client");
        assert_eq!(of(Traits { query: "LOCK TABLE t IN ACCESS EXCLUSIVE MODE", ..between }), "client");
        assert!(spared("client").is_none());
        assert!(
            ["migration", "vacuum", "index_build", "backup", "restore", "replication", "own", "server"]
                .iter()
                .all(|kind| spared(kind).is_some())
        );
    }

    #[test]
    fn constants_do_not_leave() {
        for (query, expected) in [
            (
                "SELECT  *\n FROM t WHERE mail = 'a''b@c.fr' AND n = 42",
                "SELECT * FROM t WHERE mail = ? AND n = ?",
            ),
            (r"SELECT E'it\'s', t1.a2, $1 FROM t1", "SELECT E?, t1.a2, $1 FROM t1"),
            ("SELECT $$secret$$, $x$ 'more' $x$, 1.5e3", "SELECT ?, ?, ?"),
            ("SELECT 'cut in the mid", "SELECT ?"),
            (r#"SELECT "a 1" FROM "T2""#, r#"SELECT "a 1" FROM "T2""#),
            ("INSERT INTO t VALUES ('é', -3)", "INSERT INTO t VALUES (?, -?)"),
        ] {
            assert_eq!(without_constants(query), expected);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_string_is_left(text in "[a-zA-Z0-9'\"$\\\\ é_;(),=-]{0,60}") {
            without_constants(&text);
            digest(&text);
            let query = format!("SELECT 'needle{}' FROM t", text.replace('\'', ""));
            prop_assert!(!without_constants(&query).contains("needle"));
        }
    }
}
