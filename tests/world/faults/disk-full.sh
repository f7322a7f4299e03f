# shellcheck shell=bash
# The disk under volumes, container logs, backups, journal and apt archives is full: PostgreSQL refuses writes.
break_it() {
    local day backend free
    shrink_disk 900M
    wait_healthy 60
    backend=$(docker inspect -f '{{.LogPath}}' sylion-backend)
    # The usual culprits, in the sizes in which they are met: a container's log of
    # more than 100 MB, a month of backups, apt's archives, and growth for the rest.
    yes '{"log":"{\"level\": \"debug\", \"service\": \"sylion-backend\", \"msg\": \"embedding cache miss\", \"queue\": \"rag:index-document\"}\n","stream":"stdout","time":"2025-12-13T03:14:15.926535897Z"}' |
        head -n 1200000 >>"$backend" || true
    for day in {3..30}; do
        head -c 5M /dev/urandom >"$STACK/backups/postgres/sylion_$(date -d "-$day days" +%Y-%m-%d)_031500.sql.gz"
        touch -d "$(date -d "-$day days" +%Y-%m-%d) 03:15" "$STACK/backups/postgres/sylion_$(date -d "-$day days" +%Y-%m-%d)_031500.sql.gz"
    done
    head -c 60M /dev/urandom >/var/cache/apt/archives/linux-image-cloud_6.1.0_amd64.deb
    free=$(df --output=avail -B1 "$DISK" | tail -1)
    fallocate -l "$((free - 256 * 1024))" /var/lib/docker/volumes/world-filler
    # The last kilobytes are the database's own, until it may not have another: a table
    # cannot grow. Its write-ahead log still has room in its segment, so it lives on.
    for _ in {1..20}; do
        sql <<<"CREATE TABLE IF NOT EXISTS event_log (n int, t text); INSERT INTO event_log SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 200) n" || break
    done
}
cure_it() {
    compose stop
    restore_disk
    rm -rf "$STACK/backups" && cp -a "$PRISTINE$STACK/backups" "$STACK/"
    rm -f /var/cache/apt/archives/*.deb
    compose up -d --force-recreate backend
    sql <<<'DROP TABLE IF EXISTS event_log'
}
