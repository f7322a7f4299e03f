//! Who is connected, from `pg_stat_activity`; where nobody is let in for want of connections, from the titles of the
//! server's processes.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use vigie_proto::v1::{PostgresActivityResult, PostgresGroup, PostgresSession};

use super::{enter, kinds, shown};
use crate::{
    host::postgres::{self, Refusal, Server, processes},
    operations::{Context, Fault},
};

/// How many long sessions are told.
const LONG: usize = 50;
/// How many groups of each kind.
const GROUPS: usize = 20;
/// What the seed's runbook takes for idle long enough to be ended.
const IDLE_S: u64 = 600;

/// All sessions at one moment.
pub(super) struct Sessions {
    /// `server` or `processes`.
    pub source: &'static str,
    pub max_connections: u32,
    pub reserved: u32,
    pub all: Vec<Session>,
}

/// One session, and what is not told of it as it is.
#[derive(Clone)]
pub(super) struct Session {
    /// The query is whole here, and redacted and cut only by [`told_of`].
    pub told: PostgresSession,
    /// The last statement, as the server has it.
    pub query: String,
    /// Whom it waits for.
    pub blocked_by: Vec<i32>,
    pub client_backend: bool,
}

impl Sessions {
    /// Clients, without this agent's own sessions.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Session> {
        self.all.iter().filter(|session| session.client_backend && session.told.kind != "own")
    }
}

/// What this reads are views over shared memory, each of them once; who blocks whom is asked for only where somebody
/// waits. Objects from 16384 on are users' own; a session's temporary table, and one that it has not committed yet, stand in
/// nobody's way.
const ACTIVITY: &str = "
    SELECT a.pid,
           coalesce(a.backend_type, '') AS backend_type,
           coalesce(a.usename::text, '') AS usename,
           coalesce(a.datname::text, '') AS datname,
           coalesce(a.application_name, '') AS application,
           coalesce(host(a.client_addr), '') AS client,
           coalesce(a.state, '') AS state,
           coalesce(floor(extract(epoch FROM a.backend_start) * 1000)::int8, 0) AS started,
           coalesce(floor(extract(epoch FROM a.state_change) * 1000)::int8, 0) AS since,
           coalesce(floor(extract(epoch FROM clock_timestamp() - a.state_change))::int8, 0) AS state_s,
           coalesce(floor(extract(epoch FROM clock_timestamp() - a.xact_start))::int8, 0) AS transaction_s,
           CASE WHEN a.state = 'active'
                THEN coalesce(floor(extract(epoch FROM clock_timestamp() - a.query_start))::int8, 0)
                ELSE 0 END AS query_s,
           coalesce(a.wait_event_type, '') AS wait_type,
           coalesce(a.wait_event, '') AS wait_event,
           coalesce(a.query, '') AS query,
           a.xact_start IS NOT NULL AS in_transaction,
           coalesce(held.advisory, false) AS advisory,
           coalesce(held.strong, false) AS strong_lock,
           CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) ELSE '{}' END AS blocked_by
    FROM pg_stat_activity a LEFT JOIN (
        SELECT l.pid, bool_or(l.locktype = 'advisory') AS advisory,
               bool_or(l.locktype = 'relation' AND l.relation >= 16384
                       AND l.mode IN ('AccessExclusiveLock', 'ShareRowExclusiveLock', 'ShareUpdateExclusiveLock')
                       AND (l.database <> (SELECT oid FROM pg_database WHERE datname = current_database())
                            OR EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = l.relation AND c.relpersistence <> 't')))
                   AS strong
        FROM pg_locks l WHERE l.granted GROUP BY l.pid
    ) held ON held.pid = a.pid
    WHERE a.pid <> pg_backend_pid()
    ORDER BY a.backend_start";

const LIMITS: &str = "
    SELECT current_setting('max_connections')::int8,
           current_setting('superuser_reserved_connections')::int8
           + coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int8";

/// Reads all sessions.
pub(super) async fn read(server: &Server, cx: &Context) -> Result<Sessions, Fault> {
    let mut session = match enter(server, cx).await {
        Ok(session) => session,
        Err(refusal @ Refusal::TooManyConnections(_)) => {
            return from_processes(server).ok_or_else(|| refusal.into());
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let found = from_server(&mut session).await.map_err(|error| postgres::fault(&error));
    postgres::leave(session).await;
    found
}

/// Reads them in a session that is open.
pub(super) async fn from_server(session: &mut PgConnection) -> Result<Sessions, sqlx::Error> {
    let (max_connections, reserved) = limits(session).await?;
    let rows = sqlx::query(ACTIVITY).fetch_all(session).await?;
    let all = rows.iter().map(of_row).collect::<Result<_, _>>()?;
    Ok(Sessions { source: "server", max_connections, reserved, all })
}

/// How many may connect, and how many of those are reserved.
pub(super) async fn limits(session: &mut PgConnection) -> Result<(u32, u32), sqlx::Error> {
    let row = sqlx::query(LIMITS).fetch_one(session).await?;
    Ok((number(row.try_get(0)?), number(row.try_get(1)?)))
}

/// A count that a database gives as a signed number.
pub(super) fn number<N: TryFrom<i64> + Default>(count: i64) -> N {
    N::try_from(count.max(0)).unwrap_or_default()
}

fn of_row(row: &PgRow) -> Result<Session, sqlx::Error> {
    let words = |name: &str| row.try_get::<String, _>(name);
    let seconds = |name: &str| row.try_get::<i64, _>(name).map(number::<u64>);
    let (backend_type, application, query) = (words("backend_type")?, words("application")?, words("query")?);
    let state = match words("state")?.as_str() {
        "idle in transaction" => "idle_in_transaction",
        "idle in transaction (aborted)" => "idle_in_transaction_aborted",
        "fastpath function call" => "fastpath",
        other => other,
    }
    .to_owned();
    let kind = kinds::of(kinds::Traits {
        backend_type: &backend_type,
        application: &application,
        query: &query,
        in_transaction: row.try_get("in_transaction")?,
        advisory: row.try_get("advisory")?,
        strong_lock: row.try_get("strong_lock")?,
    });
    let (wait_type, wait_event) = (words("wait_type")?, words("wait_event")?);
    let waits = state == "active" && !wait_type.is_empty() && wait_type != "Client";
    let told = PostgresSession {
        pid: number(row.try_get::<i32, _>("pid")?.into()),
        backend_start_ms: row.try_get("started")?,
        kind: kind.to_owned(),
        user: words("usename")?,
        database: words("datname")?,
        client: words("client")?,
        state_s: if state.is_empty() { 0 } else { seconds("state_s")? },
        transaction_s: seconds("transaction_s")?,
        query_s: seconds("query_s")?,
        waits_for: if waits { format!("{wait_type}: {wait_event}") } else { String::new() },
        query: String::new(),
        query_digest: kinds::digest(&query),
        state_since_ms: row.try_get("since")?,
        application,
        state,
    };
    let client_backend = matches!(backend_type.as_str(), "client backend" | "");
    Ok(Session { told, query, blocked_by: row.try_get("blocked_by")?, client_backend })
}

/// Reads them from the titles of processes; `None` where those cannot be seen.
pub(super) fn from_processes(server: &Server) -> Option<Sessions> {
    let container = server.container.as_ref()?;
    let all = processes::of(container);
    if all.is_empty() {
        return None;
    }
    let configured =
        |name: &str, usual: u32| container.configured(name).map_or(usual, |n| n.parse().unwrap_or(usual));
    let now = crate::host::clock::now().timestamp_millis();
    let of = |process: &processes::Process| {
        let client = process.client()?;
        let waits = client.activity.ends_with(" waiting");
        Some(Session {
            told: PostgresSession {
                pid: number(process.pid.into()),
                backend_start_ms: process.started_at_ms,
                kind: if client.activity == "COPY" { "backup" } else { "client" }.to_owned(),
                state: client.state.to_owned(),
                user: client.user,
                database: client.database,
                client: client.address,
                // Nobody says since when; the connection's age is the most that it can be.
                state_s: number((now - process.started_at_ms) / 1000),
                waits_for: if waits { "Lock".to_owned() } else { String::new() },
                query_digest: kinds::digest(&process.title),
                ..PostgresSession::default()
            },
            query: String::new(),
            blocked_by: Vec::new(),
            client_backend: true,
        })
    };
    Some(Sessions {
        source: "processes",
        // What PostgreSQL takes where its files say nothing.
        max_connections: configured("max_connections", 100),
        reserved: configured("superuser_reserved_connections", 3),
        all: all.iter().filter_map(of).collect(),
    })
}

/// A session, ready to leave.
pub(super) fn told_of(session: &Session, cx: &Context) -> PostgresSession {
    let told = &session.told;
    PostgresSession {
        application: shown(cx, &told.application),
        query: shown(cx, &kinds::without_constants(&session.query)),
        ..told.clone()
    }
}

/// Sessions counted and the long ones picked, ready to leave.
pub(super) fn told(found: &Sessions, server: &Server, long_s: u64, cx: &Context) -> PostgresActivityResult {
    let count = |is: &dyn Fn(&PostgresSession) -> bool| {
        u32::try_from(found.clients().filter(|session| is(&session.told)).count()).unwrap_or(u32::MAX)
    };
    let connections = count(&|_| true);
    let open = u64::from(found.max_connections.saturating_sub(found.reserved)).max(1);
    // Of a session known by its process's title, nobody knows how long it has been at what it does.
    let known = found.source == "server";
    let age = |told: &PostgresSession| told.query_s.max(told.transaction_s);
    let mut long: Vec<&Session> =
        found.clients().filter(|session| known && age(&session.told) >= long_s).collect();
    long.sort_by_key(|session| std::cmp::Reverse(age(&session.told)));
    let upkeep = found.all.iter().filter(|session| {
        let at_work = session.told.state != "idle" || session.told.kind == "replication";
        at_work && !matches!(session.told.kind.as_str(), "client" | "own" | "server")
    });
    PostgresActivityResult {
        present: true,
        service: server.service.clone(),
        source: found.source.to_owned(),
        max_connections: found.max_connections,
        reserved_connections: found.reserved,
        connections,
        used_percent: u32::try_from(u64::from(connections) * 100 / open).unwrap_or(u32::MAX),
        active: count(&|told| told.state == "active"),
        idle: count(&|told| told.state == "idle"),
        idle_in_transaction: count(&|told| told.state.starts_with("idle_in_transaction")),
        waiting_for_locks: count(&|told| told.waits_for.starts_with("Lock")),
        idle_10_min: count(&|told| told.state == "idle" && told.state_s > IDLE_S),
        by_state: groups(found, cx, |told| &told.state),
        by_application: groups(found, cx, |told| &told.application),
        by_client: groups(found, cx, |told| &told.client),
        long_total: u32::try_from(long.len()).unwrap_or(u32::MAX),
        long: long.iter().take(LONG).map(|session| told_of(session, cx)).collect(),
        maintenance: upkeep.take(LONG).map(|session| told_of(session, cx)).collect(),
        longest_query_s: found.clients().map(|session| session.told.query_s).max().unwrap_or_default(),
        longest_transaction_s: found
            .clients()
            .map(|session| session.told.transaction_s)
            .max()
            .unwrap_or_default(),
    }
}

fn groups(found: &Sessions, cx: &Context, by: impl Fn(&PostgresSession) -> &str) -> Vec<PostgresGroup> {
    let mut groups: BTreeMap<&str, PostgresGroup> = BTreeMap::new();
    for session in found.clients() {
        let group = groups.entry(by(&session.told)).or_default();
        group.sessions += 1;
        group.idle += u32::from(session.told.state == "idle");
        group.longest_s = group.longest_s.max(session.told.state_s);
    }
    let mut groups: Vec<PostgresGroup> =
        groups.into_iter().map(|(name, group)| PostgresGroup { name: shown(cx, name), ..group }).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.sessions));
    groups.truncate(GROUPS);
    groups
}
