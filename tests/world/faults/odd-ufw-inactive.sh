# shellcheck shell=bash
# ufw is off: the provider's firewall filters.
# expect: healthy
break_it() { ufw disable; }
cure_it() { ufw --force enable; }
