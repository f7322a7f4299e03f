# shellcheck shell=bash
# Redis is at its limit and throws out any key (allkeys-lru), those of the queues among them.
# expect: runbook=redis-down cause=evicting_queues remedy=-
break_it() {
    redis >/dev/null <<'REDIS'
CONFIG SET maxmemory-policy allkeys-lru
CONFIG SET maxmemory 3mb
REDIS
    # The queues are in use, so that what is thrown out is mostly the cache.
    seq 400 | sed 's/.*/SETRANGE cache:page:& 16000 x\nHGETALL bull:whatsapp:incoming:meta\nHGETALL bull:rag:index-document:meta/' | redis >/dev/null
    poll 10 evicted
}
cure_it() {
    redis >/dev/null <<'REDIS'
CONFIG SET maxmemory 0
CONFIG SET maxmemory-policy noeviction
CONFIG RESETSTAT
REDIS
    seed_queues | redis >/dev/null
}
