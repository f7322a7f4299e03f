//! The way in, firewall, and what takes a stack down and up again.

use vigie_proto::v1::{
    CertificateCheckRequest, ComposeBuildRequest, ComposeDownRequest, ComposeRollbackPreviewRequest,
    ComposeRollbackRequest, ComposeUpRequest, ContainerInspectRequest, ContainerRestartRequest,
    FirewallAllowPreviewRequest, FirewallAllowRequest, FirewallDenyPreviewRequest, FirewallDenyRequest,
    FirewallStatusRequest, ReachabilityCheckRequest, StackLogsRequest, UnitRestartRequest,
};

use super::*;

#[tokio::test]
async fn the_way_in_is_open_and_its_certificate_good() {
    let world = World::new().await;
    world.healthy().await;
    let ask = Ask::ReachabilityCheck(ReachabilityCheckRequest::default());
    let Ok(Answer::ReachabilityCheck(found)) = world.run(ask).await else { panic!("no answer") };
    assert_eq!((found.name.as_str(), found.status, found.failing.as_str()), ("api.sylion.tech", 200, ""));
    assert!(found.ping_answered && found.ports.iter().all(|port| port.open), "{found:?}");
    assert_eq!(found.certificate_trouble, "", "the host trusts its own certificate");
    assert!(found.certificate.is_some_and(|own| own.names == ["api.sylion.tech"] && own.days_left > 300));
    let ask = Ask::CertificateCheck(CertificateCheckRequest::default());
    let Ok(Answer::CertificateCheck(found)) = world.run(ask).await else { panic!("no answer") };
    assert!(found.present && !found.expired && !found.outdated && found.days_left > 300, "{found:?}");
}

#[tokio::test]
async fn the_firewall_is_judged_and_changed_only_as_it_was_shown() {
    let world = World::new().await;
    world.healthy().await;
    let judged = async |port: u32| {
        let ask = Ask::FirewallStatus(FirewallStatusRequest { ports: vec![port] });
        let Ok(Answer::FirewallStatus(found)) = world.run(ask).await else { panic!("no answer") };
        assert!(found.judged && found.active && found.kind == "ufw", "{found:?}");
        found.closed.is_empty()
    };
    assert!(judged(443).await && !judged(8443).await);

    let allow = FirewallAllowRequest { port: 8443, protocol: "tcp".to_owned() };
    let fault = world.run(Ask::FirewallAllow(allow.clone())).await.unwrap_err();
    assert_eq!(fault.failure.code, "not_prepared");
    let shown = FirewallAllowPreviewRequest { port: 8443, protocol: "tcp".to_owned() };
    let shown = world.run(Ask::FirewallAllowPreview(shown)).await.unwrap();
    let Ok(Answer::FirewallAllow(done)) = world.run_prepared(Ask::FirewallAllow(allow), shown.clone()).await
    else {
        panic!("not allowed")
    };
    assert!(done.before.is_empty() && !done.after.is_empty() && judged(8443).await, "{done:?}");

    let deny = FirewallDenyRequest { port: 8443, protocol: "tcp".to_owned() };
    let preview = FirewallDenyPreviewRequest { port: 8443, protocol: "tcp".to_owned() };
    let shown = world.run(Ask::FirewallDenyPreview(preview)).await.unwrap();
    assert!(world.run_prepared(Ask::FirewallDeny(deny.clone()), shown.clone()).await.is_ok());
    assert!(!judged(8443).await);
    // What was shown is not so any more.
    let again = world.run_prepared(Ask::FirewallDeny(deny), shown).await.unwrap_err();
    assert_eq!(again.failure.code, "changed_meanwhile");

    // Nobody is left without a way in.
    let deny = FirewallDenyRequest { port: 22, protocol: "tcp".to_owned() };
    let preview = FirewallDenyPreviewRequest { port: 22, protocol: "tcp".to_owned() };
    let shown = world.run(Ask::FirewallDenyPreview(preview)).await.unwrap();
    let Answer::FirewallDenyPreview(preview) = &shown else { panic!("{shown:?}") };
    assert!(preview.change.as_ref().is_some_and(|change| change.refusal.contains("ssh")), "{preview:?}");
    let fault = world.run_prepared(Ask::FirewallDeny(deny), shown).await.unwrap_err();
    assert_eq!(fault.failure.code, "would_cut_off");
    // As it was.
    let ended = std::process::Command::new("/usr/sbin/ufw").args(["delete", "deny", "8443/tcp"]).status();
    assert!(ended.unwrap().success());
}

/// By its name before the test that goes back to an older image: how Compose is called cannot be found out while a
/// container runs another image than its files say.
#[tokio::test]
async fn a_clean_restart_keeps_the_volumes() {
    let world = World::new().await;
    world.healthy().await;
    let build = Ask::ComposeBuild(ComposeBuildRequest::default());
    let built = match world.run_until(build, Duration::from_secs(300)).await {
        Ok(Answer::ComposeBuild(built)) => built,
        other => panic!("{other:?}"),
    };
    assert_eq!(built.images.len(), 1, "{built:?}");
    assert!(!built.images[0].id_after.is_empty());
    let named = ComposeBuildRequest { services: vec!["redis".to_owned()], ..Default::default() };
    let fault = world.run(Ask::ComposeBuild(named)).await.unwrap_err();
    assert_eq!(fault.failure.code, "nothing_to_build");

    let restart = ContainerRestartRequest { service: "redis".to_owned(), ..Default::default() };
    let Ok(Answer::ContainerRestart(restarted)) =
        world.run_until(Ask::ContainerRestart(restart), Duration::from_secs(60)).await
    else {
        panic!("not restarted")
    };
    assert!(restarted.started_after_ms > restarted.started_before_ms, "{restarted:?}");

    let Ok(Answer::ComposeDown(down)) =
        world.run_until(Ask::ComposeDown(ComposeDownRequest::default()), Duration::from_secs(120)).await
    else {
        panic!("not down")
    };
    assert_eq!(down.removed.len(), 3, "{down:?}");
    assert_eq!(down.volumes, ["sylion-postgres-data", "sylion-redis-data"]);
    let up = world.run_until(Ask::ComposeUp(ComposeUpRequest::default()), Duration::from_secs(120)).await;
    assert!(up.is_ok(), "{up:?}");
    world.healthy().await;
    let Ok(Answer::StackLogs(logs)) = world.run(Ask::StackLogs(StackLogsRequest::default())).await else {
        panic!("no logs")
    };
    assert!(logs.missing.is_empty() && logs.lines.len() > 5, "{logs:?}");
    assert!(logs.lines.is_sorted_by_key(|line| line.at_ms), "in their order");
    for service in ["backend", "postgres", "redis"] {
        assert!(logs.lines.iter().any(|line| line.service == service), "{service}");
    }
}

#[tokio::test]
async fn a_service_goes_back_to_the_image_that_it_was_well_with() {
    let state = tempfile::tempdir().unwrap();
    let world = World::remembering(state.path()).await;
    world.healthy().await;
    // A remembered look at the healthy host.
    world.host.stacks().refresh().await;
    let service = || "backend".to_owned();
    let ask = || ComposeRollbackPreviewRequest { service: service(), ..Default::default() };
    let look = async || match world.run(Ask::ComposeRollbackPreview(ask())).await {
        Ok(Answer::ComposeRollbackPreview(found)) => found,
        other => panic!("{other:?}"),
    };
    let first = look().await;
    assert!(!first.possible && first.current_was_well, "{first:?}");
    let back = ComposeRollbackRequest { service: service(), ..Default::default() };
    let fault = world.run(Ask::ComposeRollback(back.clone())).await.unwrap_err();
    assert_eq!(fault.failure.code, "no_way_back");

    // A deployment: other source, another image.
    let source = "/srv/sylion/backend/server.py";
    let before = std::fs::read_to_string(source).unwrap();
    std::fs::write(source, format!("{before}\n# another version\n")).unwrap();
    let up = ComposeUpRequest { services: vec![service()], build: true, ..Default::default() };
    let deployed = world.run_until(Ask::ComposeUp(up), Duration::from_secs(300)).await;
    std::fs::write(source, before).unwrap();
    assert!(deployed.is_ok(), "{deployed:?}");
    let second = look().await;
    assert!(second.possible && second.previous_id == first.current_id, "{second:?}");
    let Ok(Answer::ComposeRollback(done)) =
        world.run_until(Ask::ComposeRollback(back), Duration::from_secs(120)).await
    else {
        panic!("not rolled back")
    };
    assert_eq!((done.from_id, done.to_id), (second.current_id, first.current_id.clone()));
    let inspect = ContainerInspectRequest { service: service(), ..Default::default() };
    let Ok(Answer::ContainerInspect(own)) = world.run(Ask::ContainerInspect(inspect)).await else {
        panic!("no backend")
    };
    assert_eq!(own.image_id, first.current_id);
    world.healthy().await;
}

#[tokio::test]
async fn an_engine_that_answers_is_not_restarted() {
    let world = World::new().await;
    let restart = UnitRestartRequest { unit: "docker.service".to_owned() };
    let fault = world.run(Ask::UnitRestart(restart)).await.unwrap_err();
    assert_eq!(fault.failure.code, "engine_up");
}
