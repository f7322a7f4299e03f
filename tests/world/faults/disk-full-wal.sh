# shellcheck shell=bash
# The standby behind a replication slot is gone, and PostgreSQL keeps its write-ahead log for it until the disk is full.
# expect: runbook=disk-full cause=slot_keeps_wal remedy=-
break_it() {
    shrink_disk 900M
    wait_healthy 60
    sql -o /dev/null <<<"SELECT pg_create_physical_replication_slot('world_standby', true)"
    for _ in {1..36}; do
        sql -o /dev/null <<<"SELECT pg_logical_emit_message(true, 'world', 'x'); SELECT pg_switch_wal()"
    done
    # The segment that is being written is there before the disk is full: the server lives on, and can be asked.
    sql <<<'CREATE TABLE event_log (n int, t text)'
    fill_disk
    refuses_writes
}
cure_it() {
    # The disk makes room first: a server that has stopped starts on it.
    rm -f /var/lib/docker/volumes/world-filler
    docker start sylion-postgres
    poll 60 has_health sylion-postgres healthy
    # What is let go would be kept for later use, up to the bound.
    sql <<<"ALTER SYSTEM SET max_wal_size = '64MB'"
    sql <<<"ALTER SYSTEM SET min_wal_size = '32MB'"
    sql -o /dev/null <<<"SELECT pg_reload_conf()"
    sql -o /dev/null <<<"SELECT pg_drop_replication_slot('world_standby'); CHECKPOINT"
    sql <<<"ALTER SYSTEM RESET ALL"
    sql -o /dev/null <<<"SELECT pg_reload_conf()"
    restore_disk
    accepts_writes
}
