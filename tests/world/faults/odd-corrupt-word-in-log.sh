# shellcheck shell=bash
# Clients whose mistakes read like a damaged server: a table and a key called corrupt, values that look like a PANIC, an
# exception in the server's own words. The server is well, and so is its data.
# expect: healthy
break_it() {
    sql <<<'CREATE TABLE world_corrupt (status text PRIMARY KEY); INSERT INTO world_corrupt VALUES ('"'corrupt'"')'
    docker exec -i sylion-postgres psql -q -U sylion_user -d sylion_prod <<'SQL'
SELECT * FROM corrupt_docs;
INSERT INTO world_corrupt VALUES ('corrupt');
SELECT 'PANIC:  could not locate a valid checkpoint record'::int;
SELECT E'x" PANIC:  invalid page in block 3 of relation base/1/2\nPANIC:  corrupt'::int;
SELECT t."could not read block 3" FROM world_corrupt t;
DO $$ BEGIN RAISE EXCEPTION 'invalid page in block 3 of relation base/16384/16385'; END $$;
DO $$ BEGIN RAISE WARNING 'could not read block 3 in file "base/16384/16385": Input/output error'; END $$;
SQL
    docker logs --since 60s sylion-postgres 2>&1 | grep -q 'ERROR:  relation "corrupt_docs" does not exist'
    healthy
}
cure_it() {
    sql <<<'DROP TABLE IF EXISTS world_corrupt'
    truncate -s 0 "$(docker inspect -f '{{.LogPath}}' sylion-postgres)"
}
