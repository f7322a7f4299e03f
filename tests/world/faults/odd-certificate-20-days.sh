# shellcheck shell=bash
# The certificate has 20 days left, as before every renewal.
# expect: healthy
break_it() {
    certificate_valid '-70 days' '+20 days 12 hours'
    systemctl reload nginx
}
cure_it() {
    restore /etc/nginx/tls/api.sylion.tech.crt
    systemctl reload nginx
}
