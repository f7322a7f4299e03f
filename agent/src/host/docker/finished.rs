//! Services that run once and end well (a migration, the making of a bucket): they are not down.

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, RestartPolicyNameEnum};
use futures_util::{StreamExt as _, stream};
use vigie_proto::v1::Container;

use super::Engine;

/// Inspections at once. Few containers of a host have ended well.
const AT_ONCE: usize = 4;

impl Engine {
    /// Says of each container whether it has done what it was started for. The engine's list tells neither a restart
    /// policy nor what is published, so that those that ended with 0 are inspected. One that cannot be is left as it is:
    /// nobody then calls it well.
    pub async fn tell_finished(&self, containers: &mut [Container]) {
        let ended =
            containers.iter_mut().filter(|own| own.state == "exited" && own.status.starts_with("Exited (0)"));
        stream::iter(ended)
            .for_each_concurrent(AT_ONCE, async |own| {
                own.finished = self.inspect(&own.id).await.is_ok_and(|found| has_finished(&found));
            })
            .await;
    }
}

/// It ended with 0, and nothing would start it again. What publishes a port or has a health check is there to be asked,
/// and does not end by itself: somebody stopped it.
fn has_finished(found: &ContainerInspectResponse) -> bool {
    let ended_well = found.state.as_ref().is_some_and(|state| {
        state.status == Some(ContainerStateStatusEnum::EXITED)
            && state.exit_code == Some(0)
            && state.oom_killed != Some(true)
            && state.error.as_deref().unwrap_or_default().is_empty()
    });
    let settings = found.host_config.as_ref();
    let policy =
        settings.and_then(|settings| settings.restart_policy.as_ref()).and_then(|policy| policy.name);
    let stays = matches!(
        policy,
        None | Some(
            RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO | RestartPolicyNameEnum::ON_FAILURE
        )
    );
    let published = settings.and_then(|settings| settings.port_bindings.as_ref());
    let published = published.is_some_and(|ports| ports.values().any(Option::is_some));
    let check = found.config.as_ref().and_then(|config| config.healthcheck.as_ref());
    let check = check.and_then(|check| check.test.as_ref());
    let checked = check.is_some_and(|test| test.first().is_some_and(|kind| kind != "NONE"));
    ended_well && stays && !published && !checked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `docker inspect` tells it, shortened.
    fn finished(exit_code: i64, policy: &str, ports: &str, check: &str) -> bool {
        let told = format!(
            r#"{{"State": {{"Status": "exited", "ExitCode": {exit_code}, "OOMKilled": false, "Error": ""}},
                 "HostConfig": {{"RestartPolicy": {{"Name": "{policy}"}}, "PortBindings": {ports}}},
                 "Config": {{"Healthcheck": {check}}}}}"#
        );
        has_finished(&serde_json::from_str(&told).unwrap())
    }

    #[test]
    fn a_migration_that_ran_is_finished_and_a_service_that_stopped_is_not() {
        const ASKED: &str = r#"{"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}"#;
        assert!(finished(0, "no", "{}", "null"));
        assert!(finished(0, "", "null", "null"));
        assert!(finished(0, "on-failure", "{}", r#"{"Test": ["NONE"]}"#));
        assert!(!finished(1, "no", "{}", "null"), "it failed");
        assert!(!finished(0, "unless-stopped", "{}", "null"), "it was to run for ever");
        assert!(!finished(0, "always", "{}", "null"));
        assert!(!finished(0, "no", ASKED, "null"), "it serves");
        assert!(!finished(0, "no", "{}", r#"{"Test": ["CMD-SHELL", "true"]}"#), "it is waited for");
    }
}
