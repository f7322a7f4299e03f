# shellcheck shell=bash
# Clients that never leave have taken every connection of Redis: it refuses all others, health checks too.
# expect: runbook=redis-down cause=max_clients remedy=restart_redis
break_it() {
    local n
    redis CONFIG SET maxclients 12 >/dev/null
    for n in {1..14}; do
        docker exec -d -e REDISCLI_AUTH="$(env_var REDIS_PASSWORD)" sylion-redis redis-cli subscribe "leak-$n"
    done
    poll 10 has_code 503
}
cure_it() {
    docker exec sylion-redis pkill -f 'subscribe leak-' || true
    poll 10 redis ping
    redis CONFIG SET maxclients 10000 >/dev/null
}
