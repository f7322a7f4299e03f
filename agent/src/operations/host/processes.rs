//! Which processes, and which containers and units, use the machine.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    time::Duration,
};

use procfs::CurrentSI as _;
use vigie_proto::v1::{HostProcessesRequest, HostProcessesResult, OwnerUse, ProcessUse, StuckProcess};

use super::{
    super::{Context, Fault, text},
    interval,
    owners::{Owner, Owners},
    sample::{self, Key, Usage, Use},
};

/// What of a command line tells what it is.
const COMMAND: usize = 256;

/// Processes of each ranking, when the request does not say.
const COUNT: u32 = 15;

/// More owners than any host has that is still well.
const OWNERS: usize = 200;

/// Processes that are stuck; more tell no more.
const STUCK: usize = 20;

/// Measures, and ranks.
pub(in super::super) async fn list(
    request: HostProcessesRequest,
    cx: &Context,
) -> Result<HostProcessesResult, Fault> {
    let interval = interval(request.interval_ms, Duration::from_secs(1), cx);
    let (owners, usage) = tokio::join!(Owners::look(cx), sample::measure(interval));
    let count = if request.count == 0 { COUNT } else { request.count } as usize;
    let cpus = super::cpus()?;
    let booted_ms = booted_ms()?;
    let host = std::sync::Arc::clone(&cx.host);
    // Command lines are redacted, which takes as long as the host's secrets are many.
    let shown = tokio::task::spawn_blocking(move || shown(&host, &usage, &owners, count, cpus, booted_ms));
    shown.await.map_err(|_| Fault::failed("proc_unreadable", "the processes cannot be ranked"))
}

fn shown(
    host: &crate::host::Host,
    usage: &Usage,
    owners: &Owners,
    count: usize,
    cpus: u32,
    booted_ms: i64,
) -> HostProcessesResult {
    let owned: BTreeMap<Key, Owner> = usage
        .processes
        .iter()
        .map(|(key, used)| {
            let owner = if used.seen.kernel {
                Owner { kind: "kernel", ..Owner::default() }
            } else {
                owners.of(key.0)
            };
            (*key, owner)
        })
        .collect();
    let mut processes: Vec<ProcessUse> = leading(usage, count)
        .into_iter()
        .filter_map(|key| {
            let (used, owner) = (usage.processes.get(&key)?, owned.get(&key)?);
            Some(describe(host, key, used, owner, owners, booted_ms))
        })
        .collect();
    processes.sort_by(|a, b| b.demand.total_cmp(&a.demand).then_with(|| b.rss_bytes.cmp(&a.rss_bytes)));
    let mut by_owner = grouped(usage, &owned);
    let truncated = by_owner.len() > OWNERS;
    by_owner.truncate(OWNERS);
    let stuck = usage.processes.iter().filter(|(_, used)| used.stuck).take(STUCK);
    HostProcessesResult {
        interval_ms: u32::try_from(usage.interval.as_millis()).unwrap_or(u32::MAX),
        cpus,
        processes,
        owners: by_owner,
        total_processes: u32::try_from(usage.processes.len()).unwrap_or(u32::MAX),
        total_threads: u32::try_from(usage.threads).unwrap_or(u32::MAX),
        demand: super::hundredth(usage.demand),
        demand_low_priority: super::hundredth(usage.demand_low_priority),
        blocked: super::hundredth(usage.blocked),
        stuck: stuck
            .map(|((pid, started), used)| StuckProcess {
                pid: *pid,
                name: text::text(host, &used.seen.name),
                owner: owned.get(&(*pid, *started)).map(|owner| owner.name.clone()).unwrap_or_default(),
                waits_in: wait_channel(*pid),
            })
            .collect(),
        read_bytes_per_s: usage.read_per_s.round(),
        write_bytes_per_s: usage.write_per_s.round(),
        major_faults_per_s: super::hundredth(usage.faults_per_s),
        truncated,
    }
}

/// The first of each ranking: processor, memory, disk, faults.
fn leading(usage: &Usage, count: usize) -> HashSet<Key> {
    let rankings: [fn(&Use) -> f64; 4] = [
        |used| used.demand,
        |used| used.seen.rss_pages as f64,
        |used| used.read_per_s + used.write_per_s,
        |used| used.faults_per_s,
    ];
    let mut leading = HashSet::new();
    for by in rankings {
        let mut all: Vec<(&Key, &Use)> = usage.processes.iter().filter(|(_, used)| by(used) > 0.0).collect();
        all.sort_by(|a, b| by(b.1).total_cmp(&by(a.1)));
        leading.extend(all.into_iter().take(count).map(|(key, _)| *key));
    }
    leading
}

fn describe(
    host: &crate::host::Host,
    (pid, started): Key,
    used: &Use,
    owner: &Owner,
    owners: &Owners,
    booted_ms: i64,
) -> ProcessUse {
    let started_at_ms = started_at_ms(booted_ms, started);
    ProcessUse {
        pid,
        started_at_ms,
        user: owners.user(pid),
        name: text::text(host, &used.seen.name),
        command: command(host, pid),
        owner_kind: owner.kind.to_owned(),
        owner: owner.name.clone(),
        stack: owner.stack.clone(),
        service: owner.service.clone(),
        cpu_percent: super::hundredth(used.cpus * 100.0),
        demand: super::hundredth(used.demand),
        nice: i32::try_from(used.seen.nice).unwrap_or_default(),
        rss_bytes: used.seen.rss_pages * procfs::page_size(),
        swap_bytes: sample::swap_bytes(pid),
        read_bytes_per_s: used.read_per_s.round(),
        write_bytes_per_s: used.write_per_s.round(),
        major_faults_per_s: super::hundredth(used.faults_per_s),
        state: match used.seen.state {
            'R' => "running",
            'S' => "sleeping",
            'D' => "blocked",
            'T' | 't' => "stopped",
            'Z' => "zombie",
            _ => "idle",
        }
        .to_owned(),
        threads: u32::try_from(used.seen.threads).unwrap_or(u32::MAX),
        age_s: age_s(started_at_ms),
    }
}

/// A process's command line, ready to leave.
pub(super) fn command(host: &crate::host::Host, pid: u32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> =
        raw.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    text::text_up_to(host, &words.join(" "), COMMAND)
}

fn grouped(usage: &Usage, owned: &BTreeMap<Key, Owner>) -> Vec<OwnerUse> {
    let mut groups: BTreeMap<&Owner, (OwnerUse, f64)> = BTreeMap::new();
    let own = std::process::id();
    for (key, used) in &usage.processes {
        let Some(owner) = owned.get(key) else { continue };
        let (group, busiest) = groups.entry(owner).or_default();
        group.processes += 1;
        group.threads += u32::try_from(used.seen.threads).unwrap_or_default();
        group.cpu_percent += used.cpus * 100.0;
        if used.seen.low_priority() {
            group.demand_low_priority += used.demand;
        } else {
            group.demand += used.demand;
        }
        group.rss_bytes += used.seen.rss_pages * procfs::page_size();
        group.swap_bytes += sample::swap_bytes(key.0);
        group.read_bytes_per_s += used.read_per_s.round();
        group.write_bytes_per_s += used.write_per_s.round();
        group.major_faults_per_s += used.faults_per_s;
        group.blocked += used.blocked;
        group.new_processes += u32::from(used.new);
        group.vigie |= key.0 == own;
        let weight = used.demand + (used.read_per_s + used.write_per_s) / 1e7 + used.blocked;
        if weight > *busiest || group.busiest.is_empty() {
            *busiest = weight;
            group.busiest.clone_from(&used.seen.name);
            group.busiest_pid = key.0;
        }
    }
    let mut all: Vec<OwnerUse> = groups
        .into_iter()
        .map(|(owner, (group, _))| OwnerUse {
            kind: owner.kind.to_owned(),
            name: owner.name.clone(),
            stack: owner.stack.clone(),
            service: owner.service.clone(),
            cpu_percent: super::hundredth(group.cpu_percent),
            demand: super::hundredth(group.demand),
            demand_low_priority: super::hundredth(group.demand_low_priority),
            major_faults_per_s: super::hundredth(group.major_faults_per_s),
            blocked: super::hundredth(group.blocked),
            ..group
        })
        .collect();
    all.sort_by(|a, b| b.demand.total_cmp(&a.demand).then_with(|| b.rss_bytes.cmp(&a.rss_bytes)));
    all
}

/// Where in the kernel a process waits; a lone `0` stands for nowhere.
fn wait_channel(pid: u32) -> String {
    let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    if place == "0" { String::new() } else { place }
}

/// When the kernel began, as Unix milliseconds.
pub(super) fn booted_ms() -> Result<i64, Fault> {
    let stats = procfs::KernelStats::current().map_err(super::unreadable)?;
    Ok(i64::try_from(stats.btime).unwrap_or_default() * 1000)
}

/// A process's start, from ticks since boot.
pub(super) fn started_at_ms(booted_ms: i64, ticks: u64) -> i64 {
    let since_boot = ticks.saturating_mul(1000) / procfs::ticks_per_second().max(1);
    booted_ms + i64::try_from(since_boot).unwrap_or_default()
}

/// Seconds since a moment.
pub(super) fn age_s(started_at_ms: i64) -> u64 {
    u64::try_from((crate::host::clock::now().timestamp_millis() - started_at_ms) / 1000).unwrap_or_default()
}
