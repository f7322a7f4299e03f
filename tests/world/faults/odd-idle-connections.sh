# shellcheck shell=bash
# Sixty idle connections of a pool, far from the limit, and one that idles in a transaction without a lock that matters.
# expect: healthy
# ci: yes
break_it() {
    cat >/var/lib/world/pool.sh <<'POOL'
for n in $(seq 60); do
    { [[ $n != 1 ]] || echo 'BEGIN; SELECT count(*) FROM plans;'; echo 'SELECT 1;'; exec sleep 86400; } |
        PGPASSWORD=$1 PGAPPNAME=sylion-pool psql -q -h "$2" -U sylion_user -d sylion_prod &
done
wait
POOL
    systemd-run -q --unit world-pool bash /var/lib/world/pool.sh "$(env_var POSTGRES_PASSWORD)" \
        "$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' sylion-postgres)"
    poll 20 pooled
    healthy
}
pooled() { [[ $(sql -At <<<"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sylion-pool'") == 60 ]]; }
cure_it() {
    systemctl stop world-pool
    rm -f /var/lib/world/pool.sh
}
