# shellcheck shell=bash
# ufw no longer allows 80 and 443: requests from outside time out, the host itself sees nothing wrong.
# expect: runbook=api-down cause=firewall_closed remedy=open_web destroys=yes
break_it() {
    ufw delete allow 80/tcp
    ufw delete allow 443/tcp
}
cure_it() {
    ufw allow 80/tcp
    ufw allow 443/tcp
}
