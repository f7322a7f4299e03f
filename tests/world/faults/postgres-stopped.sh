# shellcheck shell=bash
# PostgreSQL was stopped by hand: /health answers 503 with dbConnected false.
break_it() {
    docker stop sylion-postgres
    poll 10 has_code 503
    poll 40 has_health sylion-backend unhealthy
}
cure_it() { docker start sylion-postgres; }
