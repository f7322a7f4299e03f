# shellcheck shell=bash
# Names, places and small helpers that every part of the world uses.
# shellcheck disable=SC2034 # What is set here is used in the other files.

WORLD_NAME=${VIGIE_WORLD_NAME:-vigie-world}
WORLD_NET=${VIGIE_WORLD_NET:-172.31.77}
STATE=${VIGIE_WORLD_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/vigie-world}
# Images are shared by all worlds of a machine; keys and logs are each world's own.
SSH=$STATE/$WORLD_NAME/ssh
LOGS=$STATE/$WORLD_NAME/logs
NETWORK=$WORLD_NAME
LABEL=vigie.world=$WORLD_NAME

# The release that the hosts run, and the one whose docker-compose package is the
# Compose v2 plugin: it needs nothing but a libc that the hosts' release has.
SUITE=bookworm
COMPOSE_SUITE=trixie

# Docker hands long builds to BuildKit, which is not packaged everywhere; the
# classic builder is in every engine that this world is meant for.
export DOCKER_BUILDKIT=0

say() { printf '%s\n' "$*" >&2; }

die() {
    printf 'world: %s\n' "$*" >&2
    exit 1
}

# Two people who start a world at once would build and seed the same things twice.
with_lock() {
    mkdir -p "$STATE" "$LOGS"
    exec 9>"$STATE/lock"
    flock 9
    "$@"
}

# Seconds since the script began, for the lines that say how long things took.
step() { say "$(printf '[%3ds] %s' "$SECONDS" "$*")"; }

# at_once "COMMAND ARGUMENTS"…: all of them side by side; fails if one of them did.
at_once() {
    local command pids=() pid failed=0
    for command in "$@"; do
        # The words of our own calls hold no spaces.
        # shellcheck disable=SC2086
        $command &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    return "$failed"
}

container() { printf '%s-%s' "$WORLD_NAME" "$1"; }
docker_volume() { printf '%s-%s-docker' "$WORLD_NAME" "$1"; }

address() {
    local number=${1#vps}
    printf '%s.%d' "$WORLD_NET" "$((10 + number))"
}

gateway() { printf '%s.1' "$WORLD_NET"; }

valid_host() { [[ $1 =~ ^vps([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-3][0-9])$ ]]; }

hosts() {
    docker ps -a --filter "label=$LABEL" --filter label=vigie.world.host \
        --format '{{.Label "vigie.world.host"}}' | sort -V
}

need_host() {
    valid_host "${1:-}" || die "no such host: '${1:-}' (vps1, vps2, …)"
    [[ $(docker inspect -f '{{.State.Running}}' "$(container "$1")" 2>/dev/null) == true ]] ||
        die "$1 is not running; 'world up' starts it, 'world status' lists what there is"
}

# Runs one of our scripts inside a host. It goes in as an argument, so that a host
# keeps no file that would give away what was done to it.
inside() {
    local host=$1 script=$2
    shift 2
    docker exec "$(container "$host")" bash -euo pipefail \
        -c "$(cat "$WORLD_DIR/inside/common.sh" "$script")" "$(basename "$script")" "$@"
}

missing_tools() {
    command -v docker >/dev/null || echo docker.io
    command -v debootstrap >/dev/null || [[ -x /usr/sbin/debootstrap ]] || echo debootstrap
    command -v ssh-keygen >/dev/null || echo openssh-client
}

need_tools() {
    local packages
    mapfile -t packages < <(missing_tools)
    if ((${#packages[@]})); then
        [[ $EUID -eq 0 ]] || die "missing packages: ${packages[*]}"
        step "installing ${packages[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
    fi
    docker info >/dev/null 2>&1 || die "the Docker engine does not answer"
}
