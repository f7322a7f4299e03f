# shellcheck shell=bash
# One line: the status that nginx answers, the backend's state and health, the active faults.
printf '%s %s/%s %s\n' "$(health_code)" "$(container_state sylion-backend)" "$(container_health sylion-backend)" \
    "$(paste -sd, "$WORLD/faults" 2>/dev/null | sed 's/^$/-/')"
