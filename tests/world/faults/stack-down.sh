# shellcheck shell=bash
# compose down was run and nothing brought the stack up again: no containers at all, the volumes are there.
# expect: runbook=api-down cause=stack_down remedy=up_stack
break_it() { compose down; }
cure_it() { compose up -d; }
