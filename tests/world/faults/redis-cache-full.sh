# shellcheck shell=bash
# Redis is at its limit and throws out what has an end anyway (volatile-lru), as a cache should; queues have none.
# expect: healthy notice
break_it() {
    redis >/dev/null <<'REDIS'
CONFIG SET maxmemory-policy volatile-lru
CONFIG SET maxmemory 3mb
REDIS
    seq 400 | sed 's/.*/SET cache:page:& x EX 3600\nSETRANGE cache:page:& 16000 x/' | redis >/dev/null
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
