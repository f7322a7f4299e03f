# shellcheck shell=bash
# A session sits idle in a transaction with a lock on the documents; a report waits for it.
# expect: runbook=postgres-down cause=lock_by_migration remedy=-
break_it() {
    # The client's input stays open, as in a terminal that somebody has walked away from. It waits outside
    # of the container: there, an orphan that is killed is PostgreSQL's own child, and takes it for a crash.
    systemd-run -q --unit world-lock bash -c "
        { echo 'BEGIN; LOCK TABLE knowledge_documents IN ACCESS EXCLUSIVE MODE;'; exec sleep 86400; } |
            docker exec -i -e PGAPPNAME=migration sylion-postgres psql -q -U sylion_user -d sylion_prod"
    poll 10 lock_held
    docker exec -d -e PGAPPNAME=report sylion-postgres psql -U sylion_user -d sylion_prod \
        -c 'SELECT count(*) FROM knowledge_documents;'
    poll 10 lock_awaited
    # Long enough to be no ordinary wait.
    poll 15 awaited_long
}
lock_held() { sql -At <<<"SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'knowledge_documents'::regclass" | grep -q 1; }
lock_awaited() { sql -At <<<'SELECT 1 FROM pg_locks WHERE NOT granted' | grep -q 1; }
awaited_long() { sql -At <<<"SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query_start < now() - interval '6 s'" | grep -q 1; }
cure_it() {
    systemctl stop world-lock
    sql -At <<<"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name IN ('migration', 'report')"
}
