# shellcheck shell=bash
# DATABASE_URL was edited to a host that does not exist and the backend made anew: PostgreSQL itself is well.
# expect: runbook=postgres-down cause=wrong_address remedy=-
break_it() {
    sed -i 's|@postgres:5432/|@postgres-main:5432/|' "$STACK/.env.prod"
    compose up -d --no-deps backend
    poll 20 has_code 503
    poll 60 has_health sylion-backend unhealthy
}
cure_it() {
    restore "$STACK/.env.prod"
    compose up -d --no-deps backend
}
