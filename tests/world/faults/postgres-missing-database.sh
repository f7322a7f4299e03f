# shellcheck shell=bash
# Somebody renamed the database: FATAL: database "sylion_prod" does not exist.
# expect: runbook=postgres-down cause=database_missing remedy=-
break_it() {
    rename sylion_prod sylion_prod_old
    poll 20 has_code 503
    poll 40 has_health sylion-backend unhealthy
}
rename() {
    docker exec -i sylion-postgres psql -q -v ON_ERROR_STOP=1 -U sylion_user -d postgres <<SQL
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$1';
ALTER DATABASE $1 RENAME TO $2;
SQL
}
cure_it() { rename sylion_prod_old sylion_prod; }
