# shellcheck shell=bash
# Something in front of the host drops the web's ports: its own firewall lets them in, and nothing arrives.
# expect: runbook=api-down cause=blocked_before_host remedy=-
# A provider's firewall cannot be had here. Dropping before the filter is looked at, in `raw`, is what it looks like from inside.
break_it() { iptables -t raw -I PREROUTING ! -i lo -p tcp -m multiport --dports 80,443 -j DROP; }
cure_it() { iptables -t raw -D PREROUTING ! -i lo -p tcp -m multiport --dports 80,443 -j DROP; }
