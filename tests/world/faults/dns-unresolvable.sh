# shellcheck shell=bash
# The public name does not resolve any more: its record is gone.
# expect: runbook=api-down cause=name_unresolvable remedy=-
# /etc/hosts is mounted: it can be written, and not replaced.
break_it() {
    cp /etc/hosts "$WORLD/hosts"
    grep -v 'api\.sylion\.tech' "$WORLD/hosts" >/etc/hosts
}
cure_it() { cat "$WORLD/hosts" >/etc/hosts; }
