//! How far a connection gets, by each way in that the stack names, and what stands there when it gets nowhere.

use sqlx::{PgConnection, Row as _};
use vigie_proto::v1::{PostgresLogin, PostgresRole, PostgresStatusRequest, PostgresStatusResult};

use super::{enter, server, sessions::number, shown};
use crate::{
    host::{
        mounts::PATIENCE,
        postgres::{self, Login, Refusal, Server, Source, processes},
    },
    operations::{Context, Fault, text},
};

const FACTS: &str = "
    SELECT current_setting('server_version'),
           floor(extract(epoch FROM pg_postmaster_start_time()) * 1000)::int8,
           floor(extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()))::int8,
           pg_is_in_recovery(),
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
            AND application_name <> $1)";

const ROLE: &str = "
    SELECT r.rolname IS NOT NULL, coalesce(r.rolcanlogin, false), coalesce(r.rolvaliduntil < now(), false),
           coalesce(r.rolsuper, false), coalesce(r.rolconnlimit, -1),
           d.datname IS NOT NULL, coalesce(d.datallowconn, false), coalesce(d.datconnlimit, -1)
    FROM (SELECT 1) one LEFT JOIN pg_roles r ON r.rolname = $1 LEFT JOIN pg_database d ON d.datname = $2";

/// Tries every way in.
pub(in crate::operations) async fn status(
    request: PostgresStatusRequest,
    cx: &Context,
) -> Result<PostgresStatusResult, Fault> {
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Ok(PostgresStatusResult::default());
    };
    let mut result = standing(&server, cx).await;
    match enter(&server, cx).await {
        Ok(mut session) => {
            "ok".clone_into(&mut result.admission);
            "accepting".clone_into(&mut result.readiness);
            let asked = ask(&mut session, &server, &mut result).await;
            postgres::leave(session).await;
            if let Err(error) = asked {
                note(&mut result, &postgres::refusal_of(&error), cx);
            }
        }
        Err(refusal) => note(&mut result, &refusal, cx),
    }
    enter_by_each(&server, &mut result, cx).await;
    if result.admission == "too_many_connections"
        && let Some(found) = super::sessions::from_processes(&server)
    {
        result.connections = u32::try_from(found.clients().count()).unwrap_or(u32::MAX);
        (result.max_connections, result.reserved_connections) = (found.max_connections, found.reserved);
    }
    Ok(result)
}

fn note(result: &mut PostgresStatusResult, refusal: &Refusal, cx: &Context) {
    refusal.word().clone_into(&mut result.admission);
    refusal.readiness().clone_into(&mut result.readiness);
    result.admission_message = text::text(&cx.host, &refusal.to_string());
}

/// What can be told of the server without asking it.
async fn standing(server: &Server, cx: &Context) -> PostgresStatusResult {
    let mut result = PostgresStatusResult {
        present: true,
        service: server.service.clone(),
        state: if server.is_service() { "missing" } else { "outside" }.to_owned(),
        health: "none".to_owned(),
        network_shared: true,
        backend_outdated: outdated(server),
        ..PostgresStatusResult::default()
    };
    if let Some(room) = room(cx, server).await {
        result.data_free_bytes = room.free_bytes;
        result.data_total_bytes = room.total_bytes;
        result.data_free_inodes = room.free_inodes;
    }
    let Some(container) = &server.container else { return result };
    result.container.clone_from(&container.name);
    result.state.clone_from(&container.state);
    result.health.clone_from(&container.health);
    result.exit_code = i32::try_from(container.exit_code).unwrap_or_default();
    result.oom_killed = container.oom_killed;
    result.restart_count = container.restart_count;
    result.error = text::text(&cx.host, &container.error);
    result.volume.clone_from(&container.volume);
    result.networks = container.addresses.keys().cloned().collect();
    if container.state == "running" {
        result.uptime_s =
            number((crate::host::clock::now().timestamp_millis() - container.started_at_ms) / 1000);
        result.suspended = matches!(processes::first_state(container), Some('T' | 't'));
        let own = processes::of(container).into_iter().filter(|process| process.client().is_none());
        result.processes = own.map(|process| shown(cx, &process.title)).take(20).collect();
    }
    // A backend that is down is on no network, and one on the machine's own has another way.
    if let Some(backend) =
        server.backend.as_ref().filter(|backend| backend.state == "running" && !backend.host_network)
    {
        result.backend_networks = backend.networks.iter().cloned().collect();
        let shared = container.addresses.keys().any(|network| backend.networks.contains(network));
        result.network_shared = shared || container.state != "running";
    }
    result
}

/// Whether the backend runs with another way in than the files name now.
fn outdated(server: &Server) -> bool {
    let of = |source| server.logins.iter().find(|login| login.source == source);
    matches!((of(Source::Backend), of(Source::EnvFile)), (Some(runs), Some(written)) if !runs.same(written))
}

async fn ask(
    session: &mut PgConnection,
    server: &Server,
    result: &mut PostgresStatusResult,
) -> Result<(), sqlx::Error> {
    let facts = sqlx::query(FACTS).bind(postgres::APPLICATION).fetch_one(&mut *session).await?;
    // `15.20 (Debian 15.20-0+deb12u1)`
    let version: String = facts.try_get(0)?;
    result.version = version.split(' ').next().unwrap_or_default().to_owned();
    result.started_at_ms = facts.try_get(1)?;
    result.server_uptime_s = number(facts.try_get(2)?);
    result.in_recovery = facts.try_get(3)?;
    result.connections = number(facts.try_get(4)?);
    (result.max_connections, result.reserved_connections) = super::sessions::limits(session).await?;
    if let Some(login) = server.backend_login() {
        let row = sqlx::query(ROLE).bind(&login.user).bind(&login.database).fetch_one(session).await?;
        result.role = Some(PostgresRole {
            user: login.user.clone(),
            exists: row.try_get(0)?,
            can_login: row.try_get(1)?,
            expired: row.try_get(2)?,
            superuser: row.try_get(3)?,
            connection_limit: row.try_get(4)?,
            database: login.database.clone(),
            database_exists: row.try_get(5)?,
            database_open: row.try_get(6)?,
            database_limit: row.try_get(7)?,
        });
    }
    Ok(())
}

/// Goes each way in that differs from those before. A refused password is a line in the server's log, so that none is
/// tried twice.
async fn enter_by_each(server: &Server, result: &mut PostgresStatusResult, cx: &Context) {
    let mut tried: Vec<(&Login, Option<Refusal>)> = Vec::new();
    for login in &server.logins {
        // What PostgreSQL's own container was given is nobody's way in while the backend's works.
        let other = tried.iter().find(|(other, _)| {
            other.same(login)
                || server.is_own(other)
                    && server.is_own(login)
                    && other.port == login.port
                    && other.same_credentials(login)
        });
        let outcome = match other {
            Some((_, outcome)) => outcome.clone(),
            None if login.source == Source::Server && tried.iter().any(|(_, refusal)| refusal.is_none()) => {
                continue;
            }
            None => match server.enter(login, cx.deadline).await {
                Ok(session) => {
                    postgres::leave(session).await;
                    None
                }
                Err(refusal) => Some(refusal),
            },
        };
        result.logins.push(PostgresLogin {
            source: login.source.word().to_owned(),
            variable: login.variable.clone(),
            user: login.user.clone(),
            database: login.database.clone(),
            host: login.host.clone(),
            port: login.port.into(),
            outcome: outcome.as_ref().map_or("ok", Refusal::word).to_owned(),
            message: outcome
                .as_ref()
                .map(|refusal| text::text(&cx.host, &refusal.to_string()))
                .unwrap_or_default(),
            own: server.is_own(login),
        });
        tried.push((login, outcome));
    }
    if let Some(login) = server.backend_login() {
        let word = tried.iter().find(|(tried, _)| std::ptr::eq(*tried, login));
        result.backend_login = word
            .map(|(_, refusal)| refusal.as_ref().map_or("ok", Refusal::word).to_owned())
            .unwrap_or_default();
    }
}

/// What is left of the filesystem on which the data is.
pub(super) struct Room {
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub free_inodes: u64,
}

/// `None` when the data is on no filesystem of this machine that can be looked at.
pub(super) async fn room(cx: &Context, server: &Server) -> Option<Room> {
    let path = server.container.as_ref()?.data_source.clone()?;
    // A filesystem that hangs must not hold up everything else.
    let asked = path.clone();
    let stat = cx.host.mounts().ask(path, PATIENCE, move || rustix::fs::statvfs(&asked)).await?.ok()?;
    Some(Room {
        // What is kept for root is no room for PostgreSQL.
        free_bytes: stat.f_bavail * stat.f_frsize,
        total_bytes: stat.f_blocks * stat.f_frsize,
        free_inodes: stat.f_favail,
    })
}
