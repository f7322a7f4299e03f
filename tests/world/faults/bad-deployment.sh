# shellcheck shell=bash
# A version was deployed that does not even start, and its source is no better: only the image before it helps.
# expect: runbook=backend-502 cause=image_defective remedy=roll_back
break_it() {
    local source=$STACK/backend/server.py
    sed -i 's/^VERSION = .*/VERSION = "1.6.0"/; s/^def main():$/def main(:/' "$source"
    # An image out of the build cache would be older than its source.
    echo "# $(date +%s%N)" >>"$source"
    compose build -q backend
    compose up -d backend
    poll 30 restarted sylion-backend 2
}
cure_it() {
    restore "$STACK/backend/server.py"
    docker tag "$(cat "$WORLD/backend-image")" sylion-backend
    compose up -d backend
}
