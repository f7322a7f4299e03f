# shellcheck shell=bash
# Redis was made anew with the password that the env file now has, and the backend still has the one of before.
# expect: runbook=redis-down cause=backend_password_outdated remedy=up_backend
break_it() {
    local old new=A-new-password-of-today
    old=$(env_var REDIS_PASSWORD)
    sed -i -e "s|^REDIS_PASSWORD=.*|REDIS_PASSWORD=$new|" -e "s|^REDIS_URL=.*|REDIS_URL=redis://:$new@redis:6379/0|" "$STACK/.env.prod"
    [[ $old != "$new" ]]
    compose up -d --no-deps redis
    poll 20 has_health sylion-redis healthy
    poll 20 has_code 503
}
cure_it() {
    restore "$STACK/.env.prod"
    compose up -d redis backend
}
