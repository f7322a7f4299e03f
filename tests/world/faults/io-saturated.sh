# shellcheck shell=bash
# The backend writes its log to the disk line by line and waits for each: nobody else gets to the disk.
# expect: runbook=high-load cause=io_saturated remedy=-
break_it() {
    # The file is written over and over, so that the disk does not fill.
    docker exec -d sylion-backend python3 -c "
import os
for n in range(3): os.fork()
out = os.open('/tmp/flood-%d.log' % os.getpid(), os.O_WRONLY | os.O_CREAT | os.O_SYNC)
while True:
    os.pwrite(out, b'embedding cache miss ' * 50000, 0)"
}
cure_it() { docker restart sylion-backend; }
