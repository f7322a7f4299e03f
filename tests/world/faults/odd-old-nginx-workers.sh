# shellcheck shell=bash
# nginx was reloaded while a client still downloads: an old worker is shutting down beside the new ones.
# expect: healthy
# ci: yes
break_it() {
    # A request that is held open: its body comes at a byte a second.
    systemd-run --quiet --unit=world-slow-client bash -c \
        'exec 3<>/dev/tcp/127.0.0.1/80; printf "POST /health HTTP/1.1\r\nHost: api.sylion.tech\r\nContent-Length: 600\r\n\r\n" >&3; for _ in {1..300}; do printf x >&3; sleep 1; done'
    poll 5 connected
    systemctl reload nginx
    poll 5 pgrep -f 'nginx: worker process is shutting down'
}
cure_it() { systemctl stop world-slow-client; }
connected() { ss -Htn state established '( sport = :80 )' | grep -q .; }
