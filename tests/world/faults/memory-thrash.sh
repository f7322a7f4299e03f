# shellcheck shell=bash
# A program works on more than its memory limit holds: its pages are read from the disk again and again.
# expect: runbook=high-load cause=memory_short remedy=-
THRASH=/var/lib/docker/world-thrash
break_it() {
    head -c 192M /dev/urandom >"$THRASH"
    systemd-run -q --unit world-thrash -p MemoryLimit=48M -p MemoryAccounting=yes python3 -c "
import mmap, random
data = mmap.mmap(open('$THRASH', 'rb').fileno(), 0, prot=mmap.PROT_READ)
data.madvise(mmap.MADV_RANDOM)
while True: data[random.randrange(len(data))]"
    sleep 3
}
cure_it() {
    systemctl stop world-thrash
    rm -f "$THRASH"
}
