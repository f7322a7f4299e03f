# shellcheck shell=bash
# A leak has taken every connection, the reserved ones too: FATAL: sorry, too many clients already.
# expect: runbook=postgres-down cause=connections_exhausted remedy=terminate_idle param=idle_s=2 destroys=yes
break_it() {
    # One psql holds one session; a script that a worker forgot holds them all, and each idles. It waits outside of the
    # container, as the fault postgres-lock says.
    cat >/var/lib/world/leak.sh <<'LEAK'
for _ in $(seq 110); do
    { echo 'SELECT 1;'; exec sleep 86400; } |
        PGPASSWORD=$1 PGAPPNAME=export-worker psql -q -h "$2" -U sylion_user -d sylion_prod &
done
wait
LEAK
    systemd-run -q --unit world-leak bash /var/lib/world/leak.sh "$(env_var POSTGRES_PASSWORD)" "$(postgres_address)"
    poll 20 exhausted
    poll 10 has_code 503
    poll 40 has_health sylion-backend unhealthy
}
postgres_address() { docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' sylion-postgres; }
exhausted() {
    local said
    said=$(docker exec sylion-postgres psql -U sylion_user -d sylion_prod -c 'SELECT 1' 2>&1 || true)
    [[ $said == *'too many clients'* ]]
}
cure_it() {
    systemctl stop world-leak
    rm -f /var/lib/world/leak.sh
}
