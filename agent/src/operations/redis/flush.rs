//! FLUSHDB: what would be lost, and its losing.
//!
//! The server that was looked at is known by its `run_id`, which each start makes anew. Count and loss are one script, so
//! that no job which came in after the operator signed is lost unseen.

use std::time::Duration;

use ::redis::{Value, cmd};
use tokio::time::Instant;
use vigie_proto::{
    id::TaskId,
    v1::{
        Failure, OutcomeStatus, RedisFlushPreviewRequest, RedisFlushPreviewResult, RedisFlushRequest,
        RedisFlushResult, RedisQueuesResult, result,
    },
};

use super::{broken, count, enter, info, list, queues, string};
use crate::{
    host::redis::{Place, Session, Trouble},
    operations::{
        Context, Fault,
        witness::{Begun, Witness},
    },
};

/// Empties the database unless it holds more than was signed for, and leaves the order's witness in it for a day: both or
/// neither, since nobody else is served meanwhile. The witness is the last of the keys.
const FLUSH: &str = r"
local jobs = 0
for at = 1, #KEYS - 1 do
  local key = KEYS[at]
  local kind = redis.call('TYPE', key).ok
  if kind == 'list' then jobs = jobs + redis.call('LLEN', key)
  elseif kind == 'zset' then jobs = jobs + redis.call('ZCARD', key) end
end
local keys = redis.call('DBSIZE')
if keys > tonumber(ARGV[1]) or jobs > tonumber(ARGV[2]) then return {0, keys, jobs} end
redis.call('FLUSHDB', 'ASYNC')
redis.call('SET', KEYS[#KEYS], keys .. ' ' .. jobs, 'EX', 86400)
return {1, keys, jobs}";

/// How long is looked for what became of a flush: a Redis that hung through a fork answers again by then.
const AGAIN: Duration = Duration::from_secs(15);

/// The states whose jobs nobody has done yet.
const UNDONE: [&str; 6] = ["wait", "paused", "active", "delayed", "prioritized", "waiting-children"];

/// Shows what would be lost.
pub(in crate::operations) async fn preview(
    request: RedisFlushPreviewRequest,
    cx: &Context,
) -> Result<RedisFlushPreviewResult, Fault> {
    let (stack, place, mut session) = enter(cx, &request.stack, &request.service).await?;
    sure(&place)?;
    let fail = |trouble: Trouble| trouble.fault(&place);
    let mut found = RedisQueuesResult::default();
    queues::look(&mut session, queues::prefix(&request.prefix), false, &cx.host, &mut found)
        .await
        .map_err(fail)?;
    let sections = string(&session.ask(&cmd("INFO")).await.map_err(fail)?);
    let info = info::read(&sections, &std::collections::BTreeMap::new(), place.database);
    let undone = |queue: &vigie_proto::v1::RedisQueue| {
        queue.waiting + queue.active + queue.delayed + queue.waiting_children
    };
    Ok(RedisFlushPreviewResult {
        stack: stack.name.clone(),
        container: place.container_name.clone(),
        address: place.address.clone(),
        database: place.database,
        run_id: run_id(&sections),
        keys: info.database_keys,
        jobs_lost: found.queues.iter().map(undone).sum(),
        failed_lost: found.failed,
        keys_elsewhere: info.keys.saturating_sub(info.database_keys),
        scan_complete: found.scan_complete,
        queues: found.queues,
    })
}

/// Empties the database, if it holds no more than what was signed for.
pub(in crate::operations) async fn flush(
    request: RedisFlushRequest,
    cx: &Context,
) -> Result<RedisFlushResult, Fault> {
    let Some(result::Operation::RedisFlushPreview(seen)) = &cx.prepared else {
        return Err(Fault::refused("not_prepared", "nothing was shown of what would be lost")
            .hint("`vigiectl do redis_flush` shows it before it is signed"));
    };
    let (_, place, mut session) = enter(cx, &request.stack, &request.service).await?;
    sure(&place)?;
    let fail = |trouble: Trouble| trouble.fault(&place);
    let now = server(&mut session).await.map_err(fail)?;
    if now != seen.run_id || place.database != seen.database {
        return Err(Fault::refused(
            "flush_changed",
            "this is not the server that was looked at, or it started anew",
        )
        .hint("prepare the order again"));
    }
    if !seen.scan_complete {
        return Err(Fault::refused("flush_uncounted", "there were too many keys to find every queue")
            .hint("what would be lost is not known, so that it cannot be signed for"));
    }
    let prefix = queues::prefix(&request.prefix);
    let keys: Vec<String> = seen
        .queues
        .iter()
        .flat_map(|queue| UNDONE.iter().map(move |own| format!("{prefix}:{}:{own}", queue.name)))
        .collect();
    let mut script = cmd("EVAL");
    let witness = witness(cx);
    script.arg(FLUSH).arg(keys.len() + 1);
    for key in keys.iter().chain([&witness]) {
        script.arg(key);
    }
    script.arg(seen.keys).arg(seen.jobs_lost);
    let (done, keys_before, jobs) = match session.ask(&script).await {
        Ok(answer) => {
            let [done, keys_before, jobs] = list(&answer) else {
                return Err(Fault::failed(
                    "redis_unavailable",
                    "the script answers nothing that can be read",
                ));
            };
            (matches!(done, Value::Int(1)), count(keys_before), count(jobs))
        }
        // It may have happened: what the script leaves behind tells.
        Err(trouble) if broken(&trouble) => {
            drop(session);
            let (keys_before, jobs) = look(&witness, &request, cx, &trouble).await?;
            return Ok(RedisFlushResult {
                container: place.container_name.clone(),
                database: place.database,
                keys_before,
                keys_after: 0,
                jobs_lost: jobs,
            });
        }
        Err(trouble) => return Err(fail(trouble)),
    };
    if !done {
        let message = format!(
            "there is more now than was signed for: {keys_before} keys and {jobs} jobs, against {} and {}",
            seen.keys, seen.jobs_lost
        );
        return Err(Fault::refused("flush_changed", message)
            .hint("stop what adds jobs (the backend), then prepare the order again"));
    }
    let keys_after = count(&session.ask(&cmd("DBSIZE")).await.map_err(fail)?);
    Ok(RedisFlushResult {
        container: place.container_name.clone(),
        database: place.database,
        keys_before,
        // Its own word of it is none of the stack's.
        keys_after: keys_after.saturating_sub(1),
        jobs_lost: jobs,
    })
}

/// The key that tells of a flush by this very order.
fn witness(cx: &Context) -> String {
    cx.order.map_or_else(|| "vigie:done:here".to_owned(), named_after)
}

fn named_after(order: TaskId) -> String {
    format!("vigie:done:{order}")
}

/// Looks whether a flush whose answer was lost has happened: keys and jobs that were lost, where it has. One that has not
/// by the time that Redis answers again was cut off before it was read.
async fn look(
    witness: &str,
    request: &RedisFlushRequest,
    cx: &Context,
    lost: &Trouble,
) -> Result<(u64, u64), Fault> {
    let until = (Instant::now() + AGAIN).min(cx.deadline);
    let mut interval = tokio::time::interval(Duration::from_millis(500));
    let mut absent = 0;
    while Instant::now() < until {
        interval.tick().await;
        let Ok((_, _, mut session)) = enter(cx, &request.stack, &request.service).await else { continue };
        match session.ask(cmd("GET").arg(witness)).await {
            Ok(Value::Nil) => absent += 1,
            Ok(value) => {
                let told = string(&value);
                let mut numbers = told.split(' ').map(|number| number.parse().unwrap_or_default());
                return Ok((numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()));
            }
            Err(_) => {}
        }
        // Twice, half a second apart: what a broken connection still held is read by then.
        if absent > 1 {
            return Err(Fault::failed(
                "flush_failed",
                format!("nothing was flushed: the connection broke before ({})", lost.said),
            )
            .hint("prepare the order again"));
        }
    }
    let message =
        format!("nobody knows whether it was flushed: Redis does not answer any more ({})", lost.said);
    let failure = Failure::new("flush_in_doubt", message)
        .hint(format!("once it answers: it was flushed if it has the key `{witness}`"));
    Err(Fault { status: OutcomeStatus::InDoubt, failure, partial: None })
}

/// Whether a flush happened whose end nobody saw.
///
/// # Errors
/// When Redis cannot be asked.
pub(in crate::operations) async fn happened(
    request: &RedisFlushRequest,
    begun: &Begun,
    cx: &Context,
) -> Result<Witness, Fault> {
    let (_, place, mut session) = enter(cx, &request.stack, &request.service).await?;
    let fail = |trouble: Trouble| trouble.fault(&place);
    let witness = named_after(begun.order);
    let told = session.ask(cmd("GET").arg(&witness)).await.map_err(fail)?;
    if !matches!(told, Value::Nil) {
        return Ok(Witness::Done(format!("it has the key {witness}")));
    }
    let now = server(&mut session).await.map_err(fail)?;
    Ok(match &begun.prepared {
        Some(result::Operation::RedisFlushPreview(seen)) if seen.run_id == now => {
            Witness::NotDone(format!("it has no key {witness}, and has not been started anew since"))
        }
        _ => Witness::Unknown("Redis was started anew since, and may have forgotten".to_owned()),
    })
}

/// Nothing is emptied that may not be the stack's.
fn sure(place: &Place) -> Result<(), Fault> {
    if place.doubt.is_empty() {
        return Ok(());
    }
    Err(Fault::refused(
        "redis_ambiguous",
        format!("it is not certain which Redis the stack uses: {}", place.doubt),
    )
    .hint("make them agree, or set `redis_url` under the stack in /etc/vigie/agent.toml"))
}

async fn server(session: &mut Session) -> Result<String, Trouble> {
    Ok(run_id(&string(&session.ask(cmd("INFO").arg("server")).await?)))
}

fn run_id(sections: &str) -> String {
    let line = sections.lines().find_map(|line| line.strip_prefix("run_id:"));
    line.unwrap_or_default().trim().to_owned()
}
