# shellcheck shell=bash
# A queue was paused and never resumed: messages pile up, and everything answers.
# expect: runbook=redis-down cause=queue_paused remedy=resume_queues
break_it() {
    redis HSET bull:whatsapp:incoming:meta paused 1 >/dev/null
    queue_jobs whatsapp:incoming paused 12 900 | redis >/dev/null
}
cure_it() { seed_queues | redis >/dev/null; }
