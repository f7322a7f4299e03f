#!/usr/bin/env bash
# Dumps the production database to backups/postgres/.
#   ENV_FILE=.env.prod ./scripts/backup_postgres.sh
set -euo pipefail
cd "$(dirname "$0")/.."

ENV_FILE=${ENV_FILE:?set ENV_FILE, e.g. ENV_FILE=.env.prod}
read_var() { sed -n "s/^$1=//p" "$ENV_FILE" | tail -1; }
user=$(read_var POSTGRES_USER)
database=$(read_var POSTGRES_DB)

mkdir -p backups/postgres
file=backups/postgres/sylion_$(date +%Y-%m-%d_%H%M%S).sql.gz
trap 'rm -f "$file.partial"' EXIT
docker exec sylion-postgres pg_dump -U "$user" -d "$database" --clean --if-exists | gzip >"$file.partial"
gzip -t "$file.partial"
mv "$file.partial" "$file"
echo "Backup written: $file ($(stat -c %s "$file") bytes)"
