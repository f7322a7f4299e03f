# shellcheck shell=bash
# The backend writes its log to the disk line by line and waits for each, on a disk with a plan's bandwidth.
# expect: deep runbook=high-load cause=io_saturated remedy=-
break_it() {
    local device id
    id=$(docker inspect -f '{{.Id}}' sylion-backend)
    device=$(stat -c %d /var/lib/docker)
    # The limit is what a small plan has; the machine underneath is fast, and others work on it.
    echo "$((device >> 8)):$((device & 255)) 4194304" >"/sys/fs/cgroup/blkio/docker/$id/blkio.throttle.write_bps_device"
    # The files are written over and over, so that the disk does not fill.
    docker exec -d sylion-backend python3 -c "
import os
os.fork(); os.fork()
out = os.open('/tmp/flood-%d.log' % os.getpid(), os.O_WRONLY | os.O_CREAT | os.O_SYNC)
while True: os.pwrite(out, b'embedding cache miss ' * 3000, 0)"
    sleep 2
}
# Its control group, and the limit with it, is made anew.
cure_it() { docker restart sylion-backend; }
