# shellcheck shell=bash
# nginx was stopped: nothing listens on ports 80 and 443.
break_it() { systemctl stop nginx; }
cure_it() { systemctl start nginx; }
