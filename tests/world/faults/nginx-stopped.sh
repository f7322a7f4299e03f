# shellcheck shell=bash
# nginx was stopped: nothing listens on ports 80 and 443.
# expect: runbook=api-down cause=nginx_down remedy=restart_nginx
# ci: yes
break_it() { systemctl stop nginx; }
cure_it() { systemctl start nginx; }
