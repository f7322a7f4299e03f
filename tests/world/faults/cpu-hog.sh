# shellcheck shell=bash
# A program that is no part of the stack burns more processors than there are.
# expect: deep runbook=high-load cause=cpu_hog remedy=-
# ci: yes
break_it() {
    systemd-run -q --unit world-hog bash -c 'for n in 1 2 3 4; do while :; do :; done & done; wait'
}
cure_it() { systemctl stop world-hog; }
