# shellcheck shell=bash
# Somebody deleted nginx's log to make room: nginx still has it open, and no folder shows what fills the disk.
# expect: runbook=disk-full cause=filled_by_deleted remedy=restart_unit_holder
break_it() {
    DISK_PATHS+=(/var/log/nginx)
    shrink_disk 900M
    nginx -s reopen
    wait_healthy 60
    fallocate -l 600M /var/log/nginx/access.log
    rm /var/log/nginx/access.log
    fill_disk
    refuses_writes
}
cure_it() {
    restore_disk
    nginx -s reopen
    accepts_writes
}
