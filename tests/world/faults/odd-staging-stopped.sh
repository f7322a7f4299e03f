# shellcheck shell=bash
# A second stack, staging, was stopped on purpose; production runs beside it and is well.
# expect: healthy
break_it() {
    mkdir -p /srv/staging
    cat >/srv/staging/compose.yml <<'COMPOSE'
name: staging
services:
  cache:
    image: sylion-redis:7
    command: redis-server --save ""
COMPOSE
    (cd /srv/staging && docker compose -f compose.yml up -d && docker compose -f compose.yml stop)
}
cure_it() {
    (cd /srv/staging && docker compose -f compose.yml down -v)
    rm -rf /srv/staging
}
