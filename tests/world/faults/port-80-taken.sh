# shellcheck shell=bash
# Another web server was started on port 80 while nginx was down: nginx cannot come up again.
# expect: runbook=api-down cause=port_taken remedy=-
break_it() {
    systemctl stop nginx
    systemd-run --quiet --unit=world-other-web --property=Restart=no \
        "$(command -v python3 || command -v busybox)" -m http.server 80
    poll 10 taken
    systemctl start nginx || true
}
cure_it() {
    systemctl stop world-other-web
    systemctl reset-failed nginx world-other-web 2>/dev/null || true
    systemctl start nginx
}
taken() { curl -s -o /dev/null http://127.0.0.1/; }
