# shellcheck shell=bash
# The backend's container was stopped by hand, so that no restart policy starts it again.
# expect: runbook=backend-502 cause=backend_stopped remedy=restart_backend
# ci: yes
break_it() { docker stop sylion-backend; }
cure_it() { docker start sylion-backend; }
