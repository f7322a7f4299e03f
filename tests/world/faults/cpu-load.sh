# shellcheck shell=bash
# The backend's container burns more processors than there are: the load average rises, everything is slow.
# expect: deep runbook=high-load cause=backend_busy remedy=restart_backend
break_it() {
    docker exec -d sylion-backend sh -c 'for n in 1 2 3 4; do python3 -c "while True: pass" & done; wait'
}
# A restart ends the processes, as it would end a runaway request.
cure_it() { docker restart sylion-backend; }
