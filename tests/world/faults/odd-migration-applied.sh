# shellcheck shell=bash
# A migration that is applied, written so that it reads badly (comments, dollar quotes, psql's escapes), while a dump reads its tables.
# expect: healthy notice runbook=db-migration param=file=drizzle/0003_add_plans_and_knowledge.sql
# ci: yes
break_it() {
    cat >>"$STACK/drizzle/0003_add_plans_and_knowledge.sql" <<'SQL'

/* A comment with ; and /* one within */ and an odd ' quote. */
--> statement-breakpoint
CREATE OR REPLACE FUNCTION world_touch() RETURNS trigger LANGUAGE plpgsql AS $fn$
BEGIN
    NEW.updated_at := now(); -- ; DROP TABLE plans;
    RETURN NEW;
END
$fn$;
DO $do$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = 'tenants_plan_code_fkey') THEN
        EXECUTE $sql$ALTER TABLE tenants ADD CONSTRAINT tenants_plan_code_fkey FOREIGN KEY (plan_code) REFERENCES plans (code)$sql$;
    END IF;
END $do$;
COMMENT ON TABLE plans IS E'It\'s the plans'' table; \\ and no more';
INSERT INTO plans (code, name) VALUES ('free', U&'Fr\0065e') ON CONFLICT (code) DO NOTHING;
SQL
    systemd-run -q --unit world-dump bash -c "
        { echo 'BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; LOCK TABLE plans, knowledge_documents IN ACCESS SHARE MODE; SELECT 1;'; exec sleep 86400; } |
            docker exec -i -e PGAPPNAME=pg_dump sylion-postgres psql -q -U sylion_user -d sylion_prod"
    poll 30 dumps_for 12
}
dumps_for() {
    sql -At <<<"SELECT 1 FROM pg_stat_activity WHERE application_name = 'pg_dump' AND xact_start < now() - interval '$1 s'" | grep -q 1
}
cure_it() {
    systemctl stop world-dump || true
    sql -At <<<"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE application_name = 'pg_dump'"
    restore "$STACK/drizzle/0003_add_plans_and_knowledge.sql"
}
