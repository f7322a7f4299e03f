# shellcheck shell=bash
# Somebody asks Redis for everything at once, again and again: each time, nobody else is served for a while.
# expect: runbook=redis-down cause=slow_commands remedy=-
break_it() {
    redis CONFIG SET slowlog-log-slower-than 10000 >/dev/null
    redis EVAL "for i = 1, 400000 do redis.call('SET', 'slow:' .. i, i, 'EX', 900) end" 0 >/dev/null
    for _ in 1 2 3 4; do redis EVAL "return #redis.call('KEYS', '*')" 0 >/dev/null; redis --raw KEYS 'slow:*' >/dev/null; done
}
cure_it() {
    seed_queues | redis >/dev/null
    redis SLOWLOG RESET >/dev/null
}
