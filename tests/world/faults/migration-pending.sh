# shellcheck shell=bash
# A deployment came without its migration: two tables of the reference and an index are not there.
# expect: runbook=db-migration param=file=drizzle/0003_add_plans_and_knowledge.sql cause=pending remedy=apply
# ci: yes
break_it() {
    sql <<<'DROP TABLE knowledge_chunks, usage_counters_daily; DROP INDEX knowledge_documents_tenant_status;'
}
cure_it() {
    # The backup that the remedy made would be another's fresh one.
    find "$STACK/backups/postgres" -name '*.sql.gz' -newer "$WORLD/faults" -delete
    seed_data
}
