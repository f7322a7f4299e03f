# shellcheck shell=bash
# PostgreSQL's first process is stopped by a signal: connections are taken, and nobody is let in.
# expect: runbook=postgres-down cause=suspended remedy=restart_postgres
break_it() {
    docker kill -s STOP sylion-postgres
    poll 20 has_code 503
    poll 60 has_health sylion-backend unhealthy
}
cure_it() { docker kill -s CONT sylion-postgres || true; }
