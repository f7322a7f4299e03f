# shellcheck shell=bash
# A dump that has run for long, a replication slot that somebody reads, and a server that was restarted a moment ago.
# expect: healthy
break_it() {
    docker restart -t 10 sylion-postgres
    poll 30 has_health sylion-postgres healthy
    wait_healthy 60
    # As pg_dump reads: one transaction, open for as long as the dump takes.
    systemd-run -q --unit world-dump bash -c "
        { echo 'BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; LOCK TABLE knowledge_documents IN ACCESS SHARE MODE; SELECT 1;'; exec sleep 86400; } |
            docker exec -i -e PGAPPNAME=pg_dump sylion-postgres psql -q -U sylion_user -d sylion_prod"
    docker exec sylion-postgres bash -c 'rm -rf /tmp/standby && mkdir /tmp/standby'
    docker exec sylion-postgres pg_receivewal -U sylion_user --slot world_standby --create-slot --if-not-exists
    systemd-run -q --unit world-standby docker exec sylion-postgres \
        pg_receivewal -U sylion_user -D /tmp/standby --slot world_standby --no-loop
    poll 20 streaming
}
streaming() { sql -At <<<"SELECT 1 FROM pg_replication_slots WHERE active" | grep -q 1; }
cure_it() {
    systemctl stop world-dump world-standby 2>/dev/null || true
    sql -At <<<"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE application_name IN ('pg_dump', 'pg_receivewal')"
    sql -At <<<"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
}
