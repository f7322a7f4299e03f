# shellcheck shell=bash
# Plain HTTP is closed on purpose: customers come by HTTPS alone.
# expect: healthy
break_it() { ufw delete allow 80/tcp; }
cure_it() { ufw allow 80/tcp; }
