//! The machine itself: what it is, and how loaded it is.

use std::fs;

use procfs::{Current as _, CurrentSI as _};
use vigie_proto::v1::{HostFactsRequest, HostFactsResult, HostLoadRequest, HostLoadResult};

use super::{Context, Fault};

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

/// Reads load, memory, swap, pressure and out-of-memory kills.
pub(super) async fn load(_: HostLoadRequest, _: &Context) -> Result<HostLoadResult, Fault> {
    let load = procfs::LoadAverage::current().map_err(unreadable)?;
    let memory = procfs::Meminfo::current().map_err(unreadable)?;
    let counters = procfs::VmStat::current().map_err(unreadable)?;
    // Kernels without pressure information have no such files.
    let percent =
        |record: Option<procfs::PressureRecord>| record.map_or(0.0, |record| f64::from(record.avg10));
    Ok(HostLoadResult {
        load_1: f64::from(load.one),
        load_5: f64::from(load.five),
        load_15: f64::from(load.fifteen),
        cpus: cpus()?,
        memory_total_bytes: memory.mem_total,
        memory_available_bytes: memory.mem_available.unwrap_or(memory.mem_free),
        swap_total_bytes: memory.swap_total,
        swap_used_bytes: memory.swap_total.saturating_sub(memory.swap_free),
        oom_kills: counters.0.get("oom_kill").copied().and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        cpu_pressure: percent(procfs::CpuPressure::current().ok().map(|pressure| pressure.some)),
        memory_pressure: percent(procfs::MemoryPressure::current().ok().map(|pressure| pressure.some)),
        io_pressure: percent(procfs::IoPressure::current().ok().map(|pressure| pressure.some)),
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
