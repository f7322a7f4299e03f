//! Ending sessions: exactly those that were shown, and of those only what is still as it was shown.
//!
//! A server tells a session to end in the very statement that looks whether it is still the same one. Where no
//! connection is left even for a superuser, one is made first: the longest idle of the shown sessions is told to end by
//! a signal to its process, which is what `pg_terminate_backend` sends, and the rest is asked of the server.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};
use tokio::time::Instant;
use vigie_proto::v1::{
    PostgresEnded, PostgresSession, PostgresSessionState, PostgresSpared, PostgresTerminatePreviewRequest,
    PostgresTerminatePreviewResult, PostgresTerminateRequest, PostgresTerminateResult, result,
};

use super::{
    enter, kinds, locks, server,
    sessions::{self, Session, Sessions, told_of},
    shown,
};
use crate::{
    host::postgres::{self, Refusal, Server, processes},
    operations::{Context, Fault},
};

/// How many sessions one order may name.
const MOST: usize = 500;
/// How many spared ones are told.
const SPARED: usize = 50;
/// The seed's: idle for ten minutes.
const IDLE_S: u32 = 600;
/// How long sessions have to end: each rolls its transaction back first, which the server does without waiting for disks.
const END: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
/// A process begins before the server notes that it did.
const START_MS: i64 = 2000;

/// What is asked for.
struct Criteria<'a> {
    state: PostgresSessionState,
    older_than_s: u64,
    pids: &'a [u32],
    application: &'a str,
}

impl<'a> Criteria<'a> {
    fn new(state: PostgresSessionState, older_than_s: u32, pids: &'a [u32], application: &'a str) -> Self {
        let state =
            if state == PostgresSessionState::Unspecified { PostgresSessionState::Idle } else { state };
        let usual = if state == PostgresSessionState::Blocking { 0 } else { IDLE_S };
        let older_than_s = if older_than_s == 0 { usual } else { older_than_s };
        Self { state, older_than_s: older_than_s.into(), pids, application }
    }

    /// Whether a session is one that is asked for; who it is for is another question.
    fn fits(&self, session: &Session, blocking: &[u32]) -> bool {
        let told = &session.told;
        let state = match self.state {
            PostgresSessionState::Idle | PostgresSessionState::Unspecified => told.state == "idle",
            PostgresSessionState::IdleInTransaction => told.state.starts_with("idle_in_transaction"),
            PostgresSessionState::Active => told.state == "active",
            PostgresSessionState::Blocking => blocking.contains(&told.pid),
        };
        let age = if self.state == PostgresSessionState::Active { told.query_s } else { told.state_s };
        state
            && session.client_backend
            && age >= self.older_than_s
            && (self.pids.is_empty() || self.pids.contains(&told.pid))
            && (self.application.is_empty() || self.application == told.application)
    }
}

/// Shows which sessions would be ended.
pub(in crate::operations) async fn preview(
    request: PostgresTerminatePreviewRequest,
    cx: &Context,
) -> Result<PostgresTerminatePreviewResult, Fault> {
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Ok(PostgresTerminatePreviewResult::default());
    };
    let found = sessions::read(&server, cx).await?;
    let criteria = Criteria::new(request.state(), request.older_than_s, &request.pids, &request.application);
    Ok(choose(&found, &criteria, &server, cx))
}

fn choose(
    found: &Sessions,
    criteria: &Criteria<'_>,
    server: &Server,
    cx: &Context,
) -> PostgresTerminatePreviewResult {
    let blocking: Vec<u32> = locks::roots(found).iter().map(|root| root.session.told.pid).collect();
    let mut fitting: Vec<&Session> =
        found.all.iter().filter(|session| criteria.fits(session, &blocking)).collect();
    fitting.sort_by_key(|session| (std::cmp::Reverse(session.told.state_s), session.told.pid));
    let (spared, chosen): (Vec<&Session>, Vec<&Session>) =
        fitting.into_iter().partition(|session| why_spared(session, found.source).is_some());
    let spare = |session: &Session| PostgresSpared {
        pid: session.told.pid,
        kind: session.told.kind.clone(),
        application: shown(cx, &session.told.application),
        why: why_spared(session, found.source).unwrap_or_default().to_owned(),
    };
    PostgresTerminatePreviewResult {
        present: true,
        service: server.service.clone(),
        source: found.source.to_owned(),
        total: u32::try_from(chosen.len()).unwrap_or(u32::MAX),
        sessions: chosen.into_iter().take(MOST).map(|session| told_of(session, cx)).collect(),
        spared: spared
            .into_iter()
            .filter(|session| session.told.kind != "own")
            .take(SPARED)
            .map(spare)
            .collect(),
        connections: u32::try_from(found.clients().count()).unwrap_or(u32::MAX),
        max_connections: found.max_connections,
    }
}

fn why_spared(session: &Session, source: &str) -> Option<&'static str> {
    let unknown = source == "processes" && session.told.state != "idle";
    kinds::spared(&session.told.kind).or_else(|| {
        unknown.then_some(
            "nobody can be asked what it is at: only sessions outside of a transaction are ended unseen",
        )
    })
}

/// Ends the sessions that the preview showed.
pub(in crate::operations) async fn terminate(
    request: PostgresTerminateRequest,
    cx: &Context,
) -> Result<PostgresTerminateResult, Fault> {
    let Some(result::Operation::PostgresTerminatePreview(prepared)) = &cx.prepared else {
        return Err(Fault::refused("not_prepared", "nobody was shown which sessions would be ended")
            .hint("open the order with `vigiectl do postgres_terminate`, which shows them first"));
    };
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Err(Fault::refused("postgres_absent", "the stack has no PostgreSQL")
            .hint("`vigiectl hosts show HOST` lists its services"));
    };
    let mut done = PostgresTerminateResult { service: server.service.clone(), ..Default::default() };
    let (mut session, signalled) = match enter(&server, cx).await {
        Ok(session) => (session, Vec::new()),
        Err(Refusal::TooManyConnections(_)) => make_room(&server, prepared, cx).await?,
        Err(refusal) => return Err(refusal.into()),
    };
    let criteria = Criteria::new(request.state(), request.older_than_s, &request.pids, &request.application);
    let ended = end_all(&mut session, prepared, &signalled, &criteria, cx, &mut done).await;
    postgres::leave(session).await;
    done.connections_before += u32::try_from(signalled.len()).unwrap_or_default();
    match ended {
        Ok(()) => Ok(done),
        Err(error) => Err(postgres::fault(&error).partial(result::Operation::PostgresTerminate(done))),
    }
}

async fn end_all(
    session: &mut PgConnection,
    prepared: &PostgresTerminatePreviewResult,
    signalled: &[u32],
    criteria: &Criteria<'_>,
    cx: &Context,
    done: &mut PostgresTerminateResult,
) -> Result<(), sqlx::Error> {
    let before = sessions::from_server(session).await?;
    done.max_connections = before.max_connections;
    done.connections_before = u32::try_from(before.clients().count()).unwrap_or(u32::MAX);
    let blocking: Vec<u32> = locks::roots(&before).iter().map(|root| root.session.told.pid).collect();
    let mut told_to_end = Vec::new();
    for shown_as in prepared.sessions.iter().take(MOST) {
        let now = before.all.iter().find(|session| session.told.pid == shown_as.pid);
        let (outcome, why) = match now {
            _ if signalled.contains(&shown_as.pid) => {
                told_to_end.push((shown_as.pid, shown_as.backend_start_ms));
                ("ended", "")
            }
            None => ("gone", "it is over already"),
            Some(now) => match still(now, shown_as, prepared.source == "processes", criteria, &blocking) {
                Err(outcome) => outcome,
                Ok(()) if end(session, now).await? => {
                    told_to_end.push((shown_as.pid, now.told.backend_start_ms));
                    ("ended", "")
                }
                Ok(()) => ("changed", "it began something else at this very moment"),
            },
        };
        done.sessions.push(PostgresEnded {
            pid: shown_as.pid,
            application: shown(cx, &shown_as.application),
            outcome: outcome.to_owned(),
            why: why.to_owned(),
        });
    }
    let left = wait_for(session, &told_to_end, cx).await?;
    for one in done.sessions.iter_mut().filter(|one| one.outcome == "ended" && left.contains(&one.pid)) {
        "still_there".clone_into(&mut one.outcome);
        "it was told to end, and has not ended yet".clone_into(&mut one.why);
    }
    let after = sessions::from_server(session).await?;
    done.connections_after = u32::try_from(after.clients().count()).unwrap_or(u32::MAX);
    done.ended =
        u32::try_from(done.sessions.iter().filter(|one| one.outcome == "ended").count()).unwrap_or(u32::MAX);
    Ok(())
}

/// Whether a session is the one that was shown, and is still what was asked for and may be ended; else what becomes of it.
/// A preview from the titles of processes could not tell how long each had been at it: that is asked here.
fn still(
    now: &Session,
    shown_as: &PostgresSession,
    by_title: bool,
    criteria: &Criteria<'_>,
    blocking: &[u32],
) -> Result<(), (&'static str, &'static str)> {
    let told = &now.told;
    let same_start = if by_title {
        (told.backend_start_ms - shown_as.backend_start_ms).abs() <= START_MS
    } else {
        told.backend_start_ms == shown_as.backend_start_ms
    };
    if !same_start {
        return Err(("gone", "another session has its number"));
    }
    if let Some(why) = kinds::spared(&told.kind) {
        return Err(("spared", why));
    }
    if !criteria.fits(now, blocking) {
        return Err(("changed", "it is not, or not for long enough, at what was asked for"));
    }
    if !by_title
        && (told.query_digest != shown_as.query_digest || told.state_since_ms != shown_as.state_since_ms)
    {
        return Err(("changed", "it is at something else than what was shown"));
    }
    Ok(())
}

/// Tells one session to end, in the statement that looks at it once more.
async fn end(session: &mut PgConnection, now: &Session) -> Result<bool, sqlx::Error> {
    let row = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND pid <> pg_backend_pid() \
         AND floor(extract(epoch FROM backend_start) * 1000)::int8 = $2 \
         AND floor(extract(epoch FROM state_change) * 1000)::int8 = $3 AND query = $4",
    )
    .bind(i32::try_from(now.told.pid).unwrap_or_default())
    .bind(now.told.backend_start_ms)
    .bind(now.told.state_since_ms)
    .bind(&now.query)
    .fetch_optional(session)
    .await?;
    row.map_or(Ok(false), |row| row.try_get(0))
}

/// Waits until they are gone; returns those that are not.
async fn wait_for(
    session: &mut PgConnection,
    told_to_end: &[(u32, i64)],
    cx: &Context,
) -> Result<Vec<u32>, sqlx::Error> {
    let pids: Vec<i32> = told_to_end.iter().filter_map(|(pid, _)| i32::try_from(*pid).ok()).collect();
    let until = (Instant::now() + END).min(cx.deadline);
    let mut interval = tokio::time::interval(LOOK);
    loop {
        interval.tick().await;
        let rows = sqlx::query(
            "SELECT pid, floor(extract(epoch FROM backend_start) * 1000)::int8 FROM pg_stat_activity WHERE pid = ANY($1)",
        )
        .bind(&pids)
        .fetch_all(&mut *session)
        .await?;
        let mut left = Vec::new();
        for row in rows {
            let pid = u32::try_from(row.try_get::<i32, _>(0)?).unwrap_or_default();
            let started: i64 = row.try_get(1)?;
            if told_to_end.iter().any(|(told, start)| *told == pid && (started - start).abs() <= START_MS) {
                left.push(pid);
            }
        }
        if left.is_empty() || Instant::now() >= until {
            return Ok(left);
        }
    }
}

/// Ends shown sessions by signals to their processes, the longest first and no more than it takes, until a session can
/// be had.
async fn make_room(
    server: &Server,
    prepared: &PostgresTerminatePreviewResult,
    cx: &Context,
) -> Result<(PgConnection, Vec<u32>), Fault> {
    let container = server.container.clone().unwrap_or_default();
    let mut signalled = Vec::new();
    let mut last =
        Refusal::TooManyConnections("no connection is left, and none of the sessions shown idles".to_owned());
    for shown_as in &prepared.sessions {
        let all = processes::of(&container);
        let process = all.into_iter().find(|process| {
            u32::try_from(process.pid) == Ok(shown_as.pid)
                && (process.started_at_ms - shown_as.backend_start_ms).abs() <= START_MS
                && process.client().is_some_and(|client| client.state == "idle")
        });
        let Some(process) = process else { continue };
        if process.terminate(&container).is_err() {
            continue;
        }
        signalled.push(shown_as.pid);
        let until = (Instant::now() + END).min(cx.deadline);
        let mut interval = tokio::time::interval(LOOK);
        loop {
            interval.tick().await;
            match enter(server, cx).await {
                Ok(session) => return Ok((session, signalled)),
                Err(refusal @ Refusal::TooManyConnections(_)) => last = refusal,
                Err(refusal) => return Err(refusal.into()),
            }
            // Somebody else was faster where the process is gone: the next one then.
            let gone = !processes::of(&container).iter().any(|other| other.host_pid == process.host_pid);
            if gone || Instant::now() >= until {
                break;
            }
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(state: &str, kind: &str) -> Session {
        let told = PostgresSession {
            pid: 7,
            backend_start_ms: 1_000_000,
            state_since_ms: 2_000_000,
            state_s: 700,
            query_digest: kinds::digest("COMMIT"),
            kind: kind.to_owned(),
            state: state.to_owned(),
            ..PostgresSession::default()
        };
        Session { told, query: "COMMIT".to_owned(), blocked_by: Vec::new(), client_backend: true }
    }

    #[test]
    fn only_what_is_asked_for_fits() {
        let idle = Criteria::new(PostgresSessionState::Unspecified, 0, &[], "");
        assert!(idle.fits(&session("idle", "client"), &[]));
        assert!(!idle.fits(&session("active", "client"), &[]));
        assert!(
            !Criteria::new(PostgresSessionState::Idle, 701, &[], "").fits(&session("idle", "client"), &[])
        );
        assert!(
            !Criteria::new(PostgresSessionState::Idle, 0, &[8], "").fits(&session("idle", "client"), &[])
        );
        assert!(
            !Criteria::new(PostgresSessionState::Idle, 0, &[], "app").fits(&session("idle", "client"), &[])
        );
        let blocking = Criteria::new(PostgresSessionState::Blocking, 0, &[], "");
        assert!(blocking.fits(&session("idle_in_transaction", "client"), &[7]));
        assert!(!blocking.fits(&session("idle_in_transaction", "client"), &[8]));
    }

    #[test]
    fn what_is_no_longer_as_it_was_shown_is_left_alone() {
        let shown_as = session("idle", "client").told;
        let idle = Criteria::new(PostgresSessionState::Idle, 0, &[], "");
        let outcome =
            |now: &Session| still(now, &shown_as, false, &idle, &[]).map_err(|(outcome, _)| outcome);
        assert_eq!(outcome(&session("idle", "client")), Ok(()));
        assert_eq!(outcome(&session("active", "client")), Err("changed"));
        assert_eq!(outcome(&session("idle", "migration")), Err("spared"));
        let mut other = session("idle", "client");
        other.told.backend_start_ms += 1;
        assert_eq!(outcome(&other), Err("gone"));
        assert_eq!(
            still(&other, &shown_as, true, &idle, &[]),
            Ok(()),
            "a process begins a little before its session"
        );
        other.told.state_s = 599;
        assert_eq!(
            still(&other, &shown_as, true, &idle, &[]).map_err(|(outcome, _)| outcome),
            Err("changed"),
            "its title told only since when it is connected"
        );
        let mut used = session("idle", "client");
        used.told.state_since_ms += 1;
        assert_eq!(outcome(&used), Err("changed"), "the same statement again is another one");
    }
}
