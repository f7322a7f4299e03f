# shellcheck shell=bash
# Reports over everything keep PostgreSQL busy for minutes (here: seconds, by the parameter).
# expect: runbook=high-load cause=long_queries remedy=terminate_long_queries act=no param=long_query_s=5 destroys=yes
break_it() {
    for _ in 1 2 3; do
        docker exec -d -e PGAPPNAME=report sylion-postgres psql -U sylion_user -d sylion_prod \
            -c 'SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b'
    done
    poll 20 queries_are_long
}
queries_are_long() {
    (($(sql -At <<<"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'report' AND state = 'active' AND now() - query_start > interval '6 seconds'") >= 3))
}
cure_it() {
    sql -At <<<"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'"
}
