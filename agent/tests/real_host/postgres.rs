//! The stack's real PostgreSQL: every way in.

use std::time::Duration;

use sqlx::Row as _;
use tokio::time::Instant;
use vigie_agent::host::postgres::{self, Server, Source};

use crate::World;

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
