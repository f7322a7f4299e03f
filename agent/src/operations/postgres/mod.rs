//! PostgreSQL: how far a connection gets, who is connected, who waits for whom, how large it is, what its log says, and
//! the ending of sessions.
//!
//! Every statement is fixed text with bound values. Looking is done in sessions with short limits, over the server's own
//! socket where there is one, so that it works when the stack's credentials do not.

mod kinds;
mod locks;
mod sessions;
mod signs;
mod size;
mod statement;
mod status;
mod terminate;

use std::time::Duration;

use sqlx::PgConnection;
use vigie_proto::v1::{PostgresActivityRequest, PostgresActivityResult};

use super::{Context, Fault, text};
use crate::host::postgres::{self, Server};

pub(super) use locks::locks;
pub(super) use signs::log_signs;
pub(super) use size::size;
pub(super) use status::status;
pub(super) use terminate::{preview as terminate_preview, terminate};

/// How long one of our statements may run: they read views, not tables.
const STATEMENT: Duration = Duration::from_secs(5);

/// The stack's server; `None` when it has none, which is an answer.
async fn server(cx: &Context, stack: &str, service: &str) -> Result<Option<Server>, Fault> {
    let stack = cx.host.stacks().resolve(stack).await?;
    match Server::find(&cx.host, &stack, service).await {
        Ok(server) => Ok(Some(server)),
        Err(fault) if fault.failure.code == "postgres_absent" => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// A session to look with, its limits set.
async fn enter(server: &Server, cx: &Context) -> Result<PgConnection, postgres::Refusal> {
    let mut session = server.administer("", cx.deadline).await?;
    postgres::bound(&mut session, STATEMENT).await.map_err(|error| postgres::refusal_of(&error))?;
    Ok(session)
}

/// Lists who is connected.
pub(super) async fn activity(
    request: PostgresActivityRequest,
    cx: &Context,
) -> Result<PostgresActivityResult, Fault> {
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Ok(PostgresActivityResult::default());
    };
    let found = sessions::read(&server, cx).await?;
    let long_s = if request.long_s == 0 { 60 } else { request.long_s };
    Ok(sessions::told(&found, &server, u64::from(long_s), cx))
}

/// Free text of a session, ready to leave.
fn shown(cx: &Context, words: &str) -> String {
    text::text_up_to(&cx.host, words, 300)
}
