# shellcheck shell=bash
# A folder lies where Redis puts its snapshot: saving fails, and Redis refuses every write, and PING with them (MISCONF).
# expect: runbook=redis-down cause=snapshots_fail remedy=-
break_it() {
    docker exec sylion-redis sh -c 'rm -f /data/dump.rdb && mkdir /data/dump.rdb'
    redis BGSAVE >/dev/null
    poll 10 sh -c "docker exec -e REDISCLI_AUTH='$(env_var REDIS_PASSWORD)' sylion-redis redis-cli info persistence | grep -q 'rdb_last_bgsave_status:err'"
}
cure_it() {
    docker exec sylion-redis rmdir /data/dump.rdb
    redis BGSAVE >/dev/null
    poll 10 sh -c "docker exec -e REDISCLI_AUTH='$(env_var REDIS_PASSWORD)' sylion-redis redis-cli info persistence | grep -q 'rdb_last_bgsave_status:ok'"
}
