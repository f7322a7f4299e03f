//! A stack's Redis: how it is, and what may be done about it. The queues in it are [`queues`]'s.
//!
//! Probes ask nothing that costs more than the number of what they show: no KEYS, no scan without a bound, no value of
//! anybody's key.

mod flush;
mod info;
mod queues;

use std::{collections::BTreeMap, sync::Arc};

use ::redis::{Value, cmd};
use tokio::time::Instant;
use vigie_proto::v1::{
    RedisCredential, RedisPurgeMemoryRequest, RedisPurgeMemoryResult, RedisSlowCommand, RedisStatusRequest,
    RedisStatusResult, RedisVolume,
};

use super::{Context, Fault, containers, text};
use crate::host::{
    mounts::PATIENCE,
    redis::{Knock, Place, Session, Trouble, knock, locate},
    stacks::KnownStack,
};

pub(super) use flush::{flush, happened as flushed, preview as flush_preview};
pub(super) use queues::{queues, resume};

/// Pings for the latency. A median of a few tells a slow server from a slow moment.
const PINGS: usize = 7;
/// How many slow commands are looked at, and how many are told.
const SLOW_READ: usize = 128;
const SLOW_TOLD: usize = 10;
/// How old a slow command may be to be told, and to be recent, in seconds.
const SLOW_AGE: i64 = 3600;
const SLOW_RECENT: i64 = 600;

/// Tells how Redis is. No answer is an answer too.
pub(super) async fn status(request: RedisStatusRequest, cx: &Context) -> Result<RedisStatusResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let mut result = RedisStatusResult { stack: stack.name.clone(), ..RedisStatusResult::default() };
    let Some(mut place) = locate(&cx.host, &stack, &request.service).await? else {
        "absent".clone_into(&mut result.state);
        return Ok(result);
    };
    let Knock { session, trouble, password_required } = knock(&mut place).await;
    result.present = true;
    result.service.clone_from(&place.service);
    result.container.clone_from(&place.container_name);
    result.container_state.clone_from(&place.container_state);
    result.address.clone_from(&place.address);
    result.database = place.database;
    result.tls = place.tls.is_some();
    result.doubt = text::text_up_to(&cx.host, &place.doubt, 512);
    result.password_required = password_required;
    result.credentials = place
        .credentials
        .iter()
        .map(|own| RedisCredential {
            source: own.source.to_owned(),
            name: own.name.clone(),
            place: own.place.clone(),
            outcome: own.outcome.to_owned(),
        })
        .collect();
    if let Some(data) = place.data() {
        result.volume = Some(volume(cx, &data.volume, &data.source, &data.destination).await);
    }
    if let Some(found) = &place.container {
        let own = containers::describe(found, crate::host::clock::now().timestamp_millis());
        result.container_health = own.health;
        result.container_exit_code = own.exit_code;
        result.container_oom_killed = own.oom_killed;
        result.container_restarts = own.restart_count;
        result.container_uptime_s = own.uptime_s;
        result.container_memory_limit_bytes = own.memory_limit_bytes;
        result.container_error = text::text(&cx.host, &own.error);
    }
    "ok".clone_into(&mut result.state);
    if let Some(trouble) = trouble {
        trouble.state.clone_into(&mut result.state);
        result.error = text::text_up_to(&cx.host, &trouble.said, 512);
    }
    let Some(mut session) = session else { return Ok(result) };
    // What breaks from here on leaves what was had; the state says that it broke.
    if let Err(trouble) = ask(&mut session, &place, &mut result).await {
        trouble.state.clone_into(&mut result.state);
        result.error = text::text_up_to(&cx.host, &trouble.said, 512);
    }
    Ok(result)
}

/// All that a connection tells.
async fn ask(session: &mut Session, place: &Place, result: &mut RedisStatusResult) -> Result<(), Trouble> {
    let sections = refused_is_none(session.ask(&cmd("INFO")).await)?;
    if let Some(sections) = &sections {
        let settings = settings(session).await?;
        result.info = Some(info::read(&string(sections), &settings, place.database));
    }
    if result.state != "ok" {
        return Ok(());
    }
    let mut pings = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let begun = Instant::now();
        // Refused while snapshots fail, which takes as long as an answer.
        refused_is_none(session.ask(&cmd("PING")).await)?;
        pings.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    pings.sort_unstable();
    result.ping_p50_us = pings.get(PINGS / 2).copied().unwrap_or_default();
    result.ping_max_us = pings.last().copied().unwrap_or_default();
    let nothing = session.ask(cmd("SETRANGE").arg("vigie:nothing").arg(0).arg("")).await;
    if let Err(trouble) = nothing {
        if broken(&trouble) {
            return Err(trouble);
        }
        if let Some(code) = refusal(&trouble) {
            code.clone_into(&mut result.writes_refused);
            result.error = trouble.said;
        }
    }
    if let Some(log) = refused_is_none(session.ask(cmd("SLOWLOG").arg("GET").arg(SLOW_READ)).await)? {
        (result.slow_commands, result.slow_recent) = slow(&log, crate::host::clock::now().timestamp());
    }
    Ok(())
}

/// Why Redis refuses a write, in its own word. A user whose rights end at the stack's own keys may not touch the key that is
/// asked with: whether it may write those is not known, and that it may not is no answer of Redis's.
fn refusal(trouble: &Trouble) -> Option<&str> {
    (trouble.state != "no_permission").then(|| trouble.said.split(' ').next().unwrap_or_default())
}

/// What `INFO` does not tell. Empty where Redis lets nobody ask, as hosted ones do.
async fn settings(session: &mut Session) -> Result<BTreeMap<String, String>, Trouble> {
    let mut found = BTreeMap::new();
    for name in ["stop-writes-on-bgsave-error", "save", "maxclients"] {
        let Some(Value::Array(pair)) =
            refused_is_none(session.ask(cmd("CONFIG").arg("GET").arg(name)).await)?
        else {
            continue;
        };
        if let [name, value] = &*pair {
            found.insert(string(name), string(value));
        }
    }
    Ok(found)
}

/// A refusal is nothing; a connection that broke is a trouble.
fn refused_is_none(answer: Result<Value, Trouble>) -> Result<Option<Value>, Trouble> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(trouble) if broken(&trouble) => Err(trouble),
        Err(_) => Ok(None),
    }
}

fn broken(trouble: &Trouble) -> bool {
    matches!(trouble.state, "hung" | "unreachable" | "refused" | "protocol")
}

/// The slow log's entries without their arguments: id, time, microseconds, words, and more that is left here.
fn slow(log: &Value, now: i64) -> (Vec<RedisSlowCommand>, u32) {
    let mut found: Vec<RedisSlowCommand> = list(log)
        .iter()
        .filter_map(|entry| {
            let [_, at, micros, words, ..] = list(entry) else { return None };
            let age = now - number(at);
            let words = list(words);
            // The agent's own probes are not what slows anybody.
            let command = string(words.first()?).to_ascii_uppercase();
            (age <= SLOW_AGE).then(|| RedisSlowCommand {
                command: command.chars().filter(char::is_ascii_graphic).take(32).collect(),
                arguments: u32::try_from(words.len() - 1).unwrap_or(u32::MAX),
                duration_ms: u32::try_from(number(micros) / 1000).unwrap_or(u32::MAX),
                age_s: u32::try_from(age.max(0)).unwrap_or(u32::MAX),
            })
        })
        .collect();
    let recent = found.iter().filter(|entry| i64::from(entry.age_s) <= SLOW_RECENT).count();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.duration_ms));
    found.truncate(SLOW_TOLD);
    (found, u32::try_from(recent).unwrap_or(u32::MAX))
}

async fn volume(cx: &Context, name: &str, source: &std::path::Path, destination: &str) -> RedisVolume {
    let mut volume = RedisVolume {
        name: name.to_owned(),
        source: source.to_string_lossy().into_owned(),
        destination: destination.to_owned(),
        ..RedisVolume::default()
    };
    let asked = source.to_owned();
    let space = cx.host.mounts().ask(source.to_owned(), PATIENCE, move || rustix::fs::statvfs(&asked)).await;
    if let Some(Ok(space)) = space {
        volume.readable = true;
        volume.free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        volume.total_bytes = space.f_blocks.saturating_mul(space.f_frsize);
        volume.free_inodes = space.f_favail;
    }
    volume
}

/// Lets the allocator give back what it holds unused.
pub(super) async fn purge_memory(
    request: RedisPurgeMemoryRequest,
    cx: &Context,
) -> Result<RedisPurgeMemoryResult, Fault> {
    let (_, place, mut session) = enter(cx, &request.stack, &request.service).await?;
    let fail = |trouble: Trouble| trouble.fault(&place);
    let before = memory(&mut session).await.map_err(fail)?;
    session.ask(cmd("MEMORY").arg("PURGE")).await.map_err(fail)?;
    let after = memory(&mut session).await.map_err(fail)?;
    Ok(RedisPurgeMemoryResult {
        rss_before_bytes: before.rss_bytes,
        rss_after_bytes: after.rss_bytes,
        purgeable_before_bytes: before.purgeable_bytes,
        purgeable_after_bytes: after.purgeable_bytes,
        fragmentation_before: before.fragmentation_ratio,
        fragmentation_after: after.fragmentation_ratio,
        used_memory_bytes: after.used_memory_bytes,
    })
}

async fn memory(session: &mut Session) -> Result<vigie_proto::v1::RedisInfo, Trouble> {
    let sections = session.ask(cmd("INFO").arg("memory")).await?;
    Ok(info::read(&string(&sections), &BTreeMap::new(), 0))
}

/// A connection for an operation that cannot do without one.
async fn enter(cx: &Context, stack: &str, service: &str) -> Result<(Arc<KnownStack>, Place, Session), Fault> {
    let stack = cx.host.stacks().resolve(stack).await?;
    let Some(mut place) = locate(&cx.host, &stack, service).await? else {
        let message = format!("stack `{}` has no Redis", stack.name);
        return Err(Fault::absent("redis", message)
            .hint("for a Redis outside Docker set `redis_url` in /etc/vigie/agent.toml"));
    };
    match knock(&mut place).await {
        Knock { session: Some(session), trouble: None, .. } => Ok((stack, place, session)),
        Knock { trouble: Some(trouble), .. } => Err(trouble.fault(&place)),
        Knock { .. } => Err(Trouble { state: "error", said: String::new() }.fault(&place)),
    }
}

/// A list's elements; those of anything else are none.
fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        _ => &[],
    }
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).parse().unwrap_or_default(),
        Value::SimpleString(text) => text.parse().unwrap_or_default(),
        _ => 0,
    }
}

fn count(value: &Value) -> u64 {
    u64::try_from(number(value)).unwrap_or_default()
}

fn string(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_that_end_at_the_stacks_keys_are_no_refusal_of_writes() {
        // Captured from Redis 7.0.15: a user with `~bull:*`, and a server at its limit.
        let said = |state, said: &str| Trouble { state, said: said.to_owned() };
        let own = said(
            "no_permission",
            "NOPERM this user has no permissions to access one of the keys used as arguments",
        );
        assert_eq!(refusal(&own), None);
        let full = said("error", "OOM command not allowed when used memory > 'maxmemory'.");
        assert_eq!(refusal(&full), Some("OOM"));
    }

    #[test]
    fn slow_commands_lose_their_arguments() {
        let words = |words: &[&str]| {
            Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
        };
        let entry = |at: i64, micros: i64, said: &[&str]| {
            Value::Array(vec![Value::Int(1), Value::Int(at), Value::Int(micros), words(said), words(&[])])
        };
        let log = Value::Array(vec![
            entry(9_990, 12_345, &["SET", "customer:42", "a secret"]),
            entry(9_000, 2_000_000, &["keys", "*"]),
            entry(100, 9_000_000, &["keys", "*"]),
        ]);
        let (found, recent) = slow(&log, 10_000);
        let told: Vec<_> =
            found.iter().map(|own| (own.command.as_str(), own.arguments, own.duration_ms)).collect();
        assert_eq!(told, [("KEYS", 1, 2000), ("SET", 2, 12)]);
        assert_eq!(recent, 1);
    }
}
