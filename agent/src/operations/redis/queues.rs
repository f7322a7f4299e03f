//! BullMQ's queues, read from the keys that its library keeps.
//!
//! A queue `Q` is a hash `bull:Q:meta`, lists `wait`, `paused` and `active`, sorted sets `prioritized`, `delayed`,
//! `completed`, `failed` and `waiting-children`, a hash for each job, and `ID:lock` while a worker holds a job. Workers
//! name their connections after the queue. Everything is looked at twice, a moment apart: what a queue is doing shows
//! in the difference. Nothing of a job leaves the host but its id and the reason why it failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ::redis::{Cmd, Value, cmd};
use tokio::time::{Instant, sleep};
use vigie_proto::v1::{
    RedisFailure, RedisQueue, RedisQueueResumeRequest, RedisQueueResumeResult, RedisQueueResumed,
    RedisQueuesRequest, RedisQueuesResult,
};

use super::{count, enter, list, number, refused_is_none, string};
use crate::{
    host::{
        Host,
        redis::{Knock, Session, Trouble, knock, locate},
    },
    operations::{Context, Fault, text},
};

/// How long keys are looked through, and how many a step. Redis serves others between the steps.
const SCAN: Duration = Duration::from_millis(2500);
const SCAN_STEP: u32 = 1000;
/// More queues than a stack has.
const QUEUES: usize = 100;
/// How many jobs of a state are looked at, newest first.
const JOBS: usize = 100;
/// Commands sent at once.
const BATCH: usize = 500;
/// Between the two looks. A worker that works takes a job in less, or holds one.
const APART: Duration = Duration::from_millis(1200);
/// Reasons of a queue's failures that are told, and how long one may be.
const REASONS: usize = 8;
const REASON: usize = 300;
/// A job that failed within this is a recent one.
const RECENT_MS: i64 = 3_600_000;
/// A delayed job may be moved a moment late, by a worker that is busy.
const OVERDUE_MS: i64 = 30_000;

/// Shows the queues.
pub(in crate::operations) async fn queues(
    request: RedisQueuesRequest,
    cx: &Context,
) -> Result<RedisQueuesResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let mut result = RedisQueuesResult::default();
    let Some(mut place) = locate(&cx.host, &stack, &request.service).await? else {
        "absent".clone_into(&mut result.state);
        return Ok(result);
    };
    result.present = true;
    "ok".clone_into(&mut result.state);
    let Knock { session, trouble, .. } = knock(&mut place).await;
    let trouble = match (trouble, session) {
        (None, Some(mut session)) => {
            look(&mut session, prefix(&request.prefix), true, &cx.host, &mut result).await.err()
        }
        (trouble, _) => trouble,
    };
    if let Some(trouble) = trouble {
        trouble.state.clone_into(&mut result.state);
        result.error = text::text_up_to(&cx.host, &trouble.said, 512);
    }
    Ok(result)
}

/// The prefix that was asked for, or the library's own.
pub(super) fn prefix(asked: &str) -> &str {
    if asked.is_empty() { "bull" } else { asked }
}

/// Looks at all queues; with `closely` at their jobs and workers too.
pub(super) async fn look(
    session: &mut Session,
    prefix: &str,
    closely: bool,
    host: &Host,
    result: &mut RedisQueuesResult,
) -> Result<(), Trouble> {
    let names = find(session, prefix, result).await?;
    let clients = match closely {
        true => refused_is_none(session.ask(cmd("CLIENT").arg("LIST")).await)?,
        false => None,
    };
    let clients = clients.map(|said| Clients::read(&string(&said)));
    result.workers_known = clients.is_some();
    let now = crate::host::clock::now().timestamp_millis();
    let mut before = sample(session, prefix, &names, now).await?;
    let busy = before.iter().any(|own| own.waiting() + own.counts.active > 0);
    let mut after = Vec::new();
    if closely && busy {
        for own in &mut before {
            own.lost = lost(session, prefix, own).await?;
        }
        sleep(APART).await;
        after = sample(session, prefix, &names, now).await?;
        for own in &mut after {
            own.lost = lost(session, prefix, own).await?;
        }
    }
    for (at, own) in before.iter().enumerate() {
        let later = after.get(at);
        let mut queue = later.unwrap_or(own).counts.clone();
        queue.waiting = later.unwrap_or(own).waiting();
        if let Some(later) = later {
            queue.progressing = progressing(own, later);
            queue.stalled = small(own.lost.intersection(&later.lost).count());
        }
        if closely {
            queue.workers = clients.as_ref().map_or(0, |clients| clients.workers(prefix, &queue.name));
            queue.oldest_waiting_s = oldest(session, prefix, later.unwrap_or(own), now).await?;
            failures(session, prefix, own, now, host, &mut queue).await?;
            queue.broken += without_record(session, prefix, own).await?;
            queue.truncated |= queue.active as usize > JOBS;
        }
        result.waiting += queue.waiting;
        result.active += queue.active;
        result.failed += queue.failed;
        result.delayed += queue.delayed;
        queue.name = text::text_up_to(host, &queue.name, 200);
        result.queues.push(queue);
    }
    if let Some(clients) = &clients {
        result.unnamed_consumers = clients.unnamed(prefix, &names);
    }
    Ok(())
}

/// The queues' names, found by looking through the keys within a bound.
async fn find(
    session: &mut Session,
    prefix: &str,
    result: &mut RedisQueuesResult,
) -> Result<Vec<String>, Trouble> {
    let begun = Instant::now();
    let pattern = format!("{}:*:meta", escaped(prefix));
    let (mut cursor, mut names) = ("0".to_owned(), BTreeSet::new());
    loop {
        let answer = session
            .ask(cmd("SCAN").arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_STEP))
            .await?;
        let [next, keys] = list(&answer) else {
            return Err(Trouble { state: "error", said: "SCAN answers no page".to_owned() });
        };
        cursor = string(next);
        result.scanned_keys += u64::from(SCAN_STEP);
        for key in list(keys) {
            let key = string(key);
            let name =
                key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(':')?.strip_suffix(":meta"));
            names.extend(name.map(str::to_owned));
        }
        result.scan_complete = cursor == "0";
        if result.scan_complete || names.len() > QUEUES || begun.elapsed() > SCAN {
            break;
        }
    }
    let keys = count(&session.ask(&cmd("DBSIZE")).await?);
    result.scanned_keys = if result.scan_complete { keys } else { result.scanned_keys.min(keys) };
    if names.len() > QUEUES {
        result.scan_complete = false;
    }
    Ok(names.into_iter().take(QUEUES).collect())
}

/// A text as a glob that matches only it.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// A queue at one moment.
#[derive(Default)]
struct Sample {
    counts: RedisQueue,
    /// Jobs in `wait` and, of a paused queue, in `paused`.
    listed: u64,
    /// The next job of `wait`, `paused` and `prioritized`.
    next: [String; 3],
    active: BTreeSet<String>,
    /// Active jobs that no worker holds.
    lost: BTreeSet<String>,
    /// The jobs whose turn is next.
    coming: Vec<String>,
    /// The newest failed jobs, with when they failed.
    failed: Vec<(String, i64)>,
}

impl Sample {
    fn waiting(&self) -> u64 {
        self.listed + self.counts.prioritized
    }
}

/// The commands that a sample is made of, for one queue.
fn questions(key: &dyn Fn(&str) -> String, now: i64) -> Vec<Cmd> {
    let one = |name: &str, own: &str| {
        let mut command = cmd(name);
        command.arg(key(own));
        command
    };
    let mut paused = one("HEXISTS", "meta");
    paused.arg("paused");
    let mut all = vec![paused];
    all.extend(["wait", "paused", "active"].map(|own| one("LLEN", own)));
    all.extend(
        ["delayed", "prioritized", "failed", "completed", "waiting-children"].map(|own| one("ZCARD", own)),
    );
    for own in ["wait", "paused"] {
        let mut next = one("LINDEX", own);
        next.arg(-1);
        all.push(next);
    }
    let mut next = one("ZRANGE", "prioritized");
    next.arg(0).arg(0);
    let mut active = one("LRANGE", "active");
    active.arg(0).arg(JOBS - 1);
    let mut failed = one("ZREVRANGE", "failed");
    failed.arg(0).arg(JOBS - 1).arg("WITHSCORES");
    // The score is the time in milliseconds, times 4096, and a counter.
    let mut overdue = one("ZCOUNT", "delayed");
    overdue.arg("-inf").arg((now - OVERDUE_MS).saturating_mul(4096));
    let mut coming = one("LRANGE", "wait");
    coming.arg(-(JOBS as i64)).arg(-1);
    all.extend([next, active, failed, overdue, coming]);
    all
}

async fn sample(
    session: &mut Session,
    prefix: &str,
    names: &[String],
    now: i64,
) -> Result<Vec<Sample>, Trouble> {
    let mut samples = Vec::with_capacity(names.len());
    for name in names {
        let key = |own: &str| format!("{prefix}:{name}:{own}");
        let answers = session.ask_all(&questions(&key, now)).await?;
        let [paused, wait, held, active, delayed, prioritized, failed, completed, children, rest @ ..] =
            &*answers
        else {
            return Err(Trouble { state: "error", said: "a pipeline answers short".to_owned() });
        };
        let [next_wait, next_paused, next_prioritized, ids, newest, overdue, coming] = rest else {
            return Err(Trouble { state: "error", said: "a pipeline answers short".to_owned() });
        };
        let newest: Vec<(String, i64)> =
            list(newest).chunks_exact(2).map(|pair| (string(&pair[0]), number(&pair[1]))).collect();
        samples.push(Sample {
            counts: RedisQueue {
                name: name.clone(),
                paused: count(paused) == 1,
                active: count(active),
                delayed: count(delayed),
                prioritized: count(prioritized),
                failed: count(failed),
                completed: count(completed),
                waiting_children: count(children),
                overdue: u32::try_from(count(overdue)).unwrap_or(u32::MAX),
                // Counting is refused for a key of another kind alone.
                broken: small(answers[1..9].iter().filter(|answer| matches!(answer, Value::Nil)).count()),
                ..RedisQueue::default()
            },
            listed: count(wait) + count(held),
            next: [
                string(next_wait),
                string(next_paused),
                list(next_prioritized).first().map(string).unwrap_or_default(),
            ],
            active: list(ids).iter().map(string).collect(),
            coming: list(coming).iter().map(string).filter(|id| !id.starts_with("0:")).collect(),
            lost: BTreeSet::new(),
            failed: newest,
        });
    }
    Ok(samples)
}

/// How many of the next and of the active jobs have no record, now and when they were listed.
async fn without_record(session: &mut Session, prefix: &str, sample: &Sample) -> Result<u32, Trouble> {
    let name = &sample.counts.name;
    let ids: Vec<&String> = sample.coming.iter().chain(&sample.active).collect();
    let records: Vec<Cmd> =
        ids.iter().map(|id| cmd("EXISTS").arg(format!("{prefix}:{name}:{id}")).clone()).collect();
    let there = session.ask_all(&records).await?;
    let gone: Vec<&String> = ids
        .into_iter()
        .zip(&there)
        .filter(|(_, there)| matches!(there, Value::Int(0)))
        .map(|(id, _)| id)
        .collect();
    // One that ended in between and was removed is no trouble: it is in no list any more.
    let places: Vec<Cmd> = gone
        .iter()
        .flat_map(|id| ["wait", "active"].map(|own| (own, *id)))
        .map(|(own, id)| cmd("LPOS").arg(format!("{prefix}:{name}:{own}")).arg(id).clone())
        .collect();
    let places = session.ask_all(&places).await?;
    Ok(small(places.iter().filter(|place| matches!(place, Value::Int(_))).count()))
}

/// The active jobs that no worker holds.
async fn lost(session: &mut Session, prefix: &str, sample: &Sample) -> Result<BTreeSet<String>, Trouble> {
    let ids: Vec<&String> = sample.active.iter().collect();
    let locks: Vec<Cmd> = ids
        .iter()
        .map(|id| cmd("EXISTS").arg(format!("{prefix}:{}:{id}:lock", sample.counts.name)).clone())
        .collect();
    let held = session.ask_all(&locks).await?;
    Ok(ids
        .into_iter()
        .zip(&held)
        .filter(|(_, held)| matches!(held, Value::Int(0)))
        .map(|(id, _)| id.clone())
        .collect())
}

/// Whether anything moved between two looks, or a worker holds a job.
fn progressing(before: &Sample, after: &Sample) -> bool {
    let moved = |one: &str, other: &str| !one.is_empty() && one != other;
    moved(&before.next[0], &after.next[0])
        || moved(&before.next[2], &after.next[2])
        || before.counts.completed != after.counts.completed
        || before.counts.failed != after.counts.failed
        || before.active != after.active
        || after.active.iter().any(|id| !after.lost.contains(id))
}

/// How long the oldest of the waiting jobs has waited, in seconds.
async fn oldest(session: &mut Session, prefix: &str, sample: &Sample, now: i64) -> Result<u64, Trouble> {
    // A marker such as `0:1234` stands in the list of older versions.
    let ids = sample.next.iter().filter(|id| !id.is_empty() && !id.starts_with("0:"));
    let stamps: Vec<Cmd> = ids
        .map(|id| cmd("HGET").arg(format!("{prefix}:{}:{id}", sample.counts.name)).arg("timestamp").clone())
        .collect();
    let stamps = session.ask_all(&stamps).await?;
    let first = stamps.iter().map(number).filter(|at| *at > 0).min();
    Ok(first.map_or(0, |at| u64::try_from((now - at) / 1000).unwrap_or_default()))
}

/// Why the newest failed jobs failed.
async fn failures(
    session: &mut Session,
    prefix: &str,
    sample: &Sample,
    now: i64,
    host: &Host,
    queue: &mut RedisQueue,
) -> Result<(), Trouble> {
    let questions: Vec<Cmd> = sample
        .failed
        .iter()
        .map(|(id, _)| {
            let key = format!("{prefix}:{}:{id}", sample.counts.name);
            cmd("HMGET").arg(key).arg("failedReason").arg("attemptsMade").clone()
        })
        .collect();
    let mut answers = Vec::with_capacity(questions.len());
    for some in questions.chunks(BATCH) {
        answers.extend(session.ask_all(some).await?);
    }
    let mut groups: BTreeMap<String, RedisFailure> = BTreeMap::new();
    for ((id, at), answer) in sample.failed.iter().zip(&answers) {
        queue.failed_recently += u32::from(now - at <= RECENT_MS);
        let (reason, attempts) = match list(answer) {
            [reason, attempts] => (string(reason), u32::try_from(number(attempts)).unwrap_or_default()),
            _ => (String::new(), 0),
        };
        let group = groups.entry(alike(&reason)).or_insert_with(|| RedisFailure {
            reason: text::text_up_to(host, &reason, REASON),
            newest_ms: *at,
            job: text::text_up_to(host, id, 64),
            ..RedisFailure::default()
        });
        group.jobs += 1;
        group.attempts = group.attempts.max(attempts);
    }
    queue.truncated |= queue.failed as usize > sample.failed.len() || groups.len() > REASONS;
    queue.failures = groups.into_values().collect();
    queue.failures.sort_by_key(|group| (std::cmp::Reverse(group.jobs), group.reason.clone()));
    queue.failures.truncate(REASONS);
    Ok(())
}

/// A reason without what differs from job to job: numbers, and words that hold one.
fn alike(reason: &str) -> String {
    let word =
        |word: &str| if word.chars().any(|c| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() };
    let line = reason.lines().next().unwrap_or_default();
    line.split_whitespace().map(word).take(40).collect::<Vec<_>>().join(" ")
}

/// The connections that do work.
struct Clients {
    /// Name, and whether it waits in a command that takes a job.
    all: Vec<(String, bool)>,
}

impl Clients {
    fn read(said: &str) -> Self {
        let field = |line: &str, name: &str| {
            line.split(' ')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_default()
                .to_owned()
        };
        let takes = |command: &str| {
            matches!(command, "bzpopmin" | "brpoplpush" | "blmove" | "brpop" | "blpop" | "bzmpop" | "blmpop")
        };
        let all = said.lines().map(|line| (field(line, "name"), takes(&field(line, "cmd")))).collect();
        Self { all }
    }

    fn of(name: &str, prefix: &str, queue: &str) -> bool {
        let own = format!("{prefix}:{}", data_encoding::BASE64.encode(queue.as_bytes()));
        name.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with(":w:"))
    }

    fn workers(&self, prefix: &str, queue: &str) -> u32 {
        small(self.all.iter().filter(|(name, _)| Self::of(name, prefix, queue)).count())
    }

    fn unnamed(&self, prefix: &str, queues: &[String]) -> u32 {
        let named = |name: &str| queues.iter().any(|queue| Self::of(name, prefix, queue));
        small(self.all.iter().filter(|(name, takes)| *takes && !named(name)).count())
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What the library's own script does to resume a queue: `paused` becomes `wait` again (behind what came in between),
/// the mark goes, workers are woken and listeners told. Answers -1 for a queue that was not paused, else its jobs.
const RESUME: &str = r"
if redis.call('HEXISTS', KEYS[1], 'paused') == 0 then return -1 end
local held = redis.call('LLEN', KEYS[2])
if held > 0 then
  if redis.call('EXISTS', KEYS[3]) == 0 then
    redis.call('RENAME', KEYS[2], KEYS[3])
  else
    for _ = 1, held do redis.call('LMOVE', KEYS[2], KEYS[3], 'LEFT', 'RIGHT') end
  end
end
redis.call('HDEL', KEYS[1], 'paused')
local jobs = redis.call('LLEN', KEYS[3]) + redis.call('ZCARD', KEYS[4])
if jobs > 0 then redis.call('ZADD', KEYS[5], 0, '0') end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', 10000, '*', 'event', 'resumed')
return jobs";

/// Resumes paused queues.
pub(in crate::operations) async fn resume(
    request: RedisQueueResumeRequest,
    cx: &Context,
) -> Result<RedisQueueResumeResult, Fault> {
    let (_, place, mut session) = enter(cx, &request.stack, &request.service).await?;
    let prefix = prefix(&request.prefix);
    let fail = |trouble: Trouble| trouble.fault(&place);
    let known = find(&mut session, prefix, &mut RedisQueuesResult::default()).await.map_err(fail)?;
    if let Some(stray) = request.queues.iter().find(|name| !known.contains(name)) {
        return Err(Fault::refused("queue_unknown", format!("there is no queue `{stray}`"))
            .hint(format!("there are {}", known.join(", "))));
    }
    let asked = if request.queues.is_empty() { &known } else { &request.queues };
    let mut result = RedisQueueResumeResult::default();
    for name in asked {
        let mut script = cmd("EVAL");
        script.arg(RESUME).arg(6);
        for own in ["meta", "paused", "wait", "prioritized", "marker", "events"] {
            script.arg(format!("{prefix}:{name}:{own}"));
        }
        let jobs = number(&session.ask(&script).await.map_err(fail)?);
        result.queues.push(RedisQueueResumed {
            name: name.clone(),
            was_paused: jobs >= 0,
            jobs: u64::try_from(jobs).unwrap_or_default(),
        });
    }
    if request.queues.is_empty() {
        result.queues.retain(|queue| queue.was_paused);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_known_by_their_connections() {
        // Captured from Redis 7.0.15 with workers of the test world.
        let said = "id=7 addr=172.18.0.4:41200 laddr=172.18.0.3:6379 fd=9 name=bull:cmFnOmluZGV4LWRvY3VtZW50 age=3 flags=b cmd=blmove user=default\n\
                    id=8 addr=172.18.0.4:41202 laddr=172.18.0.3:6379 fd=10 name=bull:cmFnOmluZGV4LWRvY3VtZW50:w:one age=3 flags=b cmd=bzpopmin user=default\n\
                    id=9 addr=172.18.0.4:41204 laddr=172.18.0.3:6379 fd=11 name=bull:cmFnOmluZGV4LWRvY3VtZW50:qe age=3 flags=b cmd=xread user=default\n\
                    id=10 addr=172.18.0.4:41206 laddr=172.18.0.3:6379 fd=12 name= age=3 flags=b cmd=bzpopmin user=default\n\
                    id=11 addr=127.0.0.1:41206 laddr=127.0.0.1:6379 fd=13 name= age=3 flags=N cmd=client|list user=default\n";
        let clients = Clients::read(said);
        assert_eq!(clients.workers("bull", "rag:index-document"), 2);
        assert_eq!(clients.workers("bull", "whatsapp:incoming"), 0);
        assert_eq!(clients.unnamed("bull", &["rag:index-document".to_owned()]), 1);
    }

    #[test]
    fn failures_are_put_together() {
        assert_eq!(
            alike("Daily indexing limit reached: 5/5"),
            alike("Daily indexing limit reached: 50/50\n    at Worker.run")
        );
        assert_ne!(alike("connect ECONNREFUSED 10.0.0.1:5432"), alike("connect ETIMEDOUT 10.0.0.1:5432"));
    }

    #[test]
    fn a_queue_moves_or_does_not() {
        let sample = |next: &str, active: &[&str], lost: &[&str]| Sample {
            next: [next.to_owned(), String::new(), String::new()],
            active: active.iter().map(|id| (*id).to_owned()).collect(),
            lost: lost.iter().map(|id| (*id).to_owned()).collect(),
            ..Sample::default()
        };
        assert!(!progressing(&sample("1", &[], &[]), &sample("1", &[], &[])), "nobody takes the job");
        assert!(progressing(&sample("1", &[], &[]), &sample("2", &[], &[])), "it was taken");
        assert!(!progressing(&sample("", &[], &[]), &sample("1", &[], &[])), "one that came in is no work");
        assert!(progressing(&sample("2", &["1"], &[]), &sample("2", &["1"], &[])), "a long job is held");
        assert!(
            !progressing(&sample("2", &["1"], &["1"]), &sample("2", &["1"], &["1"])),
            "its worker is gone"
        );
    }

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(escaped("{bull}-2*"), "{bull}\\-2\\*");
    }
}
