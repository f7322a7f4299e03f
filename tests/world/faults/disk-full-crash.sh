# shellcheck shell=bash
# The disk is full of a container's log, and PostgreSQL died of it in the middle of writing: it starts again and again, and
# finds no room for its write-ahead log.
# expect: runbook=disk-full cause=filled_by_container_logs remedy=truncate_logs destroys=yes
break_it() {
    shrink_disk 700M
    wait_healthy 60
    fallocate -l 420M "$(docker inspect -f '{{.LogPath}}' sylion-redis)"
    fill_disk
    # Segments that lie ready are used up; the next one cannot be made.
    for _ in {1..20}; do
        sql -o /dev/null <<<"SELECT pg_logical_emit_message(true, 'world', 'x'); SELECT pg_switch_wal()" || break
    done
    poll 30 has_code 503
    poll 30 restarted sylion-postgres 2
}
cure_it() {
    rm -f /var/lib/docker/volumes/world-filler
    docker start sylion-postgres
    restore_disk
    truncate -s 0 "$(docker inspect -f '{{.LogPath}}' sylion-redis)"
    accepts_writes
}
