# shellcheck shell=bash
# compose down was run and nothing brought the stack up again: no containers at all, the volumes are there.
break_it() { compose down; }
cure_it() { compose up -d; }
