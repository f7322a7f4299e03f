# shellcheck shell=bash
# nginx was restarted with a configuration that does not parse: nginx -t fails, the unit is failed.
# expect: runbook=api-down cause=nginx_config_invalid remedy=-
break_it() {
    sed -i 's/^    listen 80;$/    listen 80/' /etc/nginx/sites-available/api.sylion.tech
    systemctl restart nginx || true
}
cure_it() {
    restore /etc/nginx/sites-available/api.sylion.tech
    systemctl reset-failed nginx
    systemctl start nginx
}
