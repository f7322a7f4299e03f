# shellcheck shell=bash
# A container's log that Docker was never told to rotate has filled the disk.
# expect: runbook=disk-full cause=filled_by_container_logs remedy=truncate_logs destroys=yes act=no
break_it() {
    shrink_disk 700M
    wait_healthy 60
    # Everything but the last lines is a hole that was filled: the file is as large as it says.
    fallocate -l 420M "$(docker inspect -f '{{.LogPath}}' sylion-redis)"
    fill_disk
    refuses_writes
}
cure_it() {
    restore_disk
    truncate -s 0 "$(docker inspect -f '{{.LogPath}}' sylion-redis)"
    accepts_writes
}
