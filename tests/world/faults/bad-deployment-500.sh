# shellcheck shell=bash
# A version was deployed that starts, and answers 500 to whatever it is asked. Its log names no cause; the image before
# it ran well.
# expect: runbook=backend-502 cause=deployment_bad remedy=roll_back
break_it() {
    local source=$STACK/backend/server.py
    sed -i 's/^VERSION = .*/VERSION = "1.7.0"/; s/^            status, body = route()$/            status, body = 500, {"error": "Internal Server Error"}/' "$source"
    grep -q 'status, body = 500, {"error": "Internal Server Error"}$' "$source"
    # An image out of the build cache would be older than its source.
    echo "# $(date +%s%N)" >>"$source"
    compose build -q backend
    compose up -d backend
    poll 30 has_code 500
    # Until Docker has noticed it counts as starting.
    poll 60 has_health sylion-backend unhealthy
}
cure_it() {
    restore "$STACK/backend/server.py"
    docker tag "$(cat "$WORLD/backend-image")" sylion-backend
    compose up -d backend
}
