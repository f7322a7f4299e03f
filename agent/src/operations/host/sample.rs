//! What this host's own processes use, from two looks at `/proc`.
//!
//! The kernel's own totals (load average, pressure, swap traffic) are those of the whole kernel: on a host that is a
//! container they tell of the neighbours as well. What is summed over the processes that this host can see is right on
//! both. Processor demand is counted as the time that threads ran plus the time that they waited for a processor, so
//! that a busy loop counts as one whatever it gets.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::{Duration, Instant},
};

/// Looks at the processes' states between the two ends.
const LOOKS: u32 = 4;

/// From this nice value on, a process stands back for others.
const LOW_PRIORITY: i64 = 5;

/// `SCHED_IDLE` and `SCHED_BATCH` of sched(7).
const IDLE_CLASSES: [u64; 2] = [3, 5];

/// `PF_KTHREAD` of the kernel's sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process's name for ever: its id and its start.
pub(super) type Key = (u32, u64);

/// What `/proc/PID/stat` tells, and what its threads waited.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub name: String,
    pub state: char,
    pub parent: u32,
    pub kernel: bool,
    pub major_faults: u64,
    /// Own time of all threads, and that of children that were waited for, in ticks.
    pub ticks: u64,
    pub children_ticks: u64,
    pub nice: i64,
    pub idle_class: bool,
    pub threads: u64,
    pub rss_pages: u64,
    /// Nanoseconds on a processor and in the queue for one, of the threads that live.
    ran_ns: u64,
    waited_ns: u64,
    read_bytes: u64,
    write_bytes: u64,
}

impl Seen {
    pub(super) fn low_priority(&self) -> bool {
        self.nice >= LOW_PRIORITY || self.idle_class
    }
}

/// What a process used between two looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Use {
    pub seen: Seen,
    /// Processors that it had, on average.
    pub cpus: f64,
    /// Processors that it wanted.
    pub demand: f64,
    /// How much of the looks found it in an uninterruptible wait.
    pub blocked: f64,
    /// Stuck at both ends.
    pub stuck: bool,
    pub read_per_s: f64,
    pub write_per_s: f64,
    pub faults_per_s: f64,
    pub new: bool,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub interval: Duration,
    pub processes: HashMap<Key, Use>,
    pub threads: u64,
    pub demand: f64,
    pub demand_low_priority: f64,
    pub blocked: f64,
    pub cpus: f64,
    pub read_per_s: f64,
    pub write_per_s: f64,
    pub faults_per_s: f64,
}

/// Measures over an interval. Reading takes milliseconds for hundreds of processes, and happens off the async threads.
pub(super) async fn measure(interval: Duration) -> Usage {
    let look = |full| async move {
        // A look that panics would have found nothing; the answer is then empty, not wrong.
        tokio::task::spawn_blocking(move || all(full)).await.unwrap_or_default()
    };
    let begun = Instant::now();
    let first = look(true).await;
    let mut blocked: HashMap<Key, u32> = HashMap::new();
    let mut count = |seen: &HashMap<Key, Seen>| {
        for (key, _) in seen.iter().filter(|(_, seen)| seen.state == 'D' && !seen.kernel) {
            *blocked.entry(*key).or_default() += 1;
        }
    };
    count(&first);
    for _ in 1..LOOKS {
        tokio::time::sleep(interval / LOOKS).await;
        count(&look(false).await);
    }
    tokio::time::sleep((begun + interval).saturating_duration_since(Instant::now())).await;
    let last = look(true).await;
    count(&last);
    between(&first, last, &blocked, begun.elapsed())
}

/// What rose between two looks, as shares of a second.
fn between(
    first: &HashMap<Key, Seen>,
    last: HashMap<Key, Seen>,
    blocked: &HashMap<Key, u32>,
    elapsed: Duration,
) -> Usage {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let tick = 1.0 / procfs::ticks_per_second() as f64;
    // A child's whole life is added to its parent when it is waited for; what it had lived before does not count.
    let mut buried: HashMap<u32, u64> = HashMap::new();
    for (key, seen) in first {
        if !last.contains_key(key) {
            *buried.entry(seen.parent).or_default() += seen.ticks + seen.children_ticks;
        }
    }
    let mut usage = Usage { interval: elapsed, ..Usage::default() };
    for (key, seen) in last {
        let before = first.get(&key);
        let rose = |now: u64, then: fn(&Seen) -> u64| now.saturating_sub(before.map_or(0, then));
        let children = before.map_or(0, |before| {
            seen.children_ticks
                .saturating_sub(before.children_ticks)
                .saturating_sub(buried.get(&key.0).copied().unwrap_or_default())
        });
        let by_ticks = rose(seen.ticks, |seen| seen.ticks) as f64 * tick;
        let by_threads = rose(seen.ran_ns, |seen| seen.ran_ns) as f64 / 1e9;
        let ran = by_ticks.max(by_threads) + children as f64 * tick;
        let waited = rose(seen.waited_ns, |seen| seen.waited_ns) as f64 / 1e9;
        let used = Use {
            cpus: ran / seconds,
            demand: (ran + waited) / seconds,
            blocked: f64::from(blocked.get(&key).copied().unwrap_or_default()) / f64::from(LOOKS + 1),
            stuck: seen.state == 'D' && !seen.kernel && before.is_some_and(|before| before.state == 'D'),
            read_per_s: rose(seen.read_bytes, |seen| seen.read_bytes) as f64 / seconds,
            write_per_s: rose(seen.write_bytes, |seen| seen.write_bytes) as f64 / seconds,
            faults_per_s: rose(seen.major_faults, |seen| seen.major_faults) as f64 / seconds,
            new: before.is_none(),
            seen,
        };
        usage.threads += used.seen.threads;
        usage.cpus += used.cpus;
        // Whoever measures makes load of its own, and so do the programs that it asks.
        if key.0 == std::process::id() || used.seen.parent == std::process::id() {
            usage.processes.insert(key, used);
            continue;
        }
        if used.seen.low_priority() {
            usage.demand_low_priority += used.demand;
        } else if !used.seen.kernel {
            usage.demand += used.demand;
        }
        usage.blocked += used.blocked;
        usage.read_per_s += used.read_per_s;
        usage.write_per_s += used.write_per_s;
        usage.faults_per_s += used.faults_per_s;
        usage.processes.insert(key, used);
    }
    usage
}

/// Every process of this moment. `full` adds what needs more files than one.
pub(super) fn all(full: bool) -> HashMap<Key, Seen> {
    pids()
        .into_iter()
        .filter_map(|pid| {
            // A process that ended between the listing and the look is no process any more.
            let (started, mut seen) = parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
            if full {
                (seen.ran_ns, seen.waited_ns) = waits(pid);
                (seen.read_bytes, seen.write_bytes) = transfers(pid);
            }
            Some(((pid, started), seen))
        })
        .collect()
}

/// When a process began, by which it is known again.
pub(super) fn began(pid: u32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|(began, _)| began)
}

fn pids() -> HashSet<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `/proc/PID/stat`: the process's start in ticks since boot, and the rest.
fn parse(stat: &str) -> Option<(u64, Seen)> {
    // A name may hold spaces and parentheses; the last one closes it.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(open + 1..close)?.to_owned();
    let fields: Vec<&str> = stat.get(close + 1..)?.split_ascii_whitespace().collect();
    // Numbered as in proc(5), where the state is the third.
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    Some((
        number(22)?,
        Seen {
            name,
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(4)?).ok()?,
            kernel: number(9)? & KERNEL_THREAD != 0,
            major_faults: number(12)?,
            ticks: number(14)? + number(15)?,
            children_ticks: number(16).unwrap_or_default() + number(17).unwrap_or_default(),
            nice: fields.get(19 - 3)?.parse().ok()?,
            threads: number(20)?,
            rss_pages: number(24)?,
            idle_class: number(41).is_some_and(|class| IDLE_CLASSES.contains(&class)),
            ..Seen::default()
        },
    ))
}

/// Nanoseconds that a process's threads ran, and that they waited for a processor. Kernels without scheduling
/// information have no such file; only the time that a process got is then known.
fn waits(pid: u32) -> (u64, u64) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return (0, 0) };
    let of = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        let mut numbers = text.split_ascii_whitespace().map_while(|text| text.parse::<u64>().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    tasks
        .flatten()
        .filter_map(|task| of(task.path()))
        .fold((0, 0), |sum, thread| (sum.0 + thread.0, sum.1 + thread.1))
}

/// Bytes that a process had read from and sent to disks.
fn transfers(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let of = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    };
    (of("read_bytes:"), of("write_bytes:"))
}

/// Whether this host is the whole machine: the kernel's own threads are children of the second process, which no
/// container sees.
pub(super) fn whole_machine() -> bool {
    fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd")
}

/// What of a process lies in swap.
pub(super) fn swap_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("VmSwap:"));
    let kib: u64 = value
        .and_then(|value| value.trim().trim_end_matches("kB").trim_end().parse().ok())
        .unwrap_or_default();
    kib * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_processes() {
        // Captured from Linux 6.18; the name is made awkward.
        let line = "341 (pg (dump) :) D 1 341 341 0 -1 4194560 512 77 3 1 25 4 9 2 39 19 4 0 21844 5885952 901 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 3 0 0 0 0 0 0 0 0 0 0 0";
        let (started, seen) = parse(line).unwrap();
        assert_eq!((started, seen.name.as_str(), seen.state), (21844, "pg (dump) :", 'D'));
        assert_eq!((seen.ticks, seen.children_ticks, seen.major_faults), (29, 11, 3));
        assert_eq!((seen.nice, seen.threads, seen.rss_pages), (19, 4, 901));
        assert!(seen.low_priority() && seen.idle_class && !seen.kernel);
        assert!(parse("1 (cut").is_none());
    }

    #[test]
    fn what_a_child_lived_before_does_not_count() {
        let parent = Seen { children_ticks: 0, threads: 1, ..Seen::default() };
        let child = Seen { parent: 7, ticks: 900, ..Seen::default() };
        let first = HashMap::from([((7, 1), parent.clone()), ((8, 2), child)]);
        let last = HashMap::from([((7, 1), Seen { children_ticks: 950, ..parent })]);
        let usage = between(&first, last, &HashMap::new(), Duration::from_secs(1));
        assert!((usage.cpus - 0.5).abs() < 0.01, "{}", usage.cpus);
    }

    #[tokio::test]
    async fn a_busy_loop_wants_a_processor_and_low_priority_stands_apart() {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let spinning = {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(std::sync::atomic::Ordering::Relaxed) {})
        };
        let usage = measure(Duration::from_millis(400)).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        spinning.join().unwrap();
        let own = usage.processes.iter().find(|((pid, _), _)| *pid == std::process::id()).unwrap().1;
        assert!(own.demand > 0.6, "{own:?}");
        assert!(own.cpus <= own.demand + 0.05, "{own:?}");
        assert!(usage.cpus >= own.cpus && usage.threads > 0);
    }
}
