//! What the server's own parser says of a file. Nothing of it runs, and no table is looked at or locked: a message that
//! holds more than one statement is parsed and then refused, so that two statements are put behind the file.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Executor as _, PgConnection, SqlSafeStr as _,
    postgres::{PgDatabaseError, PgErrorPosition},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    host::{
        postgres::{self, Server},
        stacks::KnownStack,
    },
    operations::Context,
};

/// How long the server may take: a healthy one parses eight megabytes in less than a second.
const ASKED: Duration = Duration::from_secs(5);

/// Makes more than one statement of any file, also of an empty one.
const BEHIND: &str = "\n;SELECT 1;SELECT 2";

/// What is wrong with a file, and where; line and column from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

/// Asks the stack's server. `None` when it cannot be asked.
pub(super) async fn ask(sql: &str, stack: &KnownStack, cx: &Context) -> Option<Result<(), Wrong>> {
    let deadline = cx.deadline.min(Instant::now() + ASKED);
    let server = Server::find(&cx.host, stack, "").await.ok()?;
    let mut session = server.administer("", deadline).await.ok()?;
    let parsed = timeout_at(deadline, parse(&mut session, sql)).await.ok();
    postgres::leave(session).await;
    parsed?
}

async fn parse(session: &mut PgConnection, sql: &str) -> Option<Result<(), Wrong>> {
    let text = AssertSqlSafe(format!("{sql}{BEHIND}")).into_sql_str();
    let refused = session.prepare(text).await.err()?;
    let refused = refused.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    match refused.position() {
        Some(PgErrorPosition::Original(position)) => {
            let (line, column) = place(sql, position);
            Some(Err(Wrong { line, column, message: refused.message().to_owned() }))
        }
        // The refusal of more than one statement has no place: the whole was parsed.
        _ if refused.code() == "42601" => Some(Ok(())),
        _ => None,
    }
}

/// Line and column of a character, counted from 1; of the file's last one for what lies behind it.
fn place(sql: &str, position: usize) -> (u32, u32) {
    let end = sql.trim_end().chars().count().max(1);
    let before: Vec<char> = sql.chars().take(position.clamp(1, end) - 1).collect();
    let line = before.iter().filter(|c| **c == '\n').count() + 1;
    let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        let sql = "-- é\nCREATE TABEL a;\nSELECT 1;\n\n";
        assert_eq!(place(sql, 13), (2, 8));
        assert_eq!(place(sql, 1), (1, 1));
        assert_eq!(
            place(sql, 900),
            (3, 9),
            "what is missing at the end is missing behind the last character"
        );
        assert_eq!(place("", 3), (1, 1));
    }
}
