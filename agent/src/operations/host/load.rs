//! How loaded the machine is.

use std::time::Duration;

use procfs::{Current as _, CurrentSI as _, KernelStats, PressureRecord, VmStat};
use tokio::time::Instant;
use vigie_proto::v1::{HostLoadRequest, HostLoadResult};

use super::{
    super::{Context, Fault, text},
    interval, kernel_log,
    owners::Owners,
    sample, unreadable,
};

/// Reads load, memory, swap and pressure; what has to be measured, over an interval.
pub(in super::super) async fn load(request: HostLoadRequest, cx: &Context) -> Result<HostLoadResult, Fault> {
    let mut result = at_once()?;
    if request.brief {
        return Ok(result);
    }
    let interval = interval(request.interval_ms, Duration::from_secs(1), cx);
    let (before, begun) = (Counters::read()?, Instant::now());
    let usage = sample::measure(interval).await;
    Counters::read()?.since(&before, begun.elapsed(), &mut result);
    result.measured = true;
    result.interval_ms = u32::try_from(usage.interval.as_millis()).unwrap_or(u32::MAX);
    result.own_cpu_percent =
        super::hundredth((usage.cpus * 100.0 / f64::from(result.cpus.max(1))).min(100.0));
    result.demand = super::hundredth(usage.demand);
    result.demand_low_priority = super::hundredth(usage.demand_low_priority);
    result.blocked = super::hundredth(usage.blocked);
    result.major_faults_per_s = super::hundredth(usage.faults_per_s);
    result.processes = u32::try_from(usage.processes.len()).unwrap_or(u32::MAX);
    result.threads = u32::try_from(usage.threads).unwrap_or(u32::MAX);
    // Nothing lies in swap where there is none.
    if result.swap_total_bytes > 0 {
        result.own_swap_bytes = usage.processes.keys().map(|(pid, _)| sample::swap_bytes(*pid)).sum();
    }
    // A kernel that never killed anybody has nothing to tell of it.
    if result.oom_kills > 0 {
        let owners = Owners::look(cx).await;
        if let Some(mut kills) = kernel_log::kills(&owners, cx.deadline).await? {
            result.kills_known = true;
            for kill in &mut kills {
                kill.process = text::text(&cx.host, &kill.process);
            }
            result.kills = kills;
        }
    } else {
        result.kills_known = true;
    }
    Ok(result)
}

/// What one look tells.
fn at_once() -> Result<HostLoadResult, Fault> {
    let load = procfs::LoadAverage::current().map_err(unreadable)?;
    let memory = procfs::Meminfo::current().map_err(unreadable)?;
    let counters = VmStat::current().map_err(unreadable)?;
    // Kernels without pressure information have no such files.
    let cpu = procfs::CpuPressure::current().ok().map(|pressure| pressure.some);
    let memory_pressure = procfs::MemoryPressure::current().ok();
    let io = procfs::IoPressure::current().ok();
    let ten = |record: Option<&PressureRecord>| record.map_or(0.0, |record| f64::from(record.avg10));
    let sixty = |record: Option<&PressureRecord>| record.map_or(0.0, |record| f64::from(record.avg60));
    Ok(HostLoadResult {
        load_1: f64::from(load.one),
        load_5: f64::from(load.five),
        load_15: f64::from(load.fifteen),
        cpus: super::cpus()?,
        memory_total_bytes: memory.mem_total,
        memory_available_bytes: memory.mem_available.unwrap_or(memory.mem_free),
        swap_total_bytes: memory.swap_total,
        swap_used_bytes: memory.swap_total.saturating_sub(memory.swap_free),
        oom_kills: counter(&counters, "oom_kill"),
        cpu_pressure: ten(cpu.as_ref()),
        memory_pressure: ten(memory_pressure.as_ref().map(|pressure| &pressure.some)),
        io_pressure: ten(io.as_ref().map(|pressure| &pressure.some)),
        cpu_pressure_60: sixty(cpu.as_ref()),
        memory_pressure_60: sixty(memory_pressure.as_ref().map(|pressure| &pressure.some)),
        io_pressure_60: sixty(io.as_ref().map(|pressure| &pressure.some)),
        memory_pressure_full: ten(memory_pressure.as_ref().map(|pressure| &pressure.full)),
        io_pressure_full: ten(io.as_ref().map(|pressure| &pressure.full)),
        pressure_known: cpu.is_some(),
        whole_machine: sample::whole_machine(),
        ..HostLoadResult::default()
    })
}

fn counter(counters: &VmStat, name: &str) -> u64 {
    counters.0.get(name).copied().and_then(|n| u64::try_from(n).ok()).unwrap_or_default()
}

/// Counters of the whole kernel whose rise tells something.
struct Counters {
    total: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
    forks: u64,
    swap_in: u64,
    swap_out: u64,
}

impl Counters {
    fn read() -> Result<Self, Fault> {
        let stats = KernelStats::current().map_err(unreadable)?;
        let pages = VmStat::current().map_err(unreadable)?;
        let times = &stats.total;
        let (iowait, steal) = (times.iowait.unwrap_or_default(), times.steal.unwrap_or_default());
        // Guests' time stands in `user` and `nice` already.
        let busy = times.user
            + times.nice
            + times.system
            + times.irq.unwrap_or_default()
            + times.softirq.unwrap_or_default();
        Ok(Self {
            total: busy + times.idle + iowait + steal,
            idle: times.idle,
            iowait,
            steal,
            forks: stats.processes,
            swap_in: counter(&pages, "pswpin"),
            swap_out: counter(&pages, "pswpout"),
        })
    }

    fn since(&self, before: &Self, elapsed: Duration, result: &mut HostLoadResult) {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let total = self.total.saturating_sub(before.total).max(1) as f64;
        let share = |now: u64, then: u64| super::hundredth(now.saturating_sub(then) as f64 * 100.0 / total);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let page = procfs::page_size() as f64;
        result.iowait_percent = share(self.iowait, before.iowait);
        result.steal_percent = share(self.steal, before.steal);
        result.cpu_percent = super::hundredth(
            (100.0
                - share(self.idle, before.idle)
                - share(self.iowait, before.iowait)
                - share(self.steal, before.steal))
            .max(0.0),
        );
        result.forks_per_s = super::hundredth(rate(self.forks, before.forks));
        result.swap_in_bytes_per_s = (rate(self.swap_in, before.swap_in) * page).round();
        result.swap_out_bytes_per_s = (rate(self.swap_out, before.swap_out) * page).round();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_all_processors_and_rates() {
        let before =
            Counters { total: 1000, idle: 500, iowait: 100, steal: 0, forks: 7, swap_in: 0, swap_out: 9 };
        let after =
            Counters { total: 1400, idle: 600, iowait: 200, steal: 40, forks: 27, swap_in: 4, swap_out: 9 };
        let mut result = HostLoadResult::default();
        after.since(&before, Duration::from_secs(2), &mut result);
        assert_eq!((result.iowait_percent, result.steal_percent, result.cpu_percent), (25.0, 10.0, 40.0));
        assert_eq!((result.forks_per_s, result.swap_out_bytes_per_s), (10.0, 0.0));
        assert!(result.swap_in_bytes_per_s > 0.0);
    }

    #[test]
    fn one_look_at_this_machine() {
        let found = at_once().unwrap();
        assert!(found.cpus >= 1 && found.memory_available_bytes <= found.memory_total_bytes);
        assert!(!found.measured);
    }
}
