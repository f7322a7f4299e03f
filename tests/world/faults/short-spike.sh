# shellcheck shell=bash
# Oddity: every few seconds something wants all processors for one second.
# expect: healthy
break_it() {
    systemd-run -q --unit world-spike bash -c 'while :; do for n in 1 2 3; do timeout 1 bash -c "while :; do :; done" & done; wait; sleep 9; done'
}
cure_it() { systemctl stop world-spike; }
