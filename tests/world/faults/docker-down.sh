# shellcheck shell=bash
# Docker's engine was stopped, its socket too: no container runs, nginx answers 502.
# expect: runbook=api-down cause=docker_down remedy=start_docker
break_it() {
    systemctl stop docker.socket docker
    poll 15 has_code 502
}
cure_it() {
    start_docker
    compose up -d
}
