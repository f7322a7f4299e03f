# shellcheck shell=bash
# Breaks and mends hosts. A fault is a script with two functions, `break_it` and
# `cure_it`, whose second line says in a sentence what it does.

fault_names() { (cd "$WORLD_DIR/faults" && printf '%s\n' *.sh) | sed 's/\.sh$//'; }

cmd_faults() {
    local name
    for name in $(fault_names); do
        printf '%-28s %s\n' "$name" "$(sed -n '2s/^# //p' "$WORLD_DIR/faults/$name.sh")"
    done
}

# run_fault HOST NAME break|cure
run_fault() {
    docker exec "$(container "$1")" bash -euo pipefail -c "$(
        cat "$WORLD_DIR/inside/common.sh" "$WORLD_DIR/faults/$2.sh"
        echo "${3}_it"
    )" "$2"
}

active_faults() { docker exec "$(container "$1")" sh -c 'cat /var/lib/world/faults 2>/dev/null || true'; }

cmd_fault() {
    local host=${1:-} name=${2:-}
    need_host "$host"
    [[ $name =~ ^[a-z0-9-]+$ && -e $WORLD_DIR/faults/$name.sh ]] || die "no such fault: '$name' ('world faults' lists them)"
    if active_faults "$host" | grep -qx "$name"; then die "$name is already active on $host"; fi
    # Noted first: a fault that breaks half way is still cured.
    docker exec "$(container "$host")" sh -c 'echo "$1" >>/var/lib/world/faults' note "$name"
    run_fault "$host" "$name" break >&2
    step "$name is active on $host"
}

cmd_cure() {
    local host=${1:-} name
    need_host "$host"
    # Last broken, first mended: a later fault may rest on an earlier one's files.
    for name in $(active_faults "$host" | tac); do
        run_fault "$host" "$name" cure >&2
        docker exec "$(container "$host")" sed -i "/^$name\$/d" /var/lib/world/faults
    done
    inside "$host" "$WORLD_DIR/inside/wait.sh" >&2 || die "$host is not healthy after the cure; 'world reset $host' heals it"
    step "$host is healthy"
}

reset_host() {
    local host=$1 missing
    mkdir -p "$LOGS"
    docker start "$(container "$host")" >/dev/null
    inside "$host" "$WORLD_DIR/inside/reset-host.sh" >"$LOGS/$host.log" 2>&1 || die "reset of $host failed, see $LOGS/$host.log"
    wait_docker "$(container "$host")"
    # A prune may have taken the images that a rebuild needs.
    missing=$(docker exec "$(container "$host")" sh -c '
        for image in sylion-base:latest sylion-postgres:15 sylion-redis:7; do
            docker image inspect "$image" >/dev/null 2>&1 || echo "$image"
        done')
    if [[ -n $missing ]]; then load_images "$(container "$host")"; fi
    inside "$host" "$WORLD_DIR/inside/reset-stack.sh" >>"$LOGS/$host.log" 2>&1 || {
        tail -20 "$LOGS/$host.log" >&2
        die "reset of $host failed, see $LOGS/$host.log; 'world reset --fresh $host' makes a new one"
    }
    step "$host is healthy"
}

fresh_hosts() {
    local host
    for host in "$@"; do docker rm -fv "$(container "$host")" >/dev/null; done
    new_hosts "$@"
}

cmd_reset() {
    local fresh=0 list=()
    if [[ ${1:-} == --fresh ]]; then
        fresh=1
        shift
    fi
    if [[ ${1:-} == all ]]; then
        mapfile -t list < <(hosts)
    else
        valid_host "${1:-}" || die "usage: world reset [--fresh] HOST|all"
        docker inspect "$(container "$1")" >/dev/null 2>&1 || die "no such host: $1"
        list=("$1")
    fi
    image_names
    if ((fresh)); then
        build_images
        with_lock fresh_hosts "${list[@]}"
    else
        each reset_host "${list[@]}"
    fi
}
