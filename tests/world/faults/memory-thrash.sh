# shellcheck shell=bash
# A program works on more than its memory limit holds: its pages are read from the disk again and again.
# expect: deep runbook=high-load cause=memory_short remedy=-
THRASH=/var/lib/docker/world-thrash
break_it() {
    head -c 192M /dev/urandom >"$THRASH"
    # What the writer left in the page cache is its own, and has to go first.
    systemd-run -q --unit world-thrash -p MemoryLimit=48M -p MemoryAccounting=yes python3 -c "
import mmap, os, random
file = os.open('$THRASH', os.O_RDWR)
os.fsync(file)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
data = mmap.mmap(file, 0, prot=mmap.PROT_READ)
data.madvise(mmap.MADV_RANDOM)
while True: data[random.randrange(len(data))]"
    poll 20 thrashes
}
thrashes() { (($(awk '{print $12}' "/proc/$(systemctl show -p MainPID --value world-thrash)/stat") >= 2000)); }
cure_it() {
    systemctl stop world-thrash
    rm -f "$THRASH"
}
