# shellcheck shell=bash
# The disk under volumes, container logs, backups, journal and apt archives is full, of several things: PostgreSQL refuses
# writes.
# expect: runbook=disk-full cause=filled_by_container_logs remedy=truncate_logs destroys=yes
# ci: yes
break_it() {
    local day backend
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
    fill_disk
    refuses_writes
}
cure_it() {
    compose stop
    restore_disk
    rm -rf "$STACK/backups" && cp -a "$PRISTINE$STACK/backups" "$STACK/"
    rm -f /var/cache/apt/archives/*.deb
    compose up -d --force-recreate backend
    accepts_writes
}
