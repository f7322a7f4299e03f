# shellcheck shell=bash
# Starts, describes and removes the hosts.

# Names of the capabilities by their bit. Docker 20.10 knows none past AUDIT_READ.
CAPABILITIES=(CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ)

# --privileged asks for every capability and fails where the machine itself lacks
# one, so a host gets exactly those that the machine has.
capability_arguments() {
    local bounding bit
    bounding=$((16#$(awk '/^CapBnd:/ { print $2 }' /proc/self/status)))
    echo --cap-drop=ALL
    for bit in "${!CAPABILITIES[@]}"; do
        if ((bounding >> bit & 1)); then echo "--cap-add=${CAPABILITIES[bit]}"; fi
    done
}

# Loop devices (major 7, and their control device) let a host have a small disk to fill.
machine_arguments() {
    capability_arguments
    printf '%s\n' --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
        --security-opt systempaths=unconfined --device-cgroup-rule 'b 7:* rmw' --device-cgroup-rule 'c 10:237 rmw' --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw \
        --tmpfs /run:exec,mode=755 --tmpfs /run/lock --stop-signal SIGRTMIN+3 -e container=docker
}

create_machine() {
    local name=$1 arguments
    shift
    mapfile -t arguments < <(machine_arguments)
    docker create --name "$name" "${arguments[@]}" "$@" >/dev/null
}

start_machine() {
    create_machine "$@"
    docker start "$1" >/dev/null
}

# poll SECONDS COMMAND…: true as soon as the command is.
poll() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.2
    done
}

wait_docker() {
    poll 60 docker exec "$1" docker info || {
        docker exec "$1" journalctl -n 30 --no-pager -u docker.service >&2 || true
        die "the Docker engine inside $1 did not start"
    }
}

# A host's keys are made here, before it boots, so that its key is pinned and never
# learnt from the network. They outlive `down`.
make_keys() {
    local host
    [[ -e $SSH/id_ed25519 ]] || {
        mkdir -p "$SSH"
        chmod 700 "$SSH"
        ssh-keygen -q -t ed25519 -N '' -C vigie-world -f "$SSH/id_ed25519"
    }
    for host in "$@"; do
        [[ -e $SSH/$host/ssh_host_ed25519_key ]] && continue
        mkdir -p "$SSH/$host"
        ssh-keygen -q -t ed25519 -N '' -C "$host" -f "$SSH/$host/ssh_host_ed25519_key"
    done
}

# The files name every host that has ever had a key, so that they need no rewriting
# as hosts come and go.
write_ssh_config() {
    local key host type public
    : >"$SSH/known_hosts.new"
    {
        printf '# Written by the test world.\n'
        for key in "$SSH"/vps*/ssh_host_ed25519_key.pub; do
            host=$(basename "$(dirname "$key")")
            read -r type public _ <"$key"
            printf '%s,%s %s %s\n' "$host" "$(address "$host")" "$type" "$public" >>"$SSH/known_hosts.new"
            printf '\nHost %s %s\n    HostName %s\n' "$host" "$(address "$host")" "$(address "$host")"
        done
        printf '\nHost *\n    User root\n    IdentityFile "%s"\n    IdentitiesOnly yes\n' "$SSH/id_ed25519"
        printf '    UserKnownHostsFile "%s"\n    GlobalKnownHostsFile /dev/null\n' "$SSH/known_hosts"
        printf '    StrictHostKeyChecking yes\n    HostKeyAlgorithms ssh-ed25519\n    BatchMode yes\n    ConnectTimeout 10\n'
    } >"$SSH/config.new"
    mv "$SSH/known_hosts.new" "$SSH/known_hosts"
    mv "$SSH/config.new" "$SSH/config"
}

create_host() {
    local host=$1 name
    name=$(container "$host")
    # A reboot ends the container with an error; the restart policy is the machine coming up again.
    create_machine "$name" --restart on-failure --hostname "$host" --network "$NETWORK" --ip "$(address "$host")" \
        --network-alias "$host" --add-host "api.sylion.tech:$(address "$host")" \
        -v "$(docker_volume "$host"):/var/lib/docker" \
        --label "$LABEL" --label "vigie.world.host=$host" "$IMAGE_VPS"
    docker cp -q "$SSH/$host/ssh_host_ed25519_key" "$name:/etc/ssh/ssh_host_ed25519_key" 2>/dev/null ||
        docker cp "$SSH/$host/ssh_host_ed25519_key" "$name:/etc/ssh/ssh_host_ed25519_key" >/dev/null
    docker cp "$SSH/$host/ssh_host_ed25519_key.pub" "$name:/etc/ssh/ssh_host_ed25519_key.pub" >/dev/null 2>&1
    docker cp "$SSH/id_ed25519.pub" "$name:/root/.ssh/authorized_keys" >/dev/null 2>&1
}

# Boots a new host and makes its stack; what it prints is kept for when it fails.
provision_host() {
    local host=$1
    {
        docker start "$(container "$host")"
        wait_docker "$(container "$host")"
        inside "$host" "$WORLD_DIR/inside/provision.sh"
    } >"$LOGS/$host.log" 2>&1 || {
        tail -30 "$LOGS/$host.log" >&2
        die "$host did not become healthy, see $LOGS/$host.log"
    }
    step "$host is healthy"
}

restart_host() {
    local host=$1
    docker start "$(container "$host")" >/dev/null
    wait_docker "$(container "$host")"
    inside "$host" "$WORLD_DIR/inside/wait.sh" ||
        say "$host runs, but is not healthy (a fault?); 'world reset $host' heals it"
}

# each FUNCTION HOST…: all hosts at once; fails if one of them did.
each() {
    local function=$1 host commands=()
    shift
    for host in "$@"; do commands+=("$function $host"); done
    at_once "${commands[@]}"
}

new_hosts() {
    local host volumes=()
    (($#)) || return 0
    for host in "$@"; do
        docker volume rm -f "$(docker_volume "$host")" >/dev/null
        docker volume create --label "$LABEL" "$(docker_volume "$host")" >/dev/null
        volumes+=("$(docker_volume "$host")")
    done
    seed_volumes "${volumes[@]}"
    each create_host "$@"
    each provision_host "$@"
}

cmd_up() {
    local count=${1:-3} host number new=() stopped=()
    [[ $count =~ ^[1-9][0-9]?$ ]] || die "up takes a number of hosts from 1 to 99"
    need_tools
    image_names
    build_images
    docker network inspect "$NETWORK" >/dev/null 2>&1 ||
        docker network create --label "$LABEL" --subnet "$WORLD_NET.0/24" --gateway "$(gateway)" "$NETWORK" >/dev/null

    for ((number = 1; number <= count; number++)); do
        host=vps$number
        case $(docker inspect -f '{{.State.Status}}' "$(container "$host")" 2>/dev/null || true) in
        running)
            [[ $(docker inspect -f '{{.Config.Image}}' "$(container "$host")") == "$IMAGE_VPS" ]] ||
                say "$host runs an older image; 'world reset --fresh $host' makes it anew"
            ;;
        '' | created | dead)
            docker rm -fv "$(container "$host")" >/dev/null 2>&1 || true
            new+=("$host")
            ;;
        *) stopped+=("$host") ;;
        esac
    done
    make_keys "${new[@]}"
    write_ssh_config
    if ((${#new[@]})); then
        step "starting ${new[*]}"
        new_hosts "${new[@]}"
    fi
    if ((${#stopped[@]})); then
        step "starting ${stopped[*]} again"
        each restart_host "${stopped[@]}"
    fi
    step "the world is up"
    cmd_status
    print_use
}

print_use() {
    cat <<USE

ssh            ssh -F $SSH/config vps1
key            $SSH/id_ed25519
known hosts    $SSH/known_hosts
controller     a controller on this machine is reached from the hosts at $(gateway)

With Vigie:    $WORLD_DIR/fleet up      a controller, an operator, and every host added over ssh
by hand:       vigie-controller init --address $(gateway) …
               vigiectl hosts add root@vps1 -F $SSH/config
USE
}

host_line() {
    local host=$1 health=- backend=- faults=-
    if [[ $(docker inspect -f '{{.State.Running}}' "$(container "$host")") == true ]]; then
        read -r health backend faults < <(inside "$host" "$WORLD_DIR/inside/status.sh" 2>/dev/null) || true
    else
        health=stopped
    fi
    printf '%-8s %-15s %-10s %-24s %s\n' "$host" "$(address "$host")" "$health" "$backend" "$faults"
}

cmd_status() {
    local list
    mapfile -t list < <(hosts)
    ((${#list[@]})) || {
        echo "no hosts; 'world up' starts some"
        return
    }
    printf '%-8s %-15s %-10s %-24s %s\n' HOST ADDRESS /health BACKEND FAULTS
    each host_line "${list[@]}" | sort -V
}

cmd_exec() {
    local host=${1:-} interactive=(-i)
    need_host "$host"
    shift
    [[ ${1:-} == -- ]] && shift
    (($#)) || die "usage: world exec HOST -- COMMAND…"
    [[ -t 0 && -t 1 ]] && interactive=(-it)
    exec docker exec "${interactive[@]}" "$(container "$host")" "$@"
}

cmd_ssh_config() {
    [[ -e $SSH/config ]] || die "there is no ssh config yet; 'world up' writes it"
    printf '%s\n' "$SSH/config"
}

cmd_down() {
    local images=${1:-} list
    [[ -z $images || $images == --images ]] || die "usage: world down [--images]"
    mapfile -t list < <(docker ps -aq --filter "label=$LABEL")
    ((${#list[@]} == 0)) || docker rm -fv "${list[@]}" >/dev/null
    mapfile -t list < <(docker volume ls -q --filter "label=$LABEL")
    ((${#list[@]} == 0)) || docker volume rm -f "${list[@]}" >/dev/null
    docker network rm "$NETWORK" >/dev/null 2>&1 || true
    rm -rf "$LOGS"
    [[ $images == --images ]] || return 0
    mapfile -t list < <(docker volume ls -q --filter label=vigie.world.golden)
    ((${#list[@]} == 0)) || docker volume rm -f "${list[@]}" >/dev/null
    mapfile -t list < <(docker images --filter 'reference=vigie-world/*' --format '{{.Repository}}:{{.Tag}}')
    ((${#list[@]} == 0)) || docker rmi -f "${list[@]}" >/dev/null
}
