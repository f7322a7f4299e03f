# shellcheck shell=bash
# The append-only file is damaged in its middle: Redis dies at each start.
# expect: runbook=redis-down cause=data_corrupt remedy=-
break_it() {
    local file
    docker stop sylion-redis
    file=$(ls /var/lib/docker/volumes/sylion-redis-data/_data/appendonlydir/*.incr.aof | tail -n 1)
    cp -a "$file" /var/lib/world/redis.aof
    echo "$file" >/var/lib/world/redis.aof.place
    printf 'XXXXXXXX' | dd of="$file" bs=1 seek=40 conv=notrunc status=none
    docker start sylion-redis
    poll 15 restarted sylion-redis 2
    poll 10 has_code 503
}
cure_it() {
    docker stop sylion-redis
    cp -a /var/lib/world/redis.aof "$(cat /var/lib/world/redis.aof.place)"
    docker start sylion-redis
}
