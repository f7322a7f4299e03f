# shellcheck shell=bash
# A report sits idle in a transaction on a table, an update waits for it, and a third session for the two.
# expect: runbook=postgres-down cause=lock_chain remedy=terminate_blocker destroys=yes
break_it() {
    hold world-lock-root report 'BEGIN; LOCK TABLE knowledge_documents IN SHARE MODE;'
    poll 10 locks_are "granted AND mode = 'ShareLock'" 1
    hold world-lock-middle shop 'BEGIN; UPDATE knowledge_documents SET updated_at = now(); COMMIT;'
    poll 10 locks_are 'NOT granted' 1
    hold world-lock-last shop 'BEGIN; LOCK TABLE knowledge_documents IN ACCESS EXCLUSIVE MODE; COMMIT;'
    poll 10 locks_are 'NOT granted' 2
    poll 15 waited_for 6
}
# hold UNIT APPLICATION SQL: a session that stays, as a client that somebody has walked away from.
hold() {
    systemd-run -q --unit "$1" bash -c "
        { echo \"$3\"; exec sleep 86400; } |
            docker exec -i -e PGAPPNAME=$2 sylion-postgres psql -q -U sylion_user -d sylion_prod"
}
locks_are() {
    [[ $(sql -At <<<"SELECT count(*) FROM pg_locks WHERE relation = 'knowledge_documents'::regclass AND $1") -ge $2 ]]
}
waited_for() { sql -At <<<"SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query_start < now() - interval '$1 s'" | grep -q 1; }
cure_it() {
    systemctl stop world-lock-root world-lock-middle world-lock-last || true
    sql -At <<<"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name IN ('report', 'shop')"
}
