//! Migrations of a stack's PostgreSQL: linted, rehearsed twice in a copy, applied once after a backup.
//!
//! A migration is a file of the stack's directory and nothing else. It is sent to the server as SQL, without psql: a
//! file cannot make psql run programs. What may be applied is bound to the file's digest: the one that was rehearsed.

mod apply;
mod lint;
mod locks;
mod rehearse;
mod snapshot;
mod statements;
mod syntax;
mod tables;

use std::{fs, io, path::PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use vigie_proto::v1::{
    MigrationIssue, MigrationLintRequest, MigrationLintResult, MigrationRehearsed, MigrationRun,
};

use super::{
    Context, Fault,
    backup::{
        folder::{self, Folder},
        ledger::Ledger,
    },
    text,
};
use crate::host::{postgres::Refusal, stacks::KnownStack};
use lint::Linted;

pub(super) use apply::apply;
pub(super) use rehearse::rehearse;
pub(super) use tables::check as table_check;

/// A migration larger than this is data, and belongs into a restore.
const LARGEST: u64 = 8 * 1024 * 1024;

/// Remarks beyond these tell nobody more.
const REMARKS: usize = 100;

/// A migration as it stands.
struct Migration {
    sql: String,
    digest: String,
    size: u64,
    modified_at_ms: i64,
}

impl Migration {
    /// Reads a file of the stack's directory; `None` when it is not there.
    fn read(stack: &KnownStack, file: &str) -> Result<Option<Self>, Fault> {
        let path = stack.directory.join(file);
        let outside = || {
            Fault::refused(
                "path_forbidden",
                format!("{file} is not within the stack's directory {}", stack.directory.display()),
            )
            .hint("a migration is a file of the stack: name it relative to its directory")
        };
        let unreadable = |error: io::Error| {
            Fault::failed("file_unreadable", format!("{} cannot be read: {error}", path.display()))
        };
        if PathBuf::from(file).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(outside());
        }
        // A link inside may lead out.
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let within = stack.directory.canonicalize().is_ok_and(|directory| real.starts_with(directory));
        if !within {
            return Err(outside());
        }
        let meta = fs::metadata(&real).map_err(unreadable)?;
        if !meta.is_file()
            || meta.len() > LARGEST
            || real.extension().is_none_or(|extension| extension != "sql")
        {
            return Err(Fault::refused(
                "path_invalid",
                format!("{file} is no .sql file of at most {} MiB", LARGEST >> 20),
            ));
        }
        let bytes = fs::read(&real).map_err(unreadable)?;
        let digest = HEXLOWER.encode(&Sha256::digest(&bytes));
        let sql = String::from_utf8(bytes)
            .map_err(|_| Fault::refused("path_invalid", format!("{file} is not UTF-8")))?;
        let sql = sql.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(sql);
        Ok(Some(Self {
            sql,
            digest,
            size: meta.len(),
            modified_at_ms: folder::identity(&meta).modified_ns / 1_000_000,
        }))
    }

    /// Reads a file that has to be there and to be SQL alone.
    fn runnable(stack: &KnownStack, file: &str) -> Result<(Self, Linted), Fault> {
        let migration = Self::read(stack, file)?.ok_or_else(|| {
            Fault::refused(
                "migration_missing",
                format!("there is no {file} in {}", stack.directory.display()),
            )
            .hint(
                "name it relative to the stack's directory, such as drizzle/0003_add_plans_and_knowledge.sql",
            )
        })?;
        let linted = migration.lint(file)?;
        if linted.psql {
            return Err(Fault::refused(
                "migration_needs_psql",
                format!("{file} holds lines that only psql understands"),
            )
            .hint(format!("`vigiectl probe migration_lint --file {file}` names them")));
        }
        Ok((migration, linted))
    }

    fn lint(&self, file: &str) -> Result<Linted, Fault> {
        lint::lint(&self.sql).map_err(|error| {
            Fault::failed(
                "migration_unreadable",
                format!("{file} cannot be taken apart at line {}: {}", error.line, error.message),
            )
            .hint("a quote or a comment is not closed")
        })
    }
}

/// Tells whether a migration can be run twice.
pub(super) async fn lint_file(
    request: MigrationLintRequest,
    cx: &Context,
) -> Result<MigrationLintResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let mut result = MigrationLintResult {
        stack: stack.name.clone(),
        file: request.file.clone(),
        ..MigrationLintResult::default()
    };
    let Some(migration) = Migration::read(&stack, &request.file)? else { return Ok(result) };
    result.present = true;
    result.digest.clone_from(&migration.digest);
    result.size_bytes = migration.size;
    result.modified_at_ms = migration.modified_at_ms;
    let linted = lint::lint(&migration.sql);
    let asked = match &linted {
        // What is for psql alone is no SQL: the lint says so, and the server would say nothing else.
        Ok(linted) if linted.psql => None,
        _ => syntax::ask(&migration.sql, &stack, cx).await,
    };
    result.syntax_asked = asked.is_some();
    let wrong = match (&asked, &linted) {
        (Some(Err(wrong)), _) => Some(wrong.clone()),
        (None, Err(open)) => {
            Some(syntax::Wrong { line: open.line, column: open.column, message: open.message.clone() })
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        (result.syntax_line, result.syntax_column) = (wrong.line, wrong.column);
        result.syntax_error = text::text_up_to(&cx.host, &wrong.message, 300);
    }
    remembered(&mut result, &Ledger::read(Folder::of(cx, &stack).state()));
    match linted {
        Ok(linted) => told(&mut result, linted),
        // The server reads what this lint does not.
        Err(open) => result.dangers.push(MigrationIssue {
            line: open.line,
            rule: "not_understood".to_owned(),
            remedy: format!(
                "it cannot be taken apart here ({}): the rehearsal shows what it does",
                open.message
            ),
            ..MigrationIssue::default()
        }),
    }
    Ok(result)
}

fn told(result: &mut MigrationLintResult, linted: Linted) {
    result.statements = linted.statements;
    result.idempotent = linted.understood && linted.violations.is_empty() && result.syntax_error.is_empty();
    result.own_transaction = linted.own_transaction;
    result.psql = linted.psql;
    result.violations = linted.violations.into_iter().take(REMARKS).collect();
    result.dangers = linted.dangers.into_iter().take(REMARKS).collect();
    result.tables = linted.created.tables;
    result.indexes = linted.created.indexes;
}

/// What became of this migration before.
fn remembered(result: &mut MigrationLintResult, ledger: &Ledger) {
    if let Some(own) = ledger.rehearsal(&result.stack, &result.digest) {
        result.rehearsal = Some(MigrationRehearsed {
            outcome: own.outcome.clone(),
            at_ms: own.at_ms,
            age_s: folder::age_s(own.at_ms),
            says: own.says.clone(),
            already_applied: own.already_applied,
        });
    }
    if let Some(own) = ledger.ran(&result.stack, &result.file) {
        result.run = Some(MigrationRun {
            outcome: own.outcome.clone(),
            at_ms: own.at_ms,
            age_s: folder::age_s(own.at_ms),
            says: own.says.clone(),
            failed_line: own.failed_line,
            one_transaction: own.one_transaction,
            backup: own.backup.clone(),
            this_file: own.digest == result.digest,
        });
    }
}

/// Why a migration did not run through.
struct Broken {
    /// Of the statement that failed; 0 when none did.
    line: u32,
    code: String,
    message: String,
}

/// Runs a migration: in one transaction, or, where it has its own, statement by statement.
async fn run(session: &mut PgConnection, sql: &str, linted: &Linted) -> Result<(), Broken> {
    let at = |line: u32| move |error: sqlx::Error| Broken::of(line, &error);
    let pieces = statements::top(sql).map_err(|error| Broken {
        line: error.line,
        code: String::new(),
        message: error.message,
    })?;
    if linted.own_transaction {
        for piece in pieces {
            let text = sql[piece.place].to_owned();
            session.execute(sqlx::raw_sql(AssertSqlSafe(text))).await.map_err(at(piece.line))?;
        }
        return Ok(());
    }
    let mut transaction = session.begin().await.map_err(at(0))?;
    for piece in pieces {
        let text = sql[piece.place].to_owned();
        (&mut *transaction).execute(sqlx::raw_sql(AssertSqlSafe(text))).await.map_err(at(piece.line))?;
    }
    transaction.commit().await.map_err(at(0))
}

impl Broken {
    fn of(line: u32, error: &sqlx::Error) -> Self {
        let database = error.as_database_error();
        Self {
            line,
            code: database.and_then(|error| error.code()).unwrap_or_default().into_owned(),
            message: database.map_or_else(|| error.to_string(), |error| error.message().to_owned()),
        }
    }

    /// Words for a person, with the place.
    fn words(&self, file: &str) -> String {
        match self.line {
            0 => format!("{file}: {}", self.message),
            line => format!("{file}, line {line}: {}", self.message),
        }
    }

    /// Whether it waited for a lock in vain.
    fn is_lock(&self) -> bool {
        self.code == "55P03"
    }

    /// Whether the server went away or lets nobody in any more.
    fn is_server(&self) -> bool {
        matches!(
            Refusal::of_state(&self.code, &self.message).word(),
            "starting" | "shutting_down" | "recovering" | "corrupted"
        )
    }
}
