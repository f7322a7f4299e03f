# shellcheck shell=bash
# The backend's container burns two processors: the load average rises, everything is slow.
break_it() {
    docker exec -d sylion-backend sh -c 'for n in 1 2; do python3 -c "while True: pass" & done; wait'
}
# A restart ends the processes, as it would end a runaway request.
cure_it() { docker restart sylion-backend; }
