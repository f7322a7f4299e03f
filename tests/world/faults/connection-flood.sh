# shellcheck shell=bash
# More than a thousand connections are opened to nginx and say nothing.
# expect: runbook=high-load cause=connection_flood remedy=-
break_it() {
    systemd-run -q --unit world-flood -p LimitNOFILE=8192 python3 -c "
import socket, time
while True:
    held = []
    for n in range(1400):
        try: held.append(socket.create_connection(('127.0.0.1', 80), 2))
        except OSError: time.sleep(0.05)
    time.sleep(40)"
    poll 20 flooded
}
flooded() { (($(ss -Htn state established '( sport = :80 )' | wc -l) >= 1000)); }
cure_it() { systemctl stop world-flood; }
