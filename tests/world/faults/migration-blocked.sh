# shellcheck shell=bash
# The migration alters a table that a report has been reading for long, idle in its transaction.
# expect: runbook=db-migration param=file=drizzle/0003_add_plans_and_knowledge.sql cause=blocked remedy=-
break_it() {
    echo 'ALTER TABLE plans ADD COLUMN IF NOT EXISTS note text;' >>"$STACK/drizzle/0003_add_plans_and_knowledge.sql"
    systemd-run -q --unit world-report bash -c "
        { echo 'BEGIN; SELECT count(*) FROM plans;'; exec sleep 86400; } |
            docker exec -i -e PGAPPNAME=report sylion-postgres psql -q -U sylion_user -d sylion_prod"
    poll 30 idles_for 12
}
idles_for() {
    sql -At <<<"SELECT 1 FROM pg_stat_activity WHERE application_name = 'report' AND xact_start < now() - interval '$1 s'" | grep -q 1
}
cure_it() {
    systemctl stop world-report || true
    sql -At <<<"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE application_name = 'report'"
    sql <<<'ALTER TABLE plans DROP COLUMN IF EXISTS note'
    restore "$STACK/drizzle/0003_add_plans_and_knowledge.sql"
}
