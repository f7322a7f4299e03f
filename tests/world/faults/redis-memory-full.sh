# shellcheck shell=bash
# Redis has reached its memory limit and evicts nothing: every write fails with OOM, PING still answers.
# expect: runbook=redis-down cause=memory_full remedy=-
break_it() {
    redis >/dev/null <<'REDIS'
SET cache:blob:1 x
SETRANGE cache:blob:1 8000000 x
CONFIG SET maxmemory-policy noeviction
CONFIG SET maxmemory 4mb
REDIS
}
cure_it() {
    redis >/dev/null <<'REDIS'
CONFIG SET maxmemory 0
DEL cache:blob:1
REDIS
}
