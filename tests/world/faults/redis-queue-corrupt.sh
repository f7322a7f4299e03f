# shellcheck shell=bash
# Something wrote over a queue's list: the library's every command on it fails with WRONGTYPE.
# expect: runbook=redis-down cause=queue_corrupt remedy=flush_queues act=no destroys=yes
break_it() {
    redis DEL bull:whatsapp:incoming:wait >/dev/null
    redis SET bull:whatsapp:incoming:wait garbage >/dev/null
}
cure_it() { seed_queues | redis >/dev/null; }
