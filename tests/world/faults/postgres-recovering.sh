# shellcheck shell=bash
# PostgreSQL was killed in the middle of much writing and recovers for minutes: FATAL: the database system is starting up.
# expect: runbook=postgres-down cause=not_ready remedy=-
break_it() {
    # Recovery reads its log in an instant on a small host; its process is held in the middle of it, which is what
    # a slow disk does.
    sql <<<'CREATE TABLE world_wal (n int, t text); INSERT INTO world_wal SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 100000) n;'
    docker kill sylion-postgres >/dev/null
    systemd-run -q --unit world-hold bash -c '
        until pid=$(pgrep -f "^postgres: startup"); do :; done
        kill -STOP "$pid"'
    docker start sylion-postgres
    poll 20 refused_as_starting
    poll 20 has_code 503
}
refused_as_starting() {
    local said
    said=$(docker exec sylion-postgres psql -U sylion_user -d sylion_prod -c 'SELECT 1' 2>&1 || true)
    [[ $said =~ starting\ up|not\ yet\ accepting|recovery ]]
}
cure_it() {
    systemctl stop world-hold 2>/dev/null || true
    pkill -CONT -f '^postgres: startup' || true
    poll 30 has_health sylion-postgres healthy
    sql <<<'DROP TABLE IF EXISTS world_wal'
}
