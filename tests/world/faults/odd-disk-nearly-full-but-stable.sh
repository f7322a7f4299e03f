# shellcheck shell=bash
# The disk is used to 88 %, nearly all of it is the stack's own data, and it stays so.
# expect: healthy
break_it() {
    shrink_disk 900M
    wait_healthy 60
    # What is wanted: an archive that the backend keeps beside the database.
    fallocate -l "$(($(df --output=avail -B1 "$DISK" | tail -1) - 100 * 1024 * 1024))" /var/lib/docker/volumes/sylion-redis-data/_data/archive.bin
}
cure_it() {
    rm -f /var/lib/docker/volumes/sylion-redis-data/_data/archive.bin
    restore_disk
}
