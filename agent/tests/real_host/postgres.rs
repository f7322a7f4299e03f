//! The stack's real PostgreSQL: every way in.

use std::time::Duration;

use sqlx::{Executor as _, PgConnection, Row as _};
use tokio::time::Instant;
use vigie_agent::host::postgres::{self, Server, Source};
use vigie_proto::v1::{self, request::Operation as Ask, result::Operation as Answer};

use crate::World;

macro_rules! ask {
    ($world:expr, $variant:ident, $request:expr) => {
        match $world.run(Ask::$variant($request)).await {
            Ok(Answer::$variant(found)) => found,
            other => panic!("{other:?}"),
        }
    };
}

async fn server(world: &World) -> Server {
    let stack = world.host.stacks().resolve("").await.unwrap();
    Server::find(&world.host, &stack, "").await.unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn postgres_is_found_and_entered_in_every_way() {
    let world = World::new().await;
    world.healthy().await;
    let server = server(&world).await;
    assert_eq!(server.service, "postgres");
    let container = server.container.as_ref().unwrap();
    assert_eq!(
        (container.name.as_str(), container.volume.as_str()),
        ("sylion-postgres", "sylion-postgres-data")
    );
    assert!(container.data_source.as_ref().unwrap().join("PG_VERSION").is_file());
    let sources: Vec<Source> = server.logins.iter().map(|login| login.source).collect();
    assert_eq!(sources, [Source::Backend, Source::EnvFile, Source::Server]);
    assert!(server.logins[0].same(&server.logins[1]), "what runs and what is written are the same");
    assert!(server.logins.iter().all(|login| server.is_own(login)));
    for login in &server.logins {
        // The world's passwords hold `#`, `+` and `%`.
        let mut session =
            server.enter(login, soon()).await.unwrap_or_else(|refusal| panic!("{login:?}: {refusal}"));
        postgres::bound(&mut session, Duration::from_secs(2)).await.unwrap();
        let row = sqlx::query(
            "SELECT current_user::text, current_database()::text, current_setting('application_name')",
        )
        .fetch_one(&mut session)
        .await
        .unwrap();
        let found: [String; 3] = std::array::from_fn(|at| row.get(at));
        assert_eq!(found, ["sylion_user", "sylion_prod", "vigie"].map(str::to_owned));
        postgres::leave(session).await;
    }
    let mut session = server.administer("", soon()).await.unwrap();
    let row = sqlx::query("SELECT inet_client_addr() IS NULL").fetch_one(&mut session).await.unwrap();
    assert!(row.get::<bool, _>(0), "the socket in the container is the way of whoever looks after it");
    postgres::leave(session).await;
}

#[tokio::test]
async fn postgres_refusals_are_told_apart() {
    let world = World::new().await;
    world.healthy().await;
    let server = server(&world).await;
    let wrong = |change: &dyn Fn(&mut postgres::Login)| {
        let mut login = server.logins[0].clone();
        change(&mut login);
        login
    };
    for (login, word) in [
        (wrong(&|login| login.password = "wrong#+%".to_owned().into()), "authentication"),
        (wrong(&|login| "nobody".clone_into(&mut login.user)), "authentication"),
        (wrong(&|login| "nowhere".clone_into(&mut login.database)), "database_unknown"),
        (wrong(&|login| login.port = 5999), "refused"),
        (wrong(&|login| "postgress".clone_into(&mut login.host)), "host_unknown"),
        (wrong(&|login| login.tls = true), "tls"),
    ] {
        let refusal = server.enter(&login, soon()).await.unwrap_err();
        assert_eq!(refusal.word(), word, "{login:?}: {refusal}");
        assert!(!refusal.to_string().contains("wrong#+%"));
    }
}

/// A client's own session, as the backend opens one.
async fn client(server: &Server, application: &str) -> PgConnection {
    let mut session = server.enter(&server.logins[0], soon()).await.unwrap();
    let name = format!("SET application_name = '{application}'");
    session.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(name))).await.unwrap();
    session
}

async fn say(session: &mut PgConnection, statement: &'static str) {
    session.execute(sqlx::raw_sql(statement)).await.unwrap();
}

#[tokio::test]
async fn postgres_is_well() {
    let world = World::new().await;
    world.healthy().await;
    let status = ask!(world, PostgresStatus, v1::PostgresStatusRequest::default());
    assert_eq!((status.readiness.as_str(), status.admission.as_str()), ("accepting", "ok"), "{status:?}");
    assert_eq!((status.backend_login.as_str(), status.backend_outdated), ("ok", false), "{status:?}");
    assert!(status.version.starts_with("15.") && status.network_shared && !status.suspended, "{status:?}");
    assert!(status.processes.iter().any(|title| title == "checkpointer"), "{status:?}");
    assert!(status.data_free_bytes > 0 && status.data_total_bytes > status.data_free_bytes);
    let role = status.role.as_ref().unwrap();
    assert!(role.exists && role.can_login && !role.expired && role.database_exists && role.database_open);
    let told = format!("{status:?}");
    let password = std::fs::read_to_string("/srv/sylion/.env.prod").unwrap();
    let password = password.lines().find_map(|line| line.strip_prefix("POSTGRES_PASSWORD=")).unwrap();
    assert!(!told.contains(password), "no password leaves");

    let size = ask!(world, PostgresSize, v1::PostgresSizeRequest::default());
    assert_eq!(size.database, "sylion_prod");
    assert!(size.database_bytes > 1 << 20 && size.wal_bytes > 0 && size.max_wal_bytes > 0, "{size:?}");
    assert!(size.tables.iter().any(|table| table.name == "public.knowledge_chunks"), "{size:?}");
    let signs = ask!(world, PostgresLogSigns, v1::PostgresLogSignsRequest::default());
    assert!(signs.present && !signs.signs.iter().any(|sign| sign.sign == "panic"), "{signs:?}");
    let absent = v1::PostgresStatusRequest { service: "oracle".to_owned(), ..Default::default() };
    assert!(!ask!(world, PostgresStatus, absent).present);
}

#[tokio::test]
async fn postgres_chains_are_followed_and_their_root_is_ended() {
    let world = World::new().await;
    world.healthy().await;
    let server = server(&world).await;
    let (mut root, mut middle, mut last) =
        (client(&server, "reports").await, client(&server, "shop").await, client(&server, "shop").await);
    say(
        &mut root,
        "BEGIN; UPDATE plans SET code = code WHERE code = 'it''s a secret'; LOCK TABLE plans IN SHARE MODE",
    )
    .await;
    say(&mut middle, "BEGIN").await;
    let middle = tokio::spawn(async move {
        say(&mut middle, "LOCK TABLE plans IN ACCESS EXCLUSIVE MODE").await;
        say(&mut middle, "ROLLBACK").await;
    });
    let locks = v1::PostgresLocksRequest::default();
    let waits = async |count: u32| {
        let mut interval = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..100 {
            interval.tick().await;
            let found = ask!(world, PostgresLocks, locks.clone());
            if found.waiting == count {
                return found;
            }
        }
        panic!("nobody waits");
    };
    waits(1).await;
    let last = tokio::spawn(async move {
        say(&mut last, "SELECT count(*) FROM plans").await;
    });
    let found = waits(2).await;
    assert_eq!(found.roots.len(), 1, "{found:?}");
    let blocker = &found.roots[0];
    let session = blocker.session.as_ref().unwrap();
    assert_eq!((session.application.as_str(), session.state.as_str()), ("reports", "idle_in_transaction"));
    assert!(blocker.may_be_ended && blocker.blocks == 2, "{blocker:?}");
    assert!(!format!("{found:?}").contains("a secret"), "constants stay in the database");
    let longest = found.waiters.iter().map(|waiter| waiter.chain.len()).max();
    assert_eq!(longest, Some(2), "the chain is whole: {found:?}");
    assert!(found.waiters.iter().any(|waiter| waiter.lock == "AccessShareLock on plans"), "{found:?}");

    let state = v1::PostgresSessionState::Blocking.into();
    let preview = ask!(
        world,
        PostgresTerminatePreview,
        v1::PostgresTerminatePreviewRequest { state, ..Default::default() }
    );
    assert_eq!((preview.total, preview.sessions[0].pid), (1, session.pid), "{preview:?}");
    let order = v1::PostgresTerminateRequest { state, ..Default::default() };
    let unprepared = world.run(Ask::PostgresTerminate(order.clone())).await.unwrap_err();
    assert_eq!(unprepared.failure.code, "not_prepared");
    let done =
        world.run_prepared(Ask::PostgresTerminate(order), Answer::PostgresTerminatePreview(preview)).await;
    let Ok(Answer::PostgresTerminate(done)) = done else { panic!("{done:?}") };
    assert_eq!((done.ended, done.sessions[0].outcome.as_str()), (1, "ended"), "{done:?}");
    middle.await.unwrap();
    last.await.unwrap();
    assert!(root.execute(sqlx::raw_sql("SELECT 1")).await.is_err(), "the root is gone");
}

#[tokio::test]
async fn postgres_sessions_that_must_not_be_cut_are_spared() {
    let world = World::new().await;
    world.healthy().await;
    let server = server(&world).await;
    let mut kept = Vec::new();
    for application in ["idler", "pg_dump", "drizzle-kit"] {
        let mut session = client(&server, application).await;
        say(&mut session, "SELECT 1").await;
        kept.push(session);
    }
    let mut locked = client(&server, "some-tool").await;
    say(&mut locked, "SELECT pg_advisory_lock(72707369)").await;
    let mut busy = client(&server, "idler").await;
    let ask_for =
        |pids: Vec<u32>| v1::PostgresTerminatePreviewRequest { older_than_s: 1, pids, ..Default::default() };
    let mut interval = tokio::time::interval(Duration::from_millis(200));
    let preview = loop {
        interval.tick().await;
        let found = ask!(world, PostgresTerminatePreview, ask_for(Vec::new()));
        if found.total == 2 && found.spared.len() == 3 {
            break found;
        }
    };
    let kinds: std::collections::BTreeSet<&str> =
        preview.spared.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["backup", "migration"].into(), "{preview:?}");
    // One of the two goes on working between the preview and the order.
    say(&mut busy, "SELECT 2").await;
    let order = v1::PostgresTerminateRequest { older_than_s: 1, ..Default::default() };
    let done =
        world.run_prepared(Ask::PostgresTerminate(order), Answer::PostgresTerminatePreview(preview)).await;
    let Ok(Answer::PostgresTerminate(done)) = done else { panic!("{done:?}") };
    let mut outcomes: Vec<&str> = done.sessions.iter().map(|one| one.outcome.as_str()).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["changed", "ended"], "{done:?}");
    say(&mut busy, "SELECT 3").await;
    assert!(kept[0].execute(sqlx::raw_sql("SELECT 1")).await.is_err(), "the idle one is gone");
    for session in &mut kept[1..] {
        say(session, "SELECT 1").await;
    }
}

#[tokio::test]
async fn postgres_without_a_connection_left_is_looked_into_and_freed() {
    let world = World::new().await;
    world.healthy().await;
    let server = server(&world).await;
    let mut all = Vec::new();
    // The stack's user is a superuser, which uses up the reserved connections too.
    let refusal = loop {
        match server.enter(&server.logins[0], soon()).await {
            Ok(session) => all.push(session),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.word(), "too_many_connections");
    let status = ask!(world, PostgresStatus, v1::PostgresStatusRequest::default());
    assert_eq!((status.admission.as_str(), status.readiness.as_str()), ("too_many_connections", "accepting"));
    assert!(status.max_connections == 100 && status.connections >= 97, "{status:?}");
    let activity = ask!(world, PostgresActivity, v1::PostgresActivityRequest::default());
    assert_eq!(activity.source, "processes");
    assert!(activity.idle >= 97 && activity.by_client[0].sessions >= 97, "{activity:?}");
    let mut interval = tokio::time::interval(Duration::from_millis(200));
    let preview = loop {
        interval.tick().await;
        let ask_for = v1::PostgresTerminatePreviewRequest { older_than_s: 1, ..Default::default() };
        let found = ask!(world, PostgresTerminatePreview, ask_for);
        if found.total >= 97 {
            break found;
        }
    };
    assert_eq!(preview.source, "processes");
    let order = v1::PostgresTerminateRequest { older_than_s: 1, ..Default::default() };
    let done =
        world.run_prepared(Ask::PostgresTerminate(order), Answer::PostgresTerminatePreview(preview)).await;
    let Ok(Answer::PostgresTerminate(done)) = done else { panic!("{done:?}") };
    // The agent's own sessions of this test are called `vigie`, which is never ended but by their processes.
    assert!(done.ended >= 1, "{done:?}");
    let status = ask!(world, PostgresStatus, v1::PostgresStatusRequest::default());
    assert_eq!(status.admission, "ok", "{status:?}");
}
