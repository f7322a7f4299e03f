# shellcheck shell=bash
# A seed of the migration counts up where its row is there: nothing that a lint sees, and a second run changes it again.
# expect: runbook=db-migration param=file=drizzle/0003_add_plans_and_knowledge.sql cause=pending remedy=apply then=rehearsal_failed
break_it() {
    # What a rehearsal said of this very file is remembered: it is another one each time.
    printf '\n-- %s\n' "$(date +%s%N)" >>"$STACK/drizzle/0003_add_plans_and_knowledge.sql"
    cat >>"$STACK/drizzle/0003_add_plans_and_knowledge.sql" <<'SQL'
ALTER TABLE plans ADD COLUMN IF NOT EXISTS note text;
INSERT INTO usage_counters_daily (tenant_id, date) SELECT id, CURRENT_DATE FROM tenants
ON CONFLICT (tenant_id, date) DO UPDATE SET docs_indexed_count = usage_counters_daily.docs_indexed_count + 1;
SQL
}
cure_it() {
    find "$STACK/backups/postgres" -name '*.sql.gz' -newer "$WORLD/faults" -delete
    restore "$STACK/drizzle/0003_add_plans_and_knowledge.sql"
}
