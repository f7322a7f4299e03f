# shellcheck shell=bash
# Makes a new host's stack: its own secrets, its data, its backups, its firewall; then
# keeps a pristine copy of what faults may change.

secret() { LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c "$1" || true; }
# Signs that break careless tools (a comment, a space in a URL, an escape) and that
# Compose itself takes as they are.
password() { printf '%s#%s+%s%%%s' "$(secret 6)" "$(secret 6)" "$(secret 6)" "$(secret 6)"; }
url_encode() { sed 's/%/%25/g; s/#/%23/g; s/+/%2B/g' <<<"$1"; }

mkdir -p "$PRISTINE"

(
    ufw allow 22/tcp
    ufw allow 80/tcp
    ufw allow 443/tcp
    ufw --force enable
) &

if [[ ! -e $STACK/.env.prod ]]; then
    postgres_password=$(password)
    redis_password=$(password)
    umask 077
    cat >"$STACK/.env.prod" <<ENV
NODE_ENV=production
PORT=8000

POSTGRES_USER=sylion_user
POSTGRES_PASSWORD=$postgres_password
POSTGRES_DB=sylion_prod
DATABASE_URL=postgresql://sylion_user:$(url_encode "$postgres_password")@postgres:5432/sylion_prod

REDIS_PASSWORD=$redis_password
REDIS_URL=redis://:$(url_encode "$redis_password")@redis:6379/0

JWT_SECRET=$(secret 48)
ENCRYPTION_KEY=$(secret 32)
WHATSAPP_VERIFY_TOKEN=$(secret 24)
OPENAI_API_KEY=sk-$(secret 40)
ENV
    umask 022
fi

compose up -d
wait
seed_data
wait_healthy 60

# Three nights of backups: the same data under the dates that a nightly job would give.
(cd "$STACK" && ENV_FILE=.env.prod ./scripts/backup_postgres.sh)
tonight=$(printf '%s\n' "$STACK"/backups/postgres/sylion_*.sql.gz | tail -1)
for days in 1 2; do
    past=$STACK/backups/postgres/sylion_$(date -d "-$days days" +%Y-%m-%d)_031500.sql.gz
    cp "$tonight" "$past"
    touch -d "$(date -d "-$days days" +%Y-%m-%d) 03:15" "$past"
done

mkdir -p "$PRISTINE/srv" "$PRISTINE/etc"
cp -a "$STACK" "$PRISTINE/srv/"
cp -a /etc/nginx /etc/ufw "$PRISTINE/etc/"
docker image inspect -f '{{.Id}}' sylion-backend >"$WORLD/backend-image"
: >"$WORLD/faults"
