# shellcheck shell=bash
# Half of the disk is free, and sessions that nobody clears have taken its last inode: no file can be made.
# expect: runbook=disk-full cause=inodes_exhausted remedy=-
break_it() {
    local sessions=$STACK/backups/sessions
    shrink_disk 900M -N 6000
    wait_healthy 60
    mkdir -p "$sessions"
    (cd "$sessions" && seq -f 'sess_%06g' 6000 | xargs touch 2>/dev/null) || true
    sql <<<'CREATE TABLE event_log (n int)' || true
}
cure_it() {
    restore_disk
    rm -rf "$STACK/backups" && cp -a "$PRISTINE$STACK/backups" "$STACK/"
    accepts_writes
}
