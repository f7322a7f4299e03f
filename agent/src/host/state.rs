//! The host's state, looked at again and again, and told when something in it matters.
//!
//! Load and containers are looked at every ten seconds, which costs a few reads of `/proc` and one question to the
//! engine. What needs programs to be run (how nginx and Compose are configured) is looked at when the containers
//! changed, and every two minutes. Nothing is told of numbers that only tremble, so that an idle host stays silent.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use vigie_proto::v1::{
    Container, HostFactsRequest, HostFactsResult, HostLoadRequest, HostLoadResult, HostState, OutputSource,
    Stack, request, result,
};

use super::{Host, child::OutputSink, docker::container, executor::Executor as _};

/// Between two looks at the load.
const EVERY: Duration = Duration::from_secs(10);

/// Between two looks at what needs programs to be run, in looks at the load.
const STACKS_EVERY: u32 = 12;

/// Facts change with a boot or an installation.
const FACTS_EVERY: u32 = 60;

/// How long a look may take before it is given up: an engine that hangs must not stop the rest.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks for ever, and publishes a state that differs from the last one in something that matters.
pub async fn watch(host: Arc<Host>, published: watch::Sender<Option<Arc<HostState>>>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut facts, mut seen) = (None, None);
    for look in 0u32.. {
        ticks.tick().await;
        let present = containers(&host).await;
        if look.is_multiple_of(STACKS_EVERY) || present != seen {
            if timeout(PATIENCE, host.stacks().refresh()).await.is_err() {
                tracing::warn!("the stacks could not be looked at in time");
            }
            seen = present;
            if timeout(PATIENCE, host.changes().look(&host)).await.is_err() {
                tracing::warn!("what changed could not be looked at in time");
            }
        }
        if look.is_multiple_of(FACTS_EVERY) || facts.is_none() {
            facts = ask_facts(&host).await.or(facts);
        }
        let state = HostState {
            facts: facts.clone(),
            load: ask_load(&host).await,
            stacks: host.stacks().snapshot(),
            policy: Some(host.policy().summary()),
            docker_error: host.redact(&host.stacks().docker_error()),
            ..HostState::default()
        };
        published.send_if_modified(|last| {
            let changed = last.as_deref().is_none_or(|last| matters(last, &state));
            if changed {
                *last = Some(Arc::new(state));
            }
            changed
        });
    }
}

/// The containers without Docker's own words; `None` while the engine does not answer.
async fn containers(host: &Host) -> Option<Vec<Container>> {
    let present = timeout(PATIENCE, host.docker().containers(None)).await.ok()?.ok()?;
    let mut present: Vec<_> = present.iter().map(container).collect();
    present.iter_mut().for_each(|own| own.status.clear());
    present.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Some(present)
}

async fn ask_facts(host: &Arc<Host>) -> Option<HostFactsResult> {
    match ask(host, request::Operation::HostFacts(HostFactsRequest {})).await? {
        result::Operation::HostFacts(facts) => Some(facts),
        _ => None,
    }
}

async fn ask_load(host: &Arc<Host>) -> Option<HostLoadResult> {
    match ask(
        host,
        request::Operation::HostLoad(HostLoadRequest { brief: true, ..HostLoadRequest::default() }),
    )
    .await?
    {
        result::Operation::HostLoad(load) => Some(load),
        _ => None,
    }
}

async fn ask(host: &Arc<Host>, operation: request::Operation) -> Option<result::Operation> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let outcome = timeout(PATIENCE, host.run(&operation, deadline, Arc::new(Silent), None)).await.ok()?;
    if let Some(failure) = &outcome.failure {
        tracing::debug!(
            operation = operation.name(),
            reason = failure.message,
            "a part of the state is missing"
        );
    }
    outcome.result?.operation
}

struct Silent;

impl OutputSink for Silent {
    fn write(&self, _: OutputSource, _: &[u8]) {}
}

/// Whether somebody who knows the one state has to be told the other.
fn matters(told: &HostState, now: &HostState) -> bool {
    let steady_facts =
        |facts: &Option<HostFactsResult>| facts.clone().map(|facts| HostFactsResult { uptime_s: 0, ..facts });
    steady_facts(&told.facts) != steady_facts(&now.facts)
        || told.policy != now.policy
        || told.docker_error != now.docker_error
        || steady_stacks(&told.stacks) != steady_stacks(&now.stacks)
        || match (&told.load, &now.load) {
            (Some(told), Some(now)) => load_matters(told, now),
            (told, now) => told.is_some() != now.is_some(),
        }
}

/// Docker's own words change with every minute (`Up 3 minutes`); what they mean stands in the other fields.
fn steady_stacks(stacks: &[Stack]) -> Vec<Stack> {
    let mut stacks = stacks.to_vec();
    for container in stacks.iter_mut().flat_map(|stack| &mut stack.services) {
        container.status.clear();
    }
    stacks
}

/// Load is told when it moved by a person's measure, from what was told last: steps would flicker at their edges.
fn load_matters(told: &HostLoadResult, now: &HostLoadResult) -> bool {
    let cpus = f64::from(now.cpus.max(1));
    let load = |told: f64, now: f64| (told - now).abs() > 0.25 * cpus;
    let share = |told: u64, now: u64, of: u64| told.abs_diff(now).saturating_mul(20) > of;
    let pressure = |told: f64, now: f64| (told - now).abs() > 10.0;
    told.cpus != now.cpus
        || told.oom_kills != now.oom_kills
        || told.memory_total_bytes != now.memory_total_bytes
        || told.swap_total_bytes != now.swap_total_bytes
        || load(told.load_1, now.load_1)
        || load(told.load_5, now.load_5)
        || share(told.memory_available_bytes, now.memory_available_bytes, now.memory_total_bytes)
        || share(told.swap_used_bytes, now.swap_used_bytes, now.swap_total_bytes)
        || pressure(told.cpu_pressure, now.cpu_pressure)
        || pressure(told.memory_pressure, now.memory_pressure)
        || pressure(told.io_pressure, now.io_pressure)
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::PolicySummary;

    use super::*;

    fn state() -> HostState {
        HostState {
            facts: Some(HostFactsResult { hostname: "vps1".to_owned(), uptime_s: 5, ..Default::default() }),
            load: Some(HostLoadResult {
                cpus: 2,
                load_1: 0.4,
                memory_total_bytes: 1000,
                memory_available_bytes: 500,
                ..Default::default()
            }),
            stacks: vec![Stack {
                name: "sylion".to_owned(),
                services: vec![Container {
                    state: "running".to_owned(),
                    status: "Up 3 minutes".to_owned(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            policy: Some(PolicySummary::default()),
            ..HostState::default()
        }
    }

    #[test]
    fn trembling_is_not_told() {
        let mut later = state();
        later.facts.as_mut().unwrap().uptime_s = 15;
        later.load.as_mut().unwrap().load_1 = 0.7;
        later.load.as_mut().unwrap().memory_available_bytes = 460;
        later.stacks[0].services[0].status = "Up 4 minutes".to_owned();
        assert!(!matters(&state(), &later));
    }

    #[test]
    fn whatever_matters_is_told() {
        let changes: [fn(&mut HostState); 7] = [
            |state| state.load.as_mut().unwrap().load_1 = 1.0,
            |state| state.load.as_mut().unwrap().memory_available_bytes = 440,
            |state| state.load.as_mut().unwrap().oom_kills = 1,
            |state| state.stacks[0].services[0].state = "exited".to_owned(),
            |state| state.stacks.clear(),
            |state| state.policy.as_mut().unwrap().error = "missing".to_owned(),
            |state| state.docker_error = "no engine".to_owned(),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut later = state();
            change(&mut later);
            assert!(matters(&state(), &later), "{at}");
        }
    }
}
