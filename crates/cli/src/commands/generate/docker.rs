//! A script that runs the proxy and a workload with Docker.

use std::fmt::Write as _;

use exeat_store::{CONTAINER_USER, Surroundings};

use super::{COMMAND, Generated, folders, grace_seconds, health, mounts, shell::word, variables};
use crate::args::GenerateArgs;

/// The script, but for what differs.
const HEAD: &str = "\
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
";

pub(super) fn files(args: &GenerateArgs, needs: &Surroundings) -> anyhow::Result<Vec<Generated>> {
    let mut text = HEAD.to_owned();
    let _infallible = write!(text, "\n{}\n{}\n{}", up(args, needs)?, run(needs), DOWN);
    Ok(vec![Generated { name: "egress.sh", text, is_remark: false }])
}

/// A network without a way out, and the proxy with a leg in it.
fn up(args: &GenerateArgs, needs: &Surroundings) -> anyhow::Result<String> {
    let mut create = vec![
        "docker create --name exeat --network exeat-outside --restart unless-stopped".to_owned(),
        format!("--user {CONTAINER_USER}:{CONTAINER_USER} --read-only --cap-drop ALL"),
        format!("--security-opt no-new-privileges --stop-timeout {}", grace_seconds(needs)),
    ];
    for folder in folders(needs)? {
        let owner = format!("{folder}:uid={CONTAINER_USER},gid={CONTAINER_USER},mode=0700");
        create.push(format!("--tmpfs {}", word(&owner)));
    }
    for (source, target) in mounts(needs)? {
        create.push(format!(
            "--mount {}",
            word(&format!("type=bind,{},{},readonly", field("source", &source), field("target", &target)))
        ));
    }
    create.push(format!("{} {}", word(&args.image), COMMAND.join(" ")));
    let mut text = format!(
        "up() {{\n    # No gateway, and no address of this machine either: what listens on it stays out of reach.\n    \
         docker network create --internal --opt com.docker.network.bridge.inhibit_ipv4=true exeat-inside\n    \
         docker network create exeat-outside\n    {} >/dev/null\n    \
         docker network connect exeat-inside exeat\n    docker start exeat >/dev/null\n",
        create.join(" \\\n        ")
    );
    if let Some(health) = health(needs)? {
        let health = health.iter().map(|part| word(part)).collect::<Vec<_>>().join(" ");
        let _infallible = write!(
            text,
            "    tries=0\n    until docker exec exeat {health} 2>/dev/null; do\n        tries=$((tries + 1))\n        \
             [ \"$tries\" -lt 30 ] || {{ docker logs exeat >&2; exit 1; }}\n        sleep 1\n    done\n"
        );
    }
    text.push_str("}\n");
    Ok(text)
}

/// A field of `--mount`, which is a line of comma-separated values (RFC 4180 §2).
fn field(name: &str, value: &str) -> String {
    let field = format!("{name}={value}");
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

fn run(needs: &Surroundings) -> String {
    let mut lines = vec![
        "docker run --rm --network exeat-inside".to_owned(),
        "--dns 127.0.0.1 --cap-drop NET_RAW --security-opt no-new-privileges".to_owned(),
    ];
    let credentials = format!("${{{}}}", variables::CREDENTIALS);
    for (name, value) in variables::variables(needs, "exeat", &credentials) {
        lines.push(format!("--env {name}=\"{value}\""));
    }
    lines.push("\"$@\"".to_owned());
    let credentials = if needs.needs_credentials {
        let name = variables::CREDENTIALS;
        format!("    # Percent-encoded.\n    : \"${{{name}:?set it to NAME:PASSWORD of a client}}\"\n")
    } else {
        String::new()
    };
    let trust = if needs.tls {
        "    # It has to trust the listener's certificate, which has to be for the name `exeat`.\n"
    } else {
        ""
    };
    format!(
        "run() {{\n{credentials}{trust}    # Names other than the proxy's are asked of a server that is not there: DNS is no way out.\n    {}\n}}\n",
        lines.join(" \\\n        ")
    )
}

const DOWN: &str = "\
down() {
    docker rm --force exeat
    docker network rm exeat-inside exeat-outside
}

case \"${1:-}\" in
    up | run | down) \"$@\" ;;
    *)
        echo \"usage: $0 up | run [OPTIONS] IMAGE [COMMAND...] | down\" >&2
        exit 2
        ;;
esac
";
