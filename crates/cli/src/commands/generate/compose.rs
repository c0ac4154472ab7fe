//! A compose file with the proxy and a workload.

use exeat_store::{CONTAINER_USER, Surroundings};
use serde_json::{Map, Value, json};

use super::{COMMAND, Generated, comment, folders, grace_seconds, health, mounts, variables, yaml};
use crate::args::GenerateArgs;

const HEAD: &str = "\
Made by `exeat generate compose`. A workload that can reach the proxy and nothing else:

  WORKLOAD_IMAGE=… docker compose up --detach
  WORKLOAD_IMAGE=… docker compose run --rm workload COMMAND…

The inner network has no gateway, no address of this machine, and no name server that knows more than its services.
Services of one inner network reach each other: give each workload a network of its own, with the proxy in it. A workload
that may talk to Docker, or that is given another network, a published port or `privileged`, has other ways out.
";

const CREDENTIALS: &str = "
EXEAT_CREDENTIALS is NAME:PASSWORD of a client, percent-encoded. It comes from the environment or from `.env`.
";

const TLS: &str = "
The workload has to trust the certificate of the listener, which has to be for the name `exeat`.
";

pub(super) fn files(args: &GenerateArgs, needs: &Surroundings) -> anyhow::Result<Vec<Generated>> {
    let mut head = HEAD.to_owned();
    head.push_str(if needs.needs_credentials { CREDENTIALS } else { "" });
    head.push_str(if needs.tls { TLS } else { "" });
    let file = json!({
        "services": { "exeat": proxy(args, needs)?, "workload": workload(needs) },
        "networks": {
            // Without an address of this machine, what listens on it stays out of reach, too.
            "inside": {
                "internal": true,
                "driver_opts": { "com.docker.network.bridge.inhibit_ipv4": "true" },
            },
            "outside": {},
        },
    });
    let text = comment(&head) + &yaml::document(&file)?;
    Ok(vec![Generated { name: "compose.yaml", text, is_remark: false }])
}

fn proxy(args: &GenerateArgs, needs: &Surroundings) -> anyhow::Result<Value> {
    let owner = format!("uid={CONTAINER_USER},gid={CONTAINER_USER},mode=0700");
    let volumes = mounts(needs)?.into_iter().map(|(source, target)| {
        json!({ "type": "bind", "source": verbatim(&source), "target": verbatim(&target), "read_only": true })
    });
    let mut service = json!({
        "image": args.image,
        "command": COMMAND,
        "user": format!("{CONTAINER_USER}:{CONTAINER_USER}"),
        "read_only": true,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "stop_grace_period": format!("{}s", grace_seconds(needs)),
        "networks": ["inside", "outside"],
        "volumes": volumes.collect::<Vec<_>>(),
    });
    let folders = folders(needs)?;
    if let Value::Object(service) = &mut service {
        if !folders.is_empty() {
            let tmpfs = folders.iter().map(|folder| format!("{}:{owner}", verbatim(folder)));
            service.insert("tmpfs".to_owned(), tmpfs.collect());
        }
        if let Some(health) = health(needs)? {
            let test = ["CMD".to_owned()].into_iter().chain(health.iter().map(|part| verbatim(part)));
            let test: Vec<String> = test.collect();
            let check = json!({ "test": test, "interval": "10s", "timeout": "5s", "start_period": "5s" });
            service.insert("healthcheck".to_owned(), check);
        }
    }
    Ok(service)
}

fn workload(needs: &Surroundings) -> Value {
    let credentials = format!("${{{}:?set it to NAME:PASSWORD of a client}}", variables::CREDENTIALS);
    let variables = variables::variables(needs, "exeat", &credentials).into_iter();
    let environment: Map<String, Value> =
        variables.map(|(name, value)| (name.to_owned(), value.into())).collect();
    let condition = if needs.socket.is_some() { "service_healthy" } else { "service_started" };
    json!({
        "image": "${WORKLOAD_IMAGE:?set it to the image of the workload}",
        "environment": environment,
        "networks": ["inside"],
        // Docker's own name server answers for `exeat`; what it does not know, it asks of a server that is not there.
        "dns": ["127.0.0.1"],
        "cap_drop": ["NET_RAW"],
        "security_opt": ["no-new-privileges:true"],
        "depends_on": { "exeat": { "condition": condition } },
    })
}

/// A text in which compose puts no variables.
fn verbatim(text: &str) -> String {
    text.replace('$', "$$")
}
