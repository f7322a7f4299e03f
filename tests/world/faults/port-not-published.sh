# shellcheck shell=bash
# The ports entry is gone from the compose file and the backend was recreated: it is healthy, nginx cannot reach it.
# expect: runbook=backend-502 cause=port_not_published remedy=-
break_it() {
    sed -i '/^    ports:$/,+1d' "$STACK/docker-compose.prod.yml"
    compose up -d backend
    poll 30 has_health sylion-backend healthy
}
cure_it() {
    restore "$STACK/docker-compose.prod.yml"
    compose up -d backend
}
