#!/usr/bin/env bash
# Restores the production database from a backup. What was written since is lost.
#   ENV_FILE=.env.prod ./scripts/restore_postgres.sh backups/postgres/sylion_YYYY-MM-DD_HHMMSS.sql.gz
set -euo pipefail
cd "$(dirname "$0")/.."

export ENV_FILE=${ENV_FILE:?set ENV_FILE, e.g. ENV_FILE=.env.prod}
file=${1:?usage: restore_postgres.sh BACKUP.sql.gz}
[[ -f $file ]] || { echo "No such backup: $file" >&2; exit 1; }
gzip -t "$file" || { echo "Backup is damaged: $file" >&2; exit 1; }
read_var() { sed -n "s/^$1=//p" "$ENV_FILE" | tail -1; }
user=$(read_var POSTGRES_USER)
database=$(read_var POSTGRES_DB)
compose() { docker compose --env-file "$ENV_FILE" -f docker-compose.prod.yml "$@"; }

echo "Stopping the backend"
compose stop backend
docker exec sylion-postgres psql -q -U "$user" -d postgres -c \
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '$database' AND pid <> pg_backend_pid();" >/dev/null
echo "Restoring $file into $database"
gunzip -c "$file" | docker exec -i sylion-postgres psql -q -v ON_ERROR_STOP=1 --single-transaction -U "$user" -d "$database" >/dev/null
echo "Starting the backend"
compose start backend
echo "Restore complete"
