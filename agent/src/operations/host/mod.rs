//! The machine itself: what it is, how loaded it is and by whom, what it runs by the clock, and what changed on it.

pub(super) mod changes;
pub(super) mod defer;
pub(super) mod disks;
pub(super) mod jobs;
mod kernel_log;
pub(super) mod load;
mod owners;
pub(super) mod processes;
mod sample;

use std::{fs, time::Duration};

use procfs::{Current as _, CurrentSI as _};
use tokio::time::Instant;
use vigie_proto::v1::{HostFactsRequest, HostFactsResult};

use super::{Context, Fault};

/// What is left for the rest of an operation after its interval.
const REST: Duration = Duration::from_secs(2);

/// Over how long to measure: what was asked for, as far as the deadline leaves it.
fn interval(asked_ms: u32, otherwise: Duration, cx: &Context) -> Duration {
    let wanted = if asked_ms == 0 { otherwise } else { Duration::from_millis(asked_ms.into()) };
    let left = cx.deadline.saturating_duration_since(Instant::now()).saturating_sub(REST);
    wanted.min(left).max(Duration::from_millis(100))
}

/// Two digits are what a person reads.
fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Tells what the machine is.
pub(super) async fn facts(_: HostFactsRequest, cx: &Context) -> Result<HostFactsResult, Fault> {
    // An engine or a Compose that does not answer is no reason to tell nothing of the machine: their versions stay
    // empty, and the operations that need them say why.
    let (docker, compose) =
        tokio::join!(cx.host.docker().version(), cx.host.stacks().compose().find(cx.deadline));
    let memory = procfs::Meminfo::current().map_err(unreadable)?;
    Ok(HostFactsResult {
        hostname: line("/proc/sys/kernel/hostname"),
        system: system(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        kernel: line("/proc/sys/kernel/osrelease"),
        architecture: std::env::consts::ARCH.to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        uptime_s: procfs::Uptime::current().map_err(unreadable)?.uptime as u64,
        cpus: cpus()?,
        memory_bytes: memory.mem_total,
        swap_bytes: memory.swap_total,
        systemd: line("/proc/1/comm") == "systemd",
        docker_version: docker.unwrap_or_default(),
        compose_version: compose.map(|compose| compose.version.clone()).unwrap_or_default(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        privileged: cx.host.privileged(),
    })
}

/// The machine's processors, whatever the agent itself may use of them.
fn cpus() -> Result<u32, Fault> {
    let stats = procfs::KernelStats::current().map_err(unreadable)?;
    Ok(u32::try_from(stats.cpu_time.len()).unwrap_or(u32::MAX))
}

/// The first line of one of the kernel's files; empty where the kernel has none.
fn line(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn system(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn unreadable(error: procfs::ProcError) -> Fault {
    Fault::failed("proc_unreadable", format!("/proc cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_name() {
        assert_eq!(
            system("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(system(""), "");
    }

    #[test]
    fn this_machine_has_processors() {
        assert!(cpus().unwrap() >= 1);
        assert!(!line("/proc/sys/kernel/osrelease").is_empty());
    }
}
