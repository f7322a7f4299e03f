# shellcheck shell=bash
# The public name leads to another machine: its record was changed.
# expect: runbook=api-down cause=name_elsewhere remedy=-
break_it() {
    cp /etc/hosts "$WORLD/hosts"
    sed 's/^[0-9.]*\(\s*api\.sylion\.tech\)$/192.0.2.44\1/' "$WORLD/hosts" >/etc/hosts
}
cure_it() { cat "$WORLD/hosts" >/etc/hosts; }
