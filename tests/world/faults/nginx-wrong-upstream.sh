# shellcheck shell=bash
# nginx passes requests to 127.0.0.1:8001, where nobody listens; the backend is healthy.
# expect: runbook=backend-502 cause=wrong_upstream remedy=-
break_it() {
    sed -i 's/127\.0\.0\.1:8000/127.0.0.1:8001/' /etc/nginx/sites-available/api.sylion.tech
    systemctl reload nginx
    poll 10 has_code 502
}
cure_it() {
    restore /etc/nginx/sites-available/api.sylion.tech
    systemctl reload nginx
}
