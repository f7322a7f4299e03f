# shellcheck shell=bash
# The backend's memory limit is smaller than its cache: the kernel kills it at every start.
# expect: runbook=backend-502 cause=out_of_memory remedy=-
break_it() {
    sed -i 's/^    container_name: sylion-backend$/&\n    mem_limit: 40m/' "$STACK/docker-compose.prod.yml"
    compose up -d backend
    poll 30 restarted sylion-backend 2
}
cure_it() {
    restore "$STACK/docker-compose.prod.yml"
    compose up -d backend
}
