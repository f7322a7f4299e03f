# shellcheck shell=bash
# PostgreSQL's container was taken off the stack's network: it is healthy, and nobody finds it.
# expect: runbook=postgres-down cause=network_split remedy=-
break_it() {
    docker network disconnect sylion-network sylion-postgres
    poll 20 has_code 503
    poll 60 has_health sylion-backend unhealthy
}
cure_it() { docker network connect --alias postgres sylion-network sylion-postgres; }
