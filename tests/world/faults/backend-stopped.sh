# shellcheck shell=bash
# The backend's container was stopped by hand, so that no restart policy starts it again.
break_it() { docker stop sylion-backend; }
cure_it() { docker start sylion-backend; }
