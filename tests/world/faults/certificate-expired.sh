# shellcheck shell=bash
# The certificate expired yesterday and nobody renewed it: every client refuses to speak to nginx.
# expect: runbook=api-down cause=certificate_expired remedy=-
break_it() {
    certificate_valid '-91 days' '-1 day'
    systemctl reload nginx
    poll 5 shows_expired
}
cure_it() {
    restore /etc/nginx/tls/api.sylion.tech.crt /etc/nginx/tls/api.sylion.tech.key
    systemctl reload nginx
}
