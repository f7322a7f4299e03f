# shellcheck shell=bash
# Redis was made the replica of a server that is not there: it reads, refuses every write, and its link is down.
# expect: runbook=redis-down cause=read_only_replica remedy=-
break_it() { redis REPLICAOF 192.0.2.7 6379 >/dev/null; }
cure_it() { redis REPLICAOF NO ONE >/dev/null; }
