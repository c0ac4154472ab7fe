#!/bin/sh
# Made by `exeat generate docker`. A workload that can reach the proxy and nothing else:
#
#   sh egress.sh up                                # the proxy
#   sh egress.sh run [OPTIONS] IMAGE [COMMAND…]    # a workload, as `docker run`
#   sh egress.sh down
#
# Workloads of one network reach each other. Docker's control of networks and of the variables is not the workload's: do not
# mount Docker's socket into it, and give it no --privileged, --network or --publish.
set -eu

up() {
    # No gateway, and no address of this machine either: what listens on it stays out of reach.
    docker network create --internal --opt com.docker.network.bridge.inhibit_ipv4=true exeat-inside
    docker network create exeat-outside
    docker create --name exeat --network exeat-outside --restart unless-stopped \
        --user 65532:65532 --read-only --cap-drop ALL \
        --security-opt no-new-privileges --stop-timeout 45 \
        --tmpfs /run/exeat:uid=65532,gid=65532,mode=0700 \
        --tmpfs /var/lib/exeat:uid=65532,gid=65532,mode=0700 \
        --mount type=bind,source=/srv/exeat/batch.toml,target=/etc/exeat/exeat.toml,readonly \
        --mount type=bind,source=/srv/exeat/hosts.txt,target=/etc/exeat/hosts.txt,readonly \
        --mount type=bind,source=/srv/exeat/../ca.pem,target=/srv/ca.pem,readonly \
        exeat:0.1.0 serve --config /etc/exeat/exeat.toml >/dev/null
    docker network connect exeat-inside exeat
    docker start exeat >/dev/null
    tries=0
    until docker exec exeat /usr/bin/exeat health --socket /run/exeat/api.sock 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 30 ] || { docker logs exeat >&2; exit 1; }
        sleep 1
    done
}

run() {
    # Percent-encoded.
    : "${EXEAT_CREDENTIALS:?set it to NAME:PASSWORD of a client}"
    # Names other than the proxy's are asked of a server that is not there: DNS is no way out.
    docker run --rm --network exeat-inside \
        --dns 127.0.0.1 --cap-drop NET_RAW --security-opt no-new-privileges \
        --env HTTP_PROXY="http://${EXEAT_CREDENTIALS}@exeat:3128" \
        --env http_proxy="http://${EXEAT_CREDENTIALS}@exeat:3128" \
        --env HTTPS_PROXY="http://${EXEAT_CREDENTIALS}@exeat:3128" \
        --env https_proxy="http://${EXEAT_CREDENTIALS}@exeat:3128" \
        --env ALL_PROXY="http://${EXEAT_CREDENTIALS}@exeat:3128" \
        --env all_proxy="http://${EXEAT_CREDENTIALS}@exeat:3128" \
        --env NO_PROXY="localhost,127.0.0.1,::1" \
        --env no_proxy="localhost,127.0.0.1,::1" \
        "$@"
}

down() {
    docker rm --force exeat
    docker network rm exeat-inside exeat-outside
}

case "${1:-}" in
    up | run | down) "$@" ;;
    *)
        echo "usage: $0 up | run [OPTIONS] IMAGE [COMMAND...] | down" >&2
        exit 2
        ;;
esac
