# shellcheck shell=bash
# Puts the stack back: image, containers, data.

# The backend is made anew, so that no restart count and no exit code is left over.
docker rm -f sylion-backend >/dev/null 2>&1 || true
docker unpause sylion-postgres sylion-redis >/dev/null 2>&1 || true
image=$(cat "$WORLD/backend-image")
if docker image inspect "$image" >/dev/null 2>&1; then
    docker tag "$image" sylion-backend
else
    compose build -q backend
    docker image inspect -f '{{.Id}}' sylion-backend >"$WORLD/backend-image"
fi

compose up -d --remove-orphans postgres redis
if ! poll 20 docker exec sylion-postgres pg_isready -q -U sylion_user -d sylion_prod ||
    ! poll 10 redis ping; then
    # Data that the servers cannot start from is given up.
    compose down --volumes
    compose up -d postgres redis
    poll 30 docker exec sylion-postgres pg_isready -q -h 127.0.0.1 -U sylion_user -d sylion_prod
fi
# Logs of an earlier fault would be evidence of the next; a running server keeps its own.
truncate -s 0 "$(docker inspect -f '{{.LogPath}}' sylion-redis)" "$(docker inspect -f '{{.LogPath}}' sylion-postgres)"
# Whoever holds a lock would make all that follows wait.
sql -v "password=$(env_var POSTGRES_PASSWORD)" >/dev/null <<'SQL'
SET lock_timeout = '5s';
SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend';
ALTER ROLE sylion_user PASSWORD :'password';
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
SQL
redis >/dev/null <<<'CONFIG SET maxmemory 0'
seed_data
compose up -d --remove-orphans
wait_healthy 60
# Builds that a fault or its remedy left without a name.
docker image prune -f >/dev/null
: >"$WORLD/faults"
