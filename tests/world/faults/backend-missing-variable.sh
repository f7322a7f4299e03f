# shellcheck shell=bash
# JWT_SECRET is gone from .env.prod and the backend was recreated: it exits at once, again and again.
# expect: runbook=backend-502 cause=missing_variable remedy=-
break_it() {
    sed -i '/^JWT_SECRET=/d' "$STACK/.env.prod"
    compose up -d backend
    poll 30 restarted sylion-backend 2
}
cure_it() {
    restore "$STACK/.env.prod"
    compose up -d backend
}
