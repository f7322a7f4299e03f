# shellcheck shell=bash
# The certificate was renewed in time, nginx was not reloaded, and the old one has expired since.
# expect: runbook=api-down cause=certificate_not_reloaded remedy=reload_nginx
break_it() {
    # The old one, as nginx still has it …
    certificate_valid '-91 days' '-1 day'
    systemctl reload nginx
    poll 5 shows_expired
    # … and the new one, as certbot left it.
    restore /etc/nginx/tls/api.sylion.tech.crt /etc/nginx/tls/api.sylion.tech.key
}
cure_it() { systemctl reload nginx; }
