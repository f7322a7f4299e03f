# shellcheck shell=bash
# A worker died over its jobs: they are active for ever, and nobody holds them.
# expect: runbook=redis-down cause=jobs_stalled remedy=restart_backend
break_it() { queue_jobs whatsapp:incoming active 3 1800 | redis >/dev/null; }
cure_it() { seed_queues | redis >/dev/null; }
