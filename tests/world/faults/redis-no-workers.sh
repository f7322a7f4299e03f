# shellcheck shell=bash
# The backend's workers have died while the rest of it goes on: messages wait, and nobody takes them.
# expect: runbook=redis-down cause=no_workers remedy=restart_backend
break_it() {
    docker kill -s USR2 sylion-backend
    poll 10 no_workers
    queue_jobs whatsapp:incoming wait 12 900 | redis >/dev/null
}
cure_it() {
    docker restart -t 2 sylion-backend
    poll 20 has_health sylion-backend healthy
    seed_queues | redis >/dev/null
}
