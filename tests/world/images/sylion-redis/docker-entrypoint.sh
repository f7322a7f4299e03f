#!/bin/sh
set -e
# Options alone mean the server, as in the official image.
if [ "${1#-}" != "$1" ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ]; then
    shift
    chown -R redis:redis /data
    # Debian's own configuration would send the log to a file and turn the server into a daemon.
    exec setpriv --reuid=redis --regid=redis --init-groups redis-server \
        --bind '* -::*' --protected-mode no --dir /data --daemonize no "$@"
fi
exec "$@"
