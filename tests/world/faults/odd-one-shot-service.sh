# shellcheck shell=bash
# The stack has a service that makes its tables and ends: it exited with 0, and nothing is to start it again.
# expect: healthy
break_it() {
    local file=$STACK/docker-compose.prod.yml
    awk '{ print } /^services:$/ { print "  migrate:\n    image: sylion-backend\n    container_name: sylion-migrate\n    restart: \"no\"\n    entrypoint: [\"true\"]\n    networks:\n      - sylion-network\n" }' "$file" >"$file.new"
    mv "$file.new" "$file"
    compose up -d migrate
    poll 30 has_ended sylion-migrate
}
has_ended() { [[ $(docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$1") == 'exited 0' ]]; }
cure_it() {
    docker rm -f sylion-migrate
    restore "$STACK/docker-compose.prod.yml"
}
