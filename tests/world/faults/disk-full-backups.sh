# shellcheck shell=bash
# A month of backups fills the disk. None of them was ever restored for a test, so that nothing may delete them.
# expect: runbook=disk-full cause=filled_by_backups remedy=-
break_it() {
    local day name
    shrink_disk 700M
    wait_healthy 60
    for day in {3..30}; do
        name=$STACK/backups/postgres/sylion_$(date -d "-$day days" +%Y-%m-%d)_031500.sql.gz
        head -c 14M /dev/urandom >"$name"
        touch -d "$(date -d "-$day days" +%Y-%m-%d) 03:15" "$name"
    done
    fill_disk
    refuses_writes
}
cure_it() {
    restore_disk
    rm -rf "$STACK/backups" && cp -a "$PRISTINE$STACK/backups" "$STACK/"
    accepts_writes
}
