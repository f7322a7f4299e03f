# shellcheck shell=bash
# Thousands of messages wait, some for long, and the workers work them off.
# expect: healthy notice
# ci: yes
break_it() { queue_jobs whatsapp:incoming wait 6000 1200 | redis >/dev/null; }
cure_it() { seed_queues | redis >/dev/null; }
