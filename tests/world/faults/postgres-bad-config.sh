# shellcheck shell=bash
# postgresql.conf asks for a setting that PostgreSQL does not take: it crash-loops, FATAL: … contains errors.
# expect: runbook=postgres-down cause=config_invalid remedy=-
break_it() {
    echo "max_connections = 'two hundred'" >>"$(postgres_data)/postgresql.conf"
    docker restart -t 10 sylion-postgres || true
    poll 20 restarted sylion-postgres 2
    poll 10 has_code 503
}
postgres_data() { docker volume inspect -f '{{.Mountpoint}}' sylion-postgres-data; }
cure_it() {
    sed -i '/two hundred/d' "$(postgres_data)/postgresql.conf"
    docker restart sylion-postgres
}
