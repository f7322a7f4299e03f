# shellcheck shell=bash
# The journal has no bound of its own here and fills the disk.
# expect: runbook=disk-full cause=filled_by_journal remedy=vacuum_journal destroys=yes
break_it() {
    local folder archived number copy
    shrink_disk 700M
    wait_healthy 60
    mkdir -p /etc/systemd/journald.conf.d
    printf '[Journal]\nSystemMaxUse=2G\nSystemKeepFree=1M\nSystemMaxFiles=1000\n' >/etc/systemd/journald.conf.d/world.conf
    systemctl restart systemd-journald
    journalctl -q --rotate
    folder=/var/log/journal/$(cat /etc/machine-id)
    archived=$(find "$folder" -name 'system@*.journal' | sort | tail -n 1)
    # Older ones of the same content, as large as journald makes them: their names tell when they began.
    for number in {10..60}; do
        copy=${archived%-*-*}-00000000000000$number-00063e0000$number$number$number.journal
        cp "$archived" "$copy"
        fallocate -l 8M "$copy"
        touch -d "-$((80 - number)) days" "$copy"
    done
    fill_disk
    refuses_writes
}
cure_it() {
    rm -f /etc/systemd/journald.conf.d/world.conf
    find /var/log/journal -name 'system@*-00000000000000[1-6][0-9]-*.journal' -delete
    restore_disk
    accepts_writes
}
