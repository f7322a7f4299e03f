# shellcheck shell=bash
# The image was built from broken source that is mended since: only a rebuild cures.
# expect: runbook=backend-502 cause=image_outdated remedy=rebuild_backend
break_it() {
    local source=$STACK/backend/server.py
    sed -i 's/^VERSION = .*/VERSION = "1.5.0"/; s/^def main():$/def main(:/' "$source"
    compose build -q backend
    compose up -d backend
    poll 30 restarted sylion-backend 2
    # The mended source differs from the first one too, so that a rebuild makes a new image.
    sed -i 's/^VERSION = .*/VERSION = "1.5.1"/; s/^def main(:$/def main():/' "$source"
}
cure_it() {
    restore "$STACK/backend/server.py"
    docker tag "$(cat "$WORLD/backend-image")" sylion-backend
    compose up -d backend
}
