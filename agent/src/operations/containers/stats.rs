//! What each running container uses, by the engine's own counters.

use std::time::{Duration, Instant};

use bollard::models::{ContainerStatsResponse, ContainerSummary};
use futures_util::StreamExt as _;
use tokio::time::sleep;
use vigie_proto::v1::{Container, ContainerStatsRequest, ContainerStatsResult, ContainerUse};

use super::super::{Context, Fault};
use crate::host::docker::container;

/// More containers than this are no single VPS.
const CONTAINERS: usize = 200;

/// How many are asked about at a time: the engine reads a dozen files for each.
const AT_ONCE: usize = 16;

/// Between the two readings.
const INTERVAL: Duration = Duration::from_secs(1);

/// Measures every running container over a second, all of them together.
pub(in super::super) async fn stats(
    request: ContainerStatsRequest,
    cx: &Context,
) -> Result<ContainerStatsResult, Fault> {
    let stack = match request.stack.as_str() {
        "" => None,
        name => Some(cx.host.stacks().resolve(name).await?.name.clone()),
    };
    let all = cx.host.docker().containers(stack.as_deref()).await?;
    let mut running: Vec<ContainerSummary> =
        all.into_iter().filter(|found| container(found).state == "running").collect();
    let truncated = running.len() > CONTAINERS;
    running.truncate(CONTAINERS);
    let asked = running.iter().map(container).map(|known| measure(cx, known)).collect::<Vec<_>>();
    let measured: Vec<(String, Option<ContainerUse>)> =
        futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    let (mut containers, mut unknown) = (Vec::new(), Vec::new());
    for (name, used) in measured {
        match used {
            Some(used) => containers.push(used),
            None => unknown.push(name),
        }
    }
    containers.sort_by(|a: &ContainerUse, b| {
        b.cpu_percent.total_cmp(&a.cpu_percent).then_with(|| a.name.cmp(&b.name))
    });
    unknown.sort();
    Ok(ContainerStatsResult { containers, unknown, truncated })
}

/// One container over a second, with its name; without more where the engine told nothing.
async fn measure(cx: &Context, known: Container) -> (String, Option<ContainerUse>) {
    let (name, engine) = (known.name.clone(), cx.host.docker());
    let Ok(before) = engine.stats(&known.id).await else { return (name, None) };
    let begun = Instant::now();
    sleep(INTERVAL).await;
    let Ok(after) = engine.stats(&known.id).await else { return (name, None) };
    let limits = engine.inspect(&known.id).await.ok().and_then(|found| found.host_config);
    let cpu_limit = limits.as_ref().map_or(0.0, |limits| match limits.nano_cpus.unwrap_or_default() {
        0 => match (limits.cpu_quota.unwrap_or_default(), limits.cpu_period.unwrap_or_default()) {
            (quota @ 1.., 0) => quota as f64 / 100_000.0,
            (quota @ 1.., period) => quota as f64 / period as f64,
            _ => 0.0,
        },
        nano => nano as f64 / 1e9,
    });
    let memory_limit = limits.as_ref().and_then(|limits| u64::try_from(limits.memory?).ok());
    let used = ContainerUse {
        name: known.name,
        id: known.id,
        stack: known.stack,
        service: known.service,
        cpu_limit,
        memory_limit_bytes: memory_limit.unwrap_or_default(),
        ..ContainerUse::default()
    };
    (name, Some(between(used, &before, &after, begun.elapsed())))
}

/// What rose between two readings.
fn between(
    mut used: ContainerUse,
    before: &ContainerStatsResponse,
    after: &ContainerStatsResponse,
    elapsed: Duration,
) -> ContainerUse {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = |of: fn(&ContainerStatsResponse) -> u64| of(after).saturating_sub(of(before)) as f64 / seconds;
    let percent =
        |part: f64, whole: f64| if whole > 0.0 { (part * 10_000.0 / whole).round() / 100.0 } else { 0.0 };
    used.cpu_percent = percent(rate(cpu), 1e9);
    used.throttled_percent = percent(rate(throttled), rate(periods));
    (used.memory_bytes, used.pids, used.pids_limit) = (memory(after), pids(after), pids_limit(after));
    used.memory_percent = percent(used.memory_bytes as f64, used.memory_limit_bytes as f64);
    used.read_bytes_per_s = rate(|stats| moved(stats, "read")).round();
    used.write_bytes_per_s = rate(|stats| moved(stats, "write")).round();
    used.received_bytes_per_s = rate(|stats| network(stats, |net| net.rx_bytes)).round();
    used.sent_bytes_per_s = rate(|stats| network(stats, |net| net.tx_bytes)).round();
    used
}

fn cpu(stats: &ContainerStatsResponse) -> u64 {
    let usage = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref());
    usage.and_then(|usage| usage.total_usage).unwrap_or_default()
}

fn throttled(stats: &ContainerStatsResponse) -> u64 {
    let data = stats.cpu_stats.as_ref().and_then(|cpu| cpu.throttling_data.as_ref());
    data.and_then(|data| data.throttled_periods).unwrap_or_default()
}

fn periods(stats: &ContainerStatsResponse) -> u64 {
    let data = stats.cpu_stats.as_ref().and_then(|cpu| cpu.throttling_data.as_ref());
    data.and_then(|data| data.periods).unwrap_or_default()
}

/// Without the cache that the kernel would give back: `inactive_file` on v2, `total_inactive_file` on v1.
fn memory(stats: &ContainerStatsResponse) -> u64 {
    let Some(memory) = &stats.memory_stats else { return 0 };
    let parts = memory.stats.as_ref();
    let cache =
        parts.and_then(|parts| parts.get("total_inactive_file").or_else(|| parts.get("inactive_file")));
    memory.usage.unwrap_or_default().saturating_sub(cache.copied().unwrap_or_default())
}

fn pids(stats: &ContainerStatsResponse) -> u32 {
    let current = stats.pids_stats.as_ref().and_then(|pids| pids.current);
    u32::try_from(current.unwrap_or_default()).unwrap_or(u32::MAX)
}

/// The engine writes the greatest number for none.
fn pids_limit(stats: &ContainerStatsResponse) -> u32 {
    let limit = stats.pids_stats.as_ref().and_then(|pids| pids.limit);
    u32::try_from(limit.unwrap_or_default()).unwrap_or_default()
}

fn moved(stats: &ContainerStatsResponse, way: &str) -> u64 {
    let entries = stats.blkio_stats.as_ref().and_then(|io| io.io_service_bytes_recursive.as_ref());
    let own = entries
        .into_iter()
        .flatten()
        .filter(|entry| entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(way)));
    own.filter_map(|entry| entry.value).sum()
}

fn network(
    stats: &ContainerStatsResponse,
    of: fn(&bollard::models::ContainerNetworkStats) -> Option<u64>,
) -> u64 {
    stats.networks.iter().flat_map(|networks| networks.values()).filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(cpu: u64, periods: u64, throttled: u64, read: u64) -> ContainerStatsResponse {
        // The shape of `GET /containers/ID/stats?stream=false` of Docker 20.10, numbers put in.
        let text = format!(
            r#"{{"cpu_stats":{{"cpu_usage":{{"total_usage":{cpu}}},"system_cpu_usage":9,"online_cpus":2,
                "throttling_data":{{"periods":{periods},"throttled_periods":{throttled},"throttled_time":1}}}},
                "memory_stats":{{"usage":104857600,"stats":{{"total_inactive_file":52428800}},"limit":1}},
                "blkio_stats":{{"io_service_bytes_recursive":[{{"major":254,"minor":0,"op":"Read","value":{read}}},
                {{"major":254,"minor":0,"op":"Write","value":7}}]}},"pids_stats":{{"current":3}},
                "networks":{{"eth0":{{"rx_bytes":5,"tx_bytes":6}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn rates_between_two_readings() {
        let limited = ContainerUse { memory_limit_bytes: 104_857_600, ..ContainerUse::default() };
        let found = between(
            limited,
            &reading(1_000_000_000, 10, 0, 0),
            &reading(2_000_000_000, 30, 15, 4096),
            Duration::from_secs(2),
        );
        assert_eq!((found.cpu_percent, found.throttled_percent, found.memory_percent), (50.0, 75.0, 50.0));
        assert_eq!((found.read_bytes_per_s, found.write_bytes_per_s, found.pids), (2048.0, 0.0, 3));
    }
}
