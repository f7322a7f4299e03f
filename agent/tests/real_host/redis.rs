//! The stack's real Redis and its knowledge base: what is read, and what the actions do and refuse.

use redis::{AsyncTypedCommands as _, aio::MultiplexedConnection};
use tokio::sync::Mutex;
use vigie_proto::v1::{self, request::Operation as Ask, result::Operation as Answer};

use crate::World;

/// Tests that write to the one Redis and the one database of the host take turns.
static TURN: Mutex<()> = Mutex::const_new(());

const QUEUE: &str = "vigie:test";
const TENANT: &str = "11111111-1111-4111-8111-111111111111";

/// A connection of the test's own, with the address that Docker tells and the password of the env file.
async fn connection(world: &World) -> MultiplexedConnection {
    let stack = world.host.stacks().resolve("").await.unwrap();
    let place = vigie_agent::host::redis::locate(&world.host, &stack, "").await.unwrap().unwrap();
    let password = stack.variable(&["REDIS_PASSWORD"]).unwrap().value;
    let info =
        redis::IntoConnectionInfo::into_connection_info(format!("redis://{}/0", place.address)).unwrap();
    let settings = redis::RedisConnectionInfo::default().set_password(password.as_str());
    let client = redis::Client::open(info.set_redis_settings(settings)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn status(world: &World) -> v1::RedisStatusResult {
    match world.run(Ask::RedisStatus(v1::RedisStatusRequest::default())).await.unwrap() {
        Answer::RedisStatus(found) => found,
        other => panic!("{other:?}"),
    }
}

async fn queue(world: &World) -> v1::RedisQueue {
    match world.run(Ask::RedisQueues(v1::RedisQueuesRequest::default())).await.unwrap() {
        Answer::RedisQueues(found) => {
            assert!(found.present && found.scan_complete && found.workers_known, "{found:?}");
            found.queues.into_iter().find(|queue| queue.name == QUEUE).expect("the queue is found")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn redis_is_asked_with_the_stacks_password() {
    let world = World::new().await;
    world.healthy().await;
    let _turn = TURN.lock().await;
    let found = status(&world).await;
    assert_eq!((found.state.as_str(), found.error.as_str(), found.writes_refused.as_str()), ("ok", "", ""));
    assert!(found.present && found.password_required && found.ping_p50_us > 0);
    assert_eq!((found.container.as_str(), found.service.as_str()), ("sylion-redis", "redis"));
    let outcomes: Vec<_> =
        found.credentials.iter().map(|own| (own.source.as_str(), own.outcome.as_str())).collect();
    let expected = ["env_url", "env_password", "backend", "container"].map(|source| (source, "accepted"));
    assert_eq!(outcomes, expected);
    let info = found.info.unwrap();
    assert!(info.known && info.role == "master" && info.aof_enabled && info.keys > 0);
    let volume = found.volume.unwrap();
    assert_eq!(volume.name, "sylion-redis-data");
    assert!(volume.readable && volume.free_bytes > 0);
}

#[tokio::test]
async fn a_paused_queue_is_seen_and_resumed() {
    let world = World::new().await;
    world.healthy().await;
    let _turn = TURN.lock().await;
    let mut redis = connection(&world).await;
    let key = |own: &str| format!("bull:{QUEUE}:{own}");
    let now = chrono::Utc::now().timestamp_millis();
    // A queue that was ever used has its version there; without it nothing is left once it is resumed.
    redis.hset(key("meta"), "version", "bullmq:5").await.unwrap();
    redis.hset(key("meta"), "paused", 1).await.unwrap();
    for id in ["1", "2", "3"] {
        redis.hset(key(id), "timestamp", now - 600_000).await.unwrap();
        redis.lpush(key("paused"), id).await.unwrap();
    }
    // One that is active and held by nobody, and one that failed.
    redis.hset(key("4"), "timestamp", now).await.unwrap();
    redis.lpush(key("active"), "4").await.unwrap();
    redis.hset(key("5"), "failedReason", "connect ECONNREFUSED 10.0.0.5:443").await.unwrap();
    redis.zadd(key("failed"), "5", now).await.unwrap();
    let found = queue(&world).await;
    assert_eq!((found.paused, found.waiting, found.workers, found.stalled), (true, 3, 0, 1), "{found:?}");
    assert!((600..700).contains(&found.oldest_waiting_s) && !found.progressing && found.broken == 0);
    assert_eq!((found.failed, found.failures[0].jobs), (1, 1));
    assert!(found.failures[0].reason.starts_with("connect ECONNREFUSED"));

    let resume = |queues: &[&str]| {
        let queues = queues.iter().map(|name| (*name).to_owned()).collect();
        world.run(Ask::RedisQueueResume(v1::RedisQueueResumeRequest { queues, ..Default::default() }))
    };
    assert_eq!(resume(&["nope"]).await.unwrap_err().failure.code, "queue_unknown");
    let Answer::RedisQueueResume(done) = resume(&[QUEUE]).await.unwrap() else { panic!() };
    assert!(done.queues[0].was_paused && done.queues[0].jobs == 3);
    assert_eq!(redis.lrange(key("wait"), 0, -1).await.unwrap(), ["3", "2", "1"]);
    let found = queue(&world).await;
    assert_eq!((found.paused, found.waiting), (false, 3));
    let Answer::RedisQueueResume(done) = resume(&[QUEUE]).await.unwrap() else { panic!() };
    assert!(!done.queues[0].was_paused, "resuming again changes nothing");

    // Keys of another kind are no queue.
    redis.del(key("wait")).await.unwrap();
    redis.set(key("wait"), "garbage").await.unwrap();
    assert_eq!(queue(&world).await.broken, 1);
    for own in ["meta", "wait", "active", "failed", "events", "marker", "1", "2", "3", "4", "5"] {
        redis.del(key(own)).await.unwrap();
    }
}

#[tokio::test]
async fn a_flush_loses_exactly_what_was_signed_for() {
    let world = World::new().await;
    world.healthy().await;
    let _turn = TURN.lock().await;
    let mut redis = connection(&world).await;
    // What the host has is put back afterwards.
    let kept: Vec<String> = redis.keys("*").await.unwrap();
    let mut dumps = Vec::new();
    for key in &kept {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(key).query_async(&mut redis).await.unwrap();
        dumps.push((key.clone(), dump));
    }
    let key = |own: &str| format!("bull:{QUEUE}:{own}");
    redis.hset(key("meta"), "version", "bullmq").await.unwrap();
    redis.hset(key("1"), "timestamp", 1).await.unwrap();
    redis.lpush(key("wait"), "1").await.unwrap();
    let ask = || Ask::RedisFlush(v1::RedisFlushRequest::default());
    assert_eq!(world.run(ask()).await.unwrap_err().failure.code, "not_prepared");
    let preview = world.run(Ask::RedisFlushPreview(v1::RedisFlushPreviewRequest::default())).await.unwrap();
    let Answer::RedisFlushPreview(seen) = &preview else { panic!() };
    assert!(seen.jobs_lost >= 1 && seen.keys > 2 && !seen.run_id.is_empty(), "{seen:?}");
    // A job more than was signed for.
    redis.hset(key("2"), "timestamp", 1).await.unwrap();
    redis.lpush(key("wait"), "2").await.unwrap();
    let refused = world.run_prepared(ask(), preview.clone()).await.unwrap_err();
    assert_eq!(refused.failure.code, "flush_changed");
    redis.del(key("2")).await.unwrap();
    redis::cmd("LPOP").arg(key("wait")).exec_async(&mut redis).await.unwrap();
    let Answer::RedisFlush(done) = world.run_prepared(ask(), preview.clone()).await.unwrap() else {
        panic!()
    };
    assert_eq!(done.jobs_lost, seen.jobs_lost);
    let witnesses: Vec<String> = redis.keys("vigie:done:*").await.unwrap();
    let [witness] = witnesses.as_slice() else { panic!("{witnesses:?}") };
    assert!(done.keys_before >= 3 && redis.ttl(witness).await.unwrap().raw() > 86_000);
    redis.del(witness).await.unwrap();
    for (key, dump) in dumps {
        let _: () = redis::cmd("RESTORE")
            .arg(key)
            .arg(0)
            .arg(dump)
            .arg("REPLACE")
            .query_async(&mut redis)
            .await
            .unwrap();
    }
    let mut other = seen.clone();
    other.run_id = "0".repeat(40);
    let refused = world.run_prepared(ask(), Answer::RedisFlushPreview(other)).await.unwrap_err();
    assert_eq!(refused.failure.code, "flush_changed", "another server");
}

#[tokio::test]
async fn memory_is_purged_and_no_key_goes() {
    let world = World::new().await;
    world.healthy().await;
    let _turn = TURN.lock().await;
    let before = status(&world).await.info.unwrap();
    let ask = Ask::RedisPurgeMemory(v1::RedisPurgeMemoryRequest::default());
    let Answer::RedisPurgeMemory(done) = world.run(ask).await.unwrap() else { panic!() };
    assert!(done.rss_before_bytes > 0 && done.rss_after_bytes > 0 && done.used_memory_bytes > 0);
    assert_eq!(status(&world).await.info.unwrap().keys, before.keys);
}

async fn tenant(world: &World) -> v1::TenantQuota {
    let ask =
        Ask::KnowledgeQuota(v1::KnowledgeQuotaRequest { tenant: TENANT.to_owned(), ..Default::default() });
    match world.run(ask).await.unwrap() {
        Answer::KnowledgeQuota(found) => {
            assert!(found.present && found.reset_in_min <= 24 * 60 && found.date.len() == 10, "{found:?}");
            found.tenants.into_iter().next().expect("the tenant is there")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn quotas_are_read_and_the_ways_out_are_exact() {
    let world = World::new().await;
    world.healthy().await;
    let _turn = TURN.lock().await;
    let found = tenant(&world).await;
    assert_eq!((found.plan.as_str(), found.limit, found.level.as_str()), ("free", 5, "ok"), "{found:?}");
    assert_eq!(found.days.len(), 5);
    let before = found.used;

    let stats =
        Ask::KnowledgeStats(v1::KnowledgeStatsRequest { tenant: TENANT.to_owned(), ..Default::default() });
    let Answer::KnowledgeStats(said) = world.run(stats).await.unwrap() else { panic!() };
    assert!(said.answered && said.mismatches.is_empty() && said.backend_used == before, "{said:?}");

    let plan = |plan: &str, from: &str| {
        let (plan, from) = (plan.to_owned(), from.to_owned());
        world.run(Ask::KnowledgePlan(v1::KnowledgePlanRequest {
            tenant: TENANT.to_owned(),
            plan,
            from,
            ..Default::default()
        }))
    };
    assert_eq!(plan("gold", "").await.unwrap_err().failure.code, "plan_unknown");
    assert_eq!(plan("pro", "enterprise").await.unwrap_err().failure.code, "plan_changed");
    let Answer::KnowledgePlan(done) = plan("pro", "free").await.unwrap() else { panic!() };
    assert_eq!(
        (done.before.as_str(), done.after.as_str(), done.limit_before, done.limit_after),
        ("free", "pro", 5, 100)
    );
    plan("free", "pro").await.unwrap();

    // A document that the backend indexes again through its admin interface, which counts it.
    let documents = vec!["aaaaaaaa-0000-4000-8000-000000000003".to_owned()];
    let reindex = Ask::KnowledgeReindex(v1::KnowledgeReindexRequest {
        tenant: TENANT.to_owned(),
        documents,
        ..Default::default()
    });
    let Answer::KnowledgeReindex(done) = world.run(reindex).await.unwrap() else { panic!() };
    assert_eq!(
        (done.accepted, done.documents[0].status, done.documents[0].after.as_str()),
        (1, 202, "indexed"),
        "{done:?}"
    );
    assert_eq!(tenant(&world).await.used, before + 1);

    let ask = || {
        Ask::KnowledgeCounterReset(v1::KnowledgeCounterResetRequest {
            tenant: TENANT.to_owned(),
            ..Default::default()
        })
    };
    assert_eq!(world.run(ask()).await.unwrap_err().failure.code, "not_prepared");
    let preview = Ask::KnowledgeCounterPreview(v1::KnowledgeCounterPreviewRequest {
        tenant: TENANT.to_owned(),
        ..Default::default()
    });
    let preview = world.run(preview).await.unwrap();
    let Answer::KnowledgeCounterPreview(seen) = &preview else { panic!() };
    assert!(seen.counted && seen.used == before + 1 && seen.limit == 5, "{seen:?}");
    let mut other = seen.clone();
    other.used += 1;
    let refused = world.run_prepared(ask(), Answer::KnowledgeCounterPreview(other)).await.unwrap_err();
    assert_eq!(refused.failure.code, "counter_changed");
    let Answer::KnowledgeCounterReset(done) = world.run_prepared(ask(), preview).await.unwrap() else {
        panic!()
    };
    assert_eq!((done.before, done.after), (before + 1, 0));
    assert_eq!(tenant(&world).await.used, 0);
}
