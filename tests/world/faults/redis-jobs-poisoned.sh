# shellcheck shell=bash
# Messages of a new kind fail at each attempt, all for the same reason; the rest is worked off.
# expect: runbook=redis-down cause=jobs_fail remedy=-
break_it() {
    local n now
    now=$(date +%s%3N)
    for n in {101..118}; do
        echo "HSET bull:whatsapp:incoming:$n name incoming data '{\"n\":$n}' opts '{\"attempts\":3}' attemptsMade 3 timestamp $((now - 60000)) processedOn $((now - 50000)) finishedOn $((now - 40000)) failedReason \"Cannot read properties of undefined (reading 'wa_id') in message $n\""
        echo "ZADD bull:whatsapp:incoming:failed $((now - 40000 + n)) $n"
    done | redis >/dev/null
}
cure_it() { seed_queues | redis >/dev/null; }
