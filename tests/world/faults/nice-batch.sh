# shellcheck shell=bash
# Oddity: a batch job of the lowest priority keeps the load average high; requests are as fast as ever.
# expect: healthy
# ci: yes
break_it() {
    systemd-run -q --unit world-batch -p Nice=19 -p CPUSchedulingPolicy=idle \
        bash -c 'for n in 1 2 3 4; do while :; do :; done & done; wait'
}
cure_it() { systemctl stop world-batch; }
