# shellcheck shell=bash
# Images of former deployments of somebody else's fill the disk that Docker has.
# expect: runbook=disk-full cause=filled_by_docker remedy=prune_docker destroys=yes
break_it() {
    local release
    shrink_docker 1500M
    wait_healthy 60
    for release in 1 2 3; do
        head -c 120M /dev/urandom >"$DISK/world-layer"
        tar -C "$DISK" -cf - world-layer | docker import - "webshop-api:2025-$release" >/dev/null
        rm "$DISK/world-layer"
    done
    fill_disk "$DISK/world-filler"
    refuses_writes
}
cure_it() {
    restore_disk
    accepts_writes
}
