# shellcheck shell=bash
# Redis's process stands still: its port takes connections, and nothing answers.
# expect: runbook=redis-down cause=redis_hung remedy=restart_redis
break_it() {
    docker kill -s STOP sylion-redis
    poll 15 has_code 503
}
cure_it() { docker kill -s CONT sylion-redis; }
