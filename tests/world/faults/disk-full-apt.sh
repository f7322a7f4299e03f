# shellcheck shell=bash
# Packages that apt has downloaded, upgrade by upgrade, fill the disk.
# expect: runbook=disk-full cause=filled_by_apt remedy=clean_apt destroys=yes
break_it() {
    local release
    shrink_disk 700M
    wait_healthy 60
    for release in 1 2 3 4 5 6; do fallocate -l 60M "/var/cache/apt/archives/linux-image-cloud_6.1.${release}_amd64.deb"; done
    fill_disk
    refuses_writes
}
cure_it() {
    restore_disk
    rm -f /var/cache/apt/archives/*.deb
    accepts_writes
}
