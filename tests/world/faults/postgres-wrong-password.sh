# shellcheck shell=bash
# The database role's password is no longer that of .env.prod: FATAL: password authentication failed.
# expect: runbook=postgres-down cause=wrong_password remedy=-
break_it() {
    sql <<<"ALTER ROLE sylion_user PASSWORD 'rotated-by-hand';"
    poll 10 has_code 503
    poll 40 has_health sylion-backend unhealthy
}
cure_it() { sql -v "password=$(env_var POSTGRES_PASSWORD)" <<<"ALTER ROLE sylion_user PASSWORD :'password';"; }
