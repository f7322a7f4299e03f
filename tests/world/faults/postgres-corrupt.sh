# shellcheck shell=bash
# The write-ahead log was zeroed where the last checkpoint is (a broken volume): PANIC at every start.
# expect: runbook=postgres-down cause=damage remedy=- by=backup_rebuild
break_it() {
    local data
    docker kill sylion-postgres >/dev/null
    data=$(postgres_data)
    # The only copy that a cure can put back.
    rm -rf "$WORLD/pg_wal"
    cp -a "$data/pg_wal" "$WORLD/pg_wal"
    find "$data/pg_wal" -maxdepth 1 -type f -name '0*' -exec sh -c 'head -c 16777216 /dev/zero >"$1"' zero {} \;
    docker start sylion-postgres
    poll 20 restarted sylion-postgres 2
    poll 10 has_code 503
}
postgres_data() { docker volume inspect -f '{{.Mountpoint}}' sylion-postgres-data; }
cure_it() {
    local data
    docker stop sylion-postgres || true
    data=$(postgres_data)
    if compgen -G "$data.before-*" >/dev/null; then
        # It was rebuilt from a backup: what is in place is whole, and the damaged data lie beside it.
        rm -rf "$data".before-* "$WORLD/pg_wal"
    else
        rm -rf "$data/pg_wal"
        mv "$WORLD/pg_wal" "$data/pg_wal"
    fi
    docker start sylion-postgres
    poll 30 has_health sylion-postgres healthy
    # What it said while it was broken would be evidence against the next.
    truncate -s 0 "$(docker inspect -f '{{.LogPath}}' sylion-postgres)"
}
