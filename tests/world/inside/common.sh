# shellcheck shell=bash
# What the scripts share that run inside a host. The world's own notes about a host
# are in /var/lib/world: its pristine files, and the faults that are active.

WORLD=/var/lib/world
PRISTINE=$WORLD/pristine
STACK=/srv/sylion

compose() {
    (cd "$STACK" && ENV_FILE=.env.prod docker compose --env-file .env.prod -f docker-compose.prod.yml "$@")
}

# shellcheck disable=SC2120
sql() { docker exec -i sylion-postgres psql -q -v ON_ERROR_STOP=1 -U sylion_user -d sylion_prod "$@"; }

env_var() { sed -n "s/^$1=//p" "$STACK/.env.prod"; }

# shellcheck disable=SC2120
redis() {
    docker exec -i -e REDISCLI_AUTH="$(env_var REDIS_PASSWORD)" sylion-redis redis-cli "$@"
}

# Through nginx and TLS, as a customer's request goes. nginx gives up after 5 s.
health_code() { curl -s -o /dev/null -w '%{http_code}' --max-time 7 https://api.sylion.tech/health || true; }

# poll SECONDS COMMAND…: true as soon as the command is.
poll() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.2
    done
}

healthy() { [[ $(health_code) == 200 ]]; }
container_state() { docker inspect -f '{{.State.Status}}' "$1" 2>/dev/null || echo absent; }
container_health() { docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null || echo absent; }
has_health() { [[ $(container_health "$1") == "$2" ]]; }
restarted() { (($(docker inspect -f '{{.RestartCount}}' "$1") >= $2)); }
has_code() { [[ $(health_code) == "$1" ]]; }
was_oom_killed() { [[ $(docker inspect -f '{{.State.OOMKilled}}' "$1") == true ]]; }

# Healthy means the whole stack: Docker calls all three healthy, and nginx answers 200.
# nginx is asked last, so that waiting leaves no errors in its log.
wait_healthy() {
    poll "$1" has_health sylion-postgres healthy && poll 30 has_health sylion-redis healthy &&
        poll 30 has_health sylion-backend healthy && poll 10 healthy
}

# restore PATH…: puts files back as they were, with their times: rebuilding from
# sources that look older than the image must find nothing to do.
restore() {
    local path
    for path in "$@"; do cp -a "$PRISTINE$path" "$path.restored" && mv -f "$path.restored" "$path"; done
}

# systemd refuses a unit that was started too often in a minute, unless told to forget.
start_docker() {
    systemctl reset-failed docker.service docker.socket 2>/dev/null || true
    systemctl start docker
}

# A small disk under what fills up on a real host: volumes, container logs, backups,
# the journal, apt's archives. They are moved onto it by bind mounts, so that freeing
# space in any of them frees it for all. A fault may add paths before it shrinks.
DISK=/mnt/disk
DISK_IMAGE=/var/lib/docker/world-disk.img
DISK_PATHS=(/var/lib/docker/volumes /var/lib/docker/containers /srv/sylion/backups /var/log/journal /var/cache/apt)

# small_disk SIZE [OPTION OF MKFS…]: an empty one.
small_disk() {
    local number size=$1
    shift
    truncate -s "$size" "$DISK_IMAGE"
    mkfs.ext4 -q -m 0 "$@" -F "$DISK_IMAGE"
    [[ -e /dev/loop-control ]] || mknod /dev/loop-control c 10 237
    # Other hosts take loop devices too: losetup finds a free one, the node may be missing here.
    for number in {0..63}; do [[ -e /dev/loop$number ]] || mknod "/dev/loop$number" b 7 "$number"; done
    mkdir -p "$DISK"
    mount -o loop "$DISK_IMAGE" "$DISK"
}

# shrink_disk SIZE [OPTION OF MKFS…]
shrink_disk() {
    local path
    small_disk "$@"
    systemctl stop docker.socket docker
    printf '%s\n' "${DISK_PATHS[@]}" >"$WORLD/disk-paths"
    for path in "${DISK_PATHS[@]}"; do
        mkdir -p "$DISK$path"
        cp -a "$path/." "$DISK$path/"
        mount --bind "$DISK$path" "$path"
    done
    systemctl restart systemd-journald
    start_docker
}

# shrink_docker SIZE: all that Docker keeps, images too, on a small disk.
shrink_docker() {
    small_disk "$1"
    systemctl stop docker.socket docker
    tar -C /var/lib/docker --exclude=./world-disk.img -cf - . | tar -C "$DISK" -xf -
    mount --bind "$DISK" /var/lib/docker
    start_docker
}

# fill_disk: takes all but 256 KiB of the small disk, by a file that nobody knows.
fill_disk() {
    local filler=${1:-/var/lib/docker/volumes/world-filler}
    fallocate -l "$(($(df --output=avail -B1 "$DISK" | tail -1) - 256 * 1024))" "$filler"
}

# refuses_writes: the last kilobytes are the database's own, until it may not have another: a table cannot grow. Its
# write-ahead log still has room in its segment, so it lives on.
refuses_writes() {
    for _ in {1..20}; do
        sql <<<"CREATE TABLE IF NOT EXISTS event_log (n int, t text); INSERT INTO event_log SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 200) n" || return 0
    done
    return 1
}

# accepts_writes: what a cure of a full disk ends with.
accepts_writes() {
    poll 30 has_health sylion-postgres healthy
    sql <<<'DROP TABLE IF EXISTS event_log'
    # What it said while it was broken would be evidence against the next.
    truncate -s 0 "$(docker inspect -f '{{.LogPath}}' sylion-postgres)"
}

# Brings back what is on the small disk (a host goes on living while it is broken),
# except what filled it.
restore_disk() {
    local path
    if grep -q ' /var/lib/docker .* /dev/loop' /proc/self/mountinfo; then
        # What is below is as it was when Docker stopped for the small disk.
        systemctl stop docker.socket docker || true
        umount /var/lib/docker || umount -l /var/lib/docker
    fi
    mountpoint -q "$DISK" || {
        # A host that was started again has lost the mounts, and runs on what was below.
        rm -f "$DISK_IMAGE" "$WORLD/disk-paths"
        start_docker
        return 0
    }
    systemctl stop docker.socket docker || true
    [[ ! -e $WORLD/disk-paths ]] || mapfile -t DISK_PATHS <"$WORLD/disk-paths"
    for path in "${DISK_PATHS[@]}"; do
        mountpoint -q "$path" || continue
        find "$DISK$path" -name 'world-filler*' -delete
        umount "$path" || umount -l "$path"
        [[ $path == /srv/sylion/backups ]] || { rm -rf "${path:?}"/*; cp -a "$DISK$path/." "$path/"; }
    done
    systemctl restart systemd-journald
    umount "$DISK" || umount -l "$DISK"
    rm -f "$DISK_IMAGE" "$WORLD/disk-paths"
    start_docker
}

# Rows and queue keys as a host has them on its first day.
seed_data() {
    sql <"$STACK/drizzle/0003_add_plans_and_knowledge.sql"
    sql <<'SQL'
BEGIN;
TRUNCATE knowledge_chunks, knowledge_documents, usage_counters_daily, tenants CASCADE;
INSERT INTO tenants (id, name, plan_code) VALUES
    ('11111111-1111-4111-8111-111111111111', 'Atelier Lumière', 'free'),
    ('22222222-2222-4222-8222-222222222222', 'Boulangerie Martin', 'pro'),
    ('33333333-3333-4333-8333-333333333333', 'Clinique du Parc', 'enterprise');
INSERT INTO knowledge_documents (id, tenant_id, name, status, created_at)
    SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
           (ARRAY['11111111-1111-4111-8111-111111111111', '22222222-2222-4222-8222-222222222222', '33333333-3333-4333-8333-333333333333'])[1 + n % 3]::uuid,
           'document-' || n || '.pdf', 'indexed', now() - n * interval '1 hour'
    FROM generate_series(1, 30) n;
INSERT INTO knowledge_chunks (document_id, position, content, embedding)
    SELECT d.id, p, 'Passage ' || p || ' of ' || d.name, ARRAY[0.1, 0.2, 0.3]::real[]
    FROM knowledge_documents d, generate_series(1, 4) p;
INSERT INTO usage_counters_daily (tenant_id, date, docs_indexed_count, rag_queries_count)
    SELECT id, CURRENT_DATE - d, 1 + d % 3, 40 + d FROM tenants, generate_series(0, 6) d;
COMMIT;
SQL
    seed_queues | redis >/dev/null
}

# Keys of the shapes that BullMQ writes: a hash per job, lists and sorted sets per state.
seed_queues() {
    local queue n now
    now=$(date +%s%3N)
    echo FLUSHDB
    for queue in rag:index-document whatsapp:incoming; do
        echo "HSET bull:$queue:meta opts.maxLenEvents 10000 version bullmq:5.34.0"
        echo "SET bull:$queue:id 24"
        for n in 21 22 23 24; do
            echo "HSET bull:$queue:$n name job data '{\"n\":$n}' opts '{\"attempts\":3}' timestamp $((now - n * 1000)) delay 0 priority 0 attemptsMade 1 processedOn $((now - n * 900)) finishedOn $((now - n * 800)) returnvalue null"
            echo "ZADD bull:$queue:completed $((now - n * 800)) $n"
        done
        echo "XADD bull:$queue:events * event completed jobId 24"
    done
}

# queue_jobs QUEUE STATE COUNT AGE: commands that put jobs into a list of a queue, the oldest so many seconds old.
queue_jobs() {
    local n now
    now=$(date +%s%3N)
    for ((n = 1; n <= $3; n++)); do
        echo "HSET bull:$1:9$n name job data '{\"n\":$n}' opts '{\"attempts\":3}' timestamp $((now - $4 * 1000 + n)) delay 0 priority 0 attemptsMade 0"
        echo "LPUSH bull:$1:$2 9$n"
    done
}

no_workers() { ! redis CLIENT LIST | grep -q ' name=bull:'; }
evicted() { redis INFO stats | grep -q '^evicted_keys:[1-9]'; }

# redis_as PASSWORD COMMAND…
redis_as() {
    local password=$1
    shift
    docker exec -i -e REDISCLI_AUTH="$password" sylion-redis redis-cli "$@"
}

# certificate_valid FROM TO: another certificate for nginx, good from one date to the other.
certificate_valid() {
    local folder
    folder=$(mktemp -d)
    # `x509` takes no dates in the past; `ca` does.
    : >"$folder/index"
    cat >"$folder/config" <<CONFIG
[ca]
default_ca = own
[own]
database = $folder/index
new_certs_dir = $folder
default_md = sha256
policy = any
copy_extensions = copy
rand_serial = yes
[any]
commonName = supplied
CONFIG
    openssl req -new -key /etc/nginx/tls/api.sylion.tech.key -subj /CN=api.sylion.tech \
        -addext subjectAltName=DNS:api.sylion.tech -out "$folder/request"
    openssl ca -batch -notext -selfsign -config "$folder/config" -in "$folder/request" \
        -keyfile /etc/nginx/tls/api.sylion.tech.key -startdate "$(date -u -d "$1" +%y%m%d%H%M%SZ)" \
        -enddate "$(date -u -d "$2" +%y%m%d%H%M%SZ)" -out /etc/nginx/tls/api.sylion.tech.crt 2>/dev/null
    rm -rf "$folder"
}

# `x509` fails for a certificate that has expired, and for none at all: its words tell which.
shows_expired() {
    local said
    said=$(openssl s_client -connect 127.0.0.1:443 -servername api.sylion.tech </dev/null 2>/dev/null |
        openssl x509 -noout -checkend 0) || true
    [[ $said == *'will expire'* ]]
}
