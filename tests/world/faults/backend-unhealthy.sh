# shellcheck shell=bash
# The backend accepts connections and never answers: nginx says 504, Docker says unhealthy.
# expect: runbook=backend-502 cause=hanging remedy=restart_backend
break_it() {
    # The stand-in's signal for "every request waits for ever"; it still obeys SIGTERM.
    docker kill -s USR1 sylion-backend
    poll 40 has_health sylion-backend unhealthy
    poll 20 has_code 504
}
cure_it() { docker restart sylion-backend; }
