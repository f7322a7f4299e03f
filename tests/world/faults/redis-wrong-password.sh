# shellcheck shell=bash
# Redis was given another password while it ran: it refuses the one in the env file, and the backend with it.
# expect: runbook=redis-down cause=password_changed_in_redis remedy=restart_redis
break_it() {
    redis CONFIG SET requirepass "not-what-the-file-says" >/dev/null
    redis_as not-what-the-file-says CLIENT KILL TYPE normal >/dev/null
    poll 10 has_code 503
}
cure_it() { redis_as not-what-the-file-says CONFIG SET requirepass "$(env_var REDIS_PASSWORD)" >/dev/null || true; }
