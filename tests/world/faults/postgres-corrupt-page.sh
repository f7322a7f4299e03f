# shellcheck shell=bash
# A page of a table is damaged on disk: the server runs, and reading the table fails with `invalid page in block`.
# expect: runbook=postgres-down cause=damage remedy=-
break_it() {
    local file
    sql <<<'CREATE TABLE world_damaged AS SELECT n, md5(n::text) AS t FROM generate_series(1, 20000) n; CHECKPOINT;'
    file=$(postgres_data)/$(sql -At <<<"SELECT pg_relation_filepath('world_damaged')")
    docker stop sylion-postgres >/dev/null
    printf 'broken volume%.0s' {1..60} | dd of="$file" bs=8192 seek=3 conv=notrunc status=none
    docker start sylion-postgres
    poll 30 has_health sylion-postgres healthy
    sql -At <<<'SELECT count(*) FROM world_damaged' && return 1
    poll 40 healthy
}
postgres_data() { docker volume inspect -f '{{.Mountpoint}}' sylion-postgres-data; }
cure_it() {
    sql <<<'DROP TABLE IF EXISTS world_damaged'
    truncate -s 0 "$(docker inspect -f '{{.LogPath}}' sylion-postgres)"
}
