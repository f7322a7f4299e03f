# shellcheck shell=bash
# Builds the images from Debian packages alone, tagged by the hash of their inputs,
# and a golden volume: the /var/lib/docker of a host that has loaded them.

hash_of() { printf '%s\0' "$@" | sha256sum | cut -c1-12; }

# Content and mode count, modification times do not: a fresh checkout changes those.
hash_tree() {
    (cd "$1" && find . -type f -printf '%m %p\n' | LC_ALL=C sort &&
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum
}

# Lines "URI RELEASE" of the machine's own Debian sources, so that a local mirror is used.
debian_sources() {
    # The dollar signs are apt's placeholders.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI) $(RELEASE)' \
        'Created-By: Packages' 2>/dev/null |
        awk -v suite="$SUITE" '$1 == "Debian" && $2 == "main" && index($4, suite) == 1 { print $3, $4 }' |
        sort -u
}

mirror() {
    local found
    found=$(debian_sources | awk -v suite="$SUITE" '$2 == suite { print $1; exit }')
    printf '%s' "${found:-http://deb.debian.org/debian}"
}

apt_proxy() { apt-config dump 2>/dev/null | grep -E '^Acquire::https?::Proxy' || true; }

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

# A machine's sources and proxy are no part of an image's hash: they say where
# packages come from, not which.
build_debian() {
    have_image "$IMAGE_DEBIAN" && return
    step "debootstrap of $SUITE"
    local root proxy
    mkdir -p "$STATE/debootstrap"
    root=$(mktemp -d "$STATE/rootfs.XXXXXX")
    proxy=$(apt_proxy)
    (
        trap 'rm -rf "$root"' EXIT
        if [[ $proxy =~ http::Proxy\ \"([^\"]+)\" ]]; then export http_proxy=${BASH_REMATCH[1]}; fi
        PATH=$PATH:/usr/sbin debootstrap --variant=minbase --cache-dir="$STATE/debootstrap" \
            --include=ca-certificates,curl,procps "$SUITE" "$root" "$(mirror)" >"$STATE/debootstrap.log" 2>&1 ||
            die "debootstrap failed, see $STATE/debootstrap.log"
        { debian_sources | sed 's/^/deb /; s/$/ main/'; } >"$root/etc/apt/sources.list"
        [[ -s $root/etc/apt/sources.list ]] || echo "deb $(mirror) $SUITE main" >"$root/etc/apt/sources.list"
        [[ -z $proxy ]] || printf '%s\n' "$proxy" >"$root/etc/apt/apt.conf.d/90proxy"
        # Debian starts a daemon as it is installed; in a build nobody is there to stop it.
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
        chmod 755 "$root/usr/sbin/policy-rc.d"
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        tar -C "$root" --numeric-owner -c . | docker import - "$IMAGE_DEBIAN" >/dev/null
    )
}

# build IMAGE CONTEXT [DOCKER BUILD ARGUMENT…]
build() {
    local image=$1 context=$2 log
    shift 2
    have_image "$image" && return
    step "building ${image%%:*}"
    log=$STATE/build-$(basename "${image%%:*}").log
    # The host's network reaches whatever mirror or proxy the machine itself reaches.
    docker build --network=host -q -t "$image" "$@" "$context" >"$log" 2>&1 || {
        tail -40 "$log" >&2
        die "building $image failed, see $log"
    }
}

image_names() {
    local debian
    # A function's text stands for what it does.
    debian=$(hash_of "$SUITE" "$(declare -f build_debian)")
    IMAGE_DEBIAN=vigie-world/debian:$debian
    IMAGE_BASE=vigie-world/sylion-base:$(hash_of "$debian" "$(hash_tree "$WORLD_DIR/images/sylion-base")")
    IMAGE_POSTGRES=vigie-world/sylion-postgres:$(hash_of "$debian" "$(hash_tree "$WORLD_DIR/images/sylion-postgres")")
    IMAGE_REDIS=vigie-world/sylion-redis:$(hash_of "$debian" "$(hash_tree "$WORLD_DIR/images/sylion-redis")")
    IMAGE_SYSTEM=vigie-world/system:$(hash_of "$debian" "$COMPOSE_SUITE" "$(hash_tree "$WORLD_DIR/images/vps")")
    IMAGE_VPS=vigie-world/vps:$(hash_of "$IMAGE_SYSTEM" "$(hash_tree "$WORLD_DIR/stack")")
    GOLDEN=vigie-world-golden-$(hash_of "$IMAGE_VPS" "$IMAGE_BASE" "$IMAGE_POSTGRES" "$IMAGE_REDIS" \
        "$(declare -f build_golden load_images)")
    IMAGE_GOLDEN=vigie-world/golden:${GOLDEN##*-}
}

cmd_image() {
    local name=IMAGE_${1:?which image?}
    image_names
    name=${name^^}
    [[ -n ${!name:-} ]] || die "there is no image $1"
    printf '%s\n' "${!name}"
}

build_base() { build "$IMAGE_BASE" "$WORLD_DIR/images/sylion-base" --build-arg "BASE=$IMAGE_DEBIAN"; }
build_postgres() { build "$IMAGE_POSTGRES" "$WORLD_DIR/images/sylion-postgres" --build-arg "BASE=$IMAGE_DEBIAN"; }
build_redis() { build "$IMAGE_REDIS" "$WORLD_DIR/images/sylion-redis" --build-arg "BASE=$IMAGE_DEBIAN"; }
build_system() {
    build "$IMAGE_SYSTEM" "$WORLD_DIR/images/vps" --build-arg "BASE=$IMAGE_DEBIAN" \
        --build-arg "MIRROR=$(mirror)" --build-arg "COMPOSE_SUITE=$COMPOSE_SUITE"
}
# The stack is a layer of its own, so that a change of it rebuilds no packages.
build_vps() {
    build "$IMAGE_VPS" "$WORLD_DIR/stack" -f "$WORLD_DIR/images/stack.Dockerfile" --build-arg "BASE=$IMAGE_SYSTEM"
}

build_images() {
    build_debian
    # Installing packages keeps one processor busy: these four need nothing of each other.
    at_once build_system build_postgres build_base build_redis
    build_vps
    build_golden
}

# A tag says that the volume is complete: the engine keeps both, whatever becomes of our state.
golden_ready() { have_image "$IMAGE_GOLDEN" && docker volume inspect "$GOLDEN" >/dev/null 2>&1; }

# Sends the Sylion images into a running host and gives them the names that its
# Dockerfile and compose file know.
load_images() {
    local target=$1
    docker save "$IMAGE_BASE" "$IMAGE_POSTGRES" "$IMAGE_REDIS" | docker exec -i "$target" docker load -q >/dev/null
    docker exec "$target" sh -ec '
        docker tag "$1" sylion-base:latest
        docker tag "$2" sylion-postgres:15
        docker tag "$3" sylion-redis:7
        docker rmi "$1" "$2" "$3" >/dev/null' load "$IMAGE_BASE" "$IMAGE_POSTGRES" "$IMAGE_REDIS"
}

build_golden() {
    golden_ready && return
    local builder=$GOLDEN-builder
    step "filling the golden volume"
    docker rm -fv "$builder" >/dev/null 2>&1 || true
    docker volume rm -f "$GOLDEN" >/dev/null 2>&1 || true
    docker volume create --label vigie.world.golden=1 "$GOLDEN" >/dev/null
    start_machine "$builder" -v "$GOLDEN:/var/lib/docker" --network none --label "$LABEL" "$IMAGE_VPS"
    wait_docker "$builder"
    load_images "$builder"
    # Building fills the build cache too, so that a host's first build is a short one.
    docker exec -w /srv/sylion "$builder" sh -ec '
        touch .env.prod
        ENV_FILE=.env.prod docker compose --env-file .env.prod -f docker-compose.prod.yml build -q backend
        systemctl stop docker.socket docker.service' >"$STATE/build-golden.log" 2>&1 ||
        die "building the backend inside a host failed, see $STATE/build-golden.log"
    docker rm -fv "$builder" >/dev/null
    docker tag "$IMAGE_DEBIAN" "$IMAGE_GOLDEN"
}

# seed_volumes VOLUME…: copies of the golden volume. Image layers are never written
# to once they are there, so hard links to them are as good as copies and cost nothing;
# everything else (databases that are changed in place) is copied.
seed_volumes() {
    local volumes
    volumes=$(docker info -f '{{.DockerRootDir}}')/volumes
    # shellcheck disable=SC2016
    docker run --rm --network none -v "$volumes:/v" "$IMAGE_DEBIAN" bash -euc '
        golden=$1; shift
        for volume in "$@"; do
            to=/v/$volume/_data
            for entry in "/v/$golden/_data"/* ; do
                if [[ ${entry##*/} == overlay2 ]]; then cp -al "$entry" "$to/"; else cp -a "$entry" "$to/"; fi
            done
        done' seed "$GOLDEN" "$@"
}
