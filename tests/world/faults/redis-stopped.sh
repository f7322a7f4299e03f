# shellcheck shell=bash
# Redis was stopped by hand: /health answers 503 with redisConnected false.
# expect: runbook=redis-down cause=redis_stopped remedy=start_redis
# ci: yes
break_it() {
    docker stop sylion-redis
    poll 10 has_code 503
    poll 40 has_health sylion-backend unhealthy
}
cure_it() { docker start sylion-redis; }
