//! The knowledge base's quotas: what the tables of the stack's database say, and what may be done about it.
//!
//! Tables and columns are those of the product's migrations: `plans`, `tenants`, `knowledge_documents`,
//! `usage_counters_daily`. A database without them has no knowledge base, which is an answer. Days are counted in UTC, as
//! the counters are. Values from a request are bound, never written into a statement.

mod actions;
mod admin;
mod quota;

use std::{sync::Arc, time::Duration};

use sqlx::{PgConnection, Row as _};

use super::{Context, Fault, text};
use crate::host::{
    postgres::{self, Server},
    stacks::KnownStack,
};

pub(super) use actions::{counter_preview, counter_reset, plan, reindex, stats};
pub(super) use quota::quota;

/// The tables are small, or have an index for what is asked.
const STATEMENT: Duration = Duration::from_secs(5);

/// The tables that make a knowledge base.
const TABLES: [&str; 4] = ["plans", "tenants", "knowledge_documents", "usage_counters_daily"];

/// The day by which is counted, and the minutes that are left of it.
const TODAY: &str = "SELECT ((now() AT TIME ZONE 'UTC')::date)::text, \
    (extract(epoch FROM date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day' - (now() AT TIME ZONE 'UTC')) / 60)::int4";

/// The stack's database, its statements bounded.
async fn enter(cx: &Context, stack: &str) -> Result<(Arc<KnownStack>, PgConnection), Fault> {
    let stack = cx.host.stacks().resolve(stack).await?;
    let server = Server::find(&cx.host, &stack, "").await?;
    let mut session = server.administer("", cx.deadline).await?;
    postgres::bound(&mut session, STATEMENT).await.map_err(|error| postgres::fault(&error))?;
    Ok((stack, session))
}

/// The tables of the knowledge base that the database lacks.
async fn missing(session: &mut PgConnection) -> Result<Vec<String>, Fault> {
    let mut missing = Vec::new();
    for table in TABLES {
        let found: bool = sqlx::query("SELECT to_regclass($1::text) IS NOT NULL")
            .bind(table)
            .fetch_one(&mut *session)
            .await
            .map_err(|error| postgres::fault(&error))?
            .get(0);
        if !found {
            missing.push(table.to_owned());
        }
    }
    Ok(missing)
}

/// The database of a stack that has a knowledge base.
async fn enter_base(cx: &Context, stack: &str) -> Result<(Arc<KnownStack>, PgConnection), Fault> {
    let (stack, mut session) = enter(cx, stack).await?;
    let missing = missing(&mut session).await?;
    if missing.is_empty() {
        return Ok((stack, session));
    }
    let message = format!("the database of stack `{}` has no {}", stack.name, missing.join(", "));
    Err(Fault::absent("knowledge", message)
        .hint("this stack has no knowledge base, or its migrations have not run"))
}

/// The day and the minutes that are left of it.
async fn today(session: &mut PgConnection) -> Result<(String, u32), Fault> {
    let row = sqlx::query(TODAY).fetch_one(session).await.map_err(|error| postgres::fault(&error))?;
    Ok((row.get(0), u32::try_from(row.get::<i32, _>(1)).unwrap_or_default()))
}

/// A plan's daily limit as its JSON says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Set(u64),
    Missing,
    Unlimited,
    Invalid,
}

impl Limit {
    fn read(said: Option<&str>) -> Self {
        match said.map(str::trim) {
            None | Some("") => Self::Missing,
            Some(text) => match text.parse::<i64>() {
                Ok(number) => u64::try_from(number).map_or(Self::Unlimited, Self::Set),
                Err(_) => Self::Invalid,
            },
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Set(_) => "set",
            Self::Missing => "missing",
            Self::Unlimited => "unlimited",
            Self::Invalid => "invalid",
        }
    }

    /// -1 stands for none.
    fn number(self) -> i64 {
        match self {
            Self::Set(limit) => i64::try_from(limit).unwrap_or(i64::MAX),
            _ => -1,
        }
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn small(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_plans_say_them() {
        for (said, expected) in [
            (Some("5"), Limit::Set(5)),
            (Some("0"), Limit::Set(0)),
            (Some("-1"), Limit::Unlimited),
            (Some("many"), Limit::Invalid),
            (Some(""), Limit::Missing),
            (None, Limit::Missing),
        ] {
            assert_eq!(Limit::read(said), expected, "{said:?}");
        }
    }
}
