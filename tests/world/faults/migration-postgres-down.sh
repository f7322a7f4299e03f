# shellcheck shell=bash
# A migration is due, and PostgreSQL is stopped: nothing is migrated until it is back.
# expect: runbook=db-migration param=file=drizzle/0003_add_plans_and_knowledge.sql cause=postgres_not_ready also=stopped remedy=-
break_it() {
    sql <<<'DROP TABLE knowledge_chunks'
    docker stop sylion-postgres >/dev/null
    poll 20 has_code 503
}
cure_it() {
    docker start sylion-postgres
    poll 30 has_health sylion-postgres healthy
    seed_data
}
