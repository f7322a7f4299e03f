# shellcheck shell=bash
# An image that is mounted read-only and a small cache in memory are full, as they are meant to be. A sparse file says that
# it is larger than the disk.
# expect: healthy
# ci: yes
break_it() {
    truncate -s 16M /var/lib/world-image
    mkfs.ext4 -q -m 0 -F /var/lib/world-image
    [[ -e /dev/loop-control ]] || mknod /dev/loop-control c 10 237
    for number in {0..63}; do [[ -e /dev/loop$number ]] || mknod "/dev/loop$number" b 7 "$number"; done
    mkdir -p /media/installer /mnt/tiles
    mount -o loop /var/lib/world-image /media/installer
    head -c 32M /dev/zero >/media/installer/pool.bin 2>/dev/null || true
    mount -o remount,ro /media/installer
    mount -t tmpfs -o size=8M tmpfs /mnt/tiles
    head -c 16M /dev/zero >/mnt/tiles/cache 2>/dev/null || true
    truncate -s 2T /var/lib/docker/volumes/sylion-redis-data/_data/sparse.img
}
cure_it() {
    umount /media/installer /mnt/tiles || umount -l /media/installer /mnt/tiles
    rm -f /var/lib/world-image /var/lib/docker/volumes/sylion-redis-data/_data/sparse.img
}
