# shellcheck shell=bash
# ufw was reset and enabled again with ssh alone: by default it drops everything else.
# expect: runbook=api-down cause=firewall_closed remedy=open_web destroys=yes
break_it() {
    ufw --force reset >/dev/null
    ufw default deny incoming
    ufw allow 22/tcp
    ufw --force enable
}
cure_it() {
    ufw allow 80/tcp
    ufw allow 443/tcp
    rm -f /etc/ufw/*.rules.2*
}
