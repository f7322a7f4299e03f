//! What `INFO` says, in the catalogue's words.

use std::{collections::BTreeMap, str::FromStr};

use vigie_proto::v1::RedisInfo;

/// Reads `INFO`'s lines, and what `CONFIG GET` added.
pub(super) fn read(text: &str, settings: &BTreeMap<String, String>, database: u32) -> RedisInfo {
    let lines: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let word = |name: &str| lines.get(name).copied().unwrap_or_default();
    let number = |name: &str| parsed::<u64>(word(name));
    let small = |name: &str| parsed::<u32>(word(name));
    let (used, limit) = (number("used_memory"), number("maxmemory"));
    let percent = if limit == 0 { 0.0 } else { used as f64 * 100.0 / limit as f64 };
    let keyspace: Vec<(u32, Keyspace)> = lines
        .iter()
        .filter_map(|(name, said)| Some((name.strip_prefix("db")?.parse().ok()?, Keyspace::read(said))))
        .collect();
    let own = keyspace.iter().find(|(number, _)| *number == database).map(|(_, own)| own);
    let setting = |name: &str| settings.get(name).map(String::as_str);
    let replica = word("role") == "slave";
    RedisInfo {
        known: lines.contains_key("used_memory"),
        version: word("redis_version").to_owned(),
        uptime_s: number("uptime_in_seconds"),
        used_memory_bytes: used,
        peak_memory_bytes: number("used_memory_peak"),
        rss_bytes: number("used_memory_rss"),
        maxmemory_bytes: limit,
        maxmemory_policy: word("maxmemory_policy").to_owned(),
        memory_percent: percent,
        fragmentation_ratio: parsed(word("mem_fragmentation_ratio")),
        // Negative while pages are swapped out.
        fragmentation_bytes: number("mem_fragmentation_bytes"),
        purgeable_bytes: number("allocator_rss_bytes"),
        clients: small("connected_clients"),
        blocked_clients: small("blocked_clients"),
        max_clients: match small("maxclients") {
            0 => setting("maxclients").map(parsed).unwrap_or_default(),
            most => most,
        },
        rejected_connections: number("rejected_connections"),
        evicted_keys: number("evicted_keys"),
        expired_keys: number("expired_keys"),
        operations_per_second: small("instantaneous_ops_per_sec"),
        loading: word("loading") == "1",
        loading_eta_s: small("loading_eta_seconds"),
        rdb_last_save_ok: word("rdb_last_bgsave_status") == "ok",
        rdb_last_save_ms: parsed::<i64>(word("rdb_last_save_time")) * 1000,
        rdb_changes: number("rdb_changes_since_last_save"),
        aof_enabled: word("aof_enabled") == "1",
        aof_last_write_ok: word("aof_last_write_status") == "ok",
        aof_last_rewrite_ok: word("aof_last_bgrewrite_status") == "ok",
        stops_writes_on_save_error: setting("stop-writes-on-bgsave-error") == Some("yes"),
        saves_snapshots: setting("save").is_some_and(|points| !points.is_empty()),
        role: if replica { "replica" } else { word("role") }.to_owned(),
        master_link: word("master_link_status").to_owned(),
        master_address: if replica {
            format!("{}:{}", word("master_host"), word("master_port"))
        } else {
            String::new()
        },
        read_only: replica && word("slave_read_only") == "1",
        replicas: small("connected_slaves"),
        keys: keyspace.iter().map(|(_, own)| own.keys).sum(),
        database_keys: own.map_or(0, |own| own.keys),
        database_expiring_keys: own.map_or(0, |own| own.expiring),
    }
}

/// A line such as `db0:keys=8,expires=0,avg_ttl=0`.
#[derive(Default)]
struct Keyspace {
    keys: u64,
    expiring: u64,
}

impl Keyspace {
    fn read(said: &str) -> Self {
        let value = |name: &str| {
            said.split(',')
                .filter_map(|pair| pair.split_once('='))
                .find(|(own, _)| *own == name)
                .map(|(_, n)| n)
        };
        Self {
            keys: value("keys").map(parsed).unwrap_or_default(),
            expiring: value("expires").map(parsed).unwrap_or_default(),
        }
    }
}

fn parsed<T: FromStr + Default>(text: &str) -> T {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from Redis 7.0.15 of the test world.
    const HEALTHY: &str = include_str!("../fixtures/redis-info.txt");

    #[test]
    fn a_healthy_redis() {
        let settings = BTreeMap::from([
            ("stop-writes-on-bgsave-error".to_owned(), "yes".to_owned()),
            ("save".to_owned(), "3600 1 300 100 60 10000".to_owned()),
        ]);
        let info = read(HEALTHY, &settings, 0);
        assert!(info.known && info.rdb_last_save_ok && info.aof_enabled && info.aof_last_write_ok);
        assert_eq!(
            (info.version.as_str(), info.role.as_str(), info.max_clients),
            ("7.0.15", "master", 10_000)
        );
        assert_eq!((info.keys, info.database_keys, info.database_expiring_keys), (8, 8, 0));
        assert_eq!(read(HEALTHY, &settings, 3).database_keys, 0);
        assert!(info.stops_writes_on_save_error && info.saves_snapshots && !info.read_only);
        assert!(info.purgeable_bytes > 0 && info.memory_percent.abs() < f64::EPSILON);
    }

    #[test]
    fn a_replica_that_lost_its_master_and_is_full() {
        let info = read(
            "used_memory:96\r\nmaxmemory:100\r\nrole:slave\r\nmaster_host:10.0.0.9\r\nmaster_port:6379\r\n\
             master_link_status:down\r\nslave_read_only:1\r\nmem_fragmentation_bytes:-12\r\n",
            &BTreeMap::new(),
            0,
        );
        assert_eq!((info.role.as_str(), info.master_link.as_str()), ("replica", "down"));
        assert!(info.read_only && info.master_address == "10.0.0.9:6379" && info.fragmentation_bytes == 0);
        assert!((info.memory_percent - 96.0).abs() < 0.01);
    }
}
