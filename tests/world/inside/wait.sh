# shellcheck shell=bash
# Waits until the host is healthy.
wait_healthy 60
