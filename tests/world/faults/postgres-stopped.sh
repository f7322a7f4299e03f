# shellcheck shell=bash
# PostgreSQL was stopped by hand: /health answers 503 with dbConnected false.
# expect: runbook=postgres-down cause=stopped remedy=start_postgres
# ci: yes
break_it() {
    docker stop sylion-postgres
    poll 10 has_code 503
    poll 40 has_health sylion-backend unhealthy
}
cure_it() { docker start sylion-postgres; }
