# shellcheck shell=bash
# Redis asks nobody for a password, and the stack gives none.
# expect: healthy
break_it() {
    sed -i -e '/^REDIS_PASSWORD=/d' -e 's|^REDIS_URL=.*|REDIS_URL=redis://redis:6379/0|' "$STACK/.env.prod"
    sed -i -e 's|, "--requirepass", "${REDIS_PASSWORD}"||' -e '/REDIS_PASSWORD: \${REDIS_PASSWORD}/d' \
        -e '/^  redis:/,/^  postgres:/{/environment:/d}' -e 's|redis-cli -a .*ping|redis-cli ping|' "$STACK/docker-compose.prod.yml"
    compose up -d redis backend
    wait_healthy 60
}
cure_it() {
    restore "$STACK/.env.prod" "$STACK/docker-compose.prod.yml"
    compose up -d redis backend
}
