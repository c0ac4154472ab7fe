//! `/v1/firewall`: what names have opened in the kernel, for whom and for how long.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_firewall::{Count, Firewall, FirewallError, OpenedView};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{admin::Admin, error::Failure};

/// Entries of one answer, at about 150 bytes each.
const OPENED_MAX: usize = 10_000;

/// What is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// An address of a client or of a destination: what is open for it or there, as the kernel has it.
    address: Option<String>,
}

/// What names have opened.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Opened {
    /// The devices whose clients are held to the policy.
    devices: Vec<String>,
    /// The control groups of this host whose processes are.
    groups: Vec<String>,
    /// Where clients of the devices are led with what they ask for names.
    name_servers: Vec<NameServer>,
    /// Whether the rules of what decides now are in force.
    is_in_force: bool,
    /// What the rules have counted.
    counters: Vec<Counter>,
    /// By client, then by name. At most 10,000.
    opened: Vec<One>,
    /// Entries beyond those.
    left_out: usize,
}

/// A name server that clients are led to.
#[derive(Debug, Serialize, JsonSchema)]
struct NameServer {
    /// Its address and port.
    address: String,
    /// Whether it is this program; else it is one that is heard of by dnstap.
    is_ours: bool,
}

/// What rules have counted since they were set first: of flows that they let through, the first packets.
#[derive(Debug, Serialize, JsonSchema)]
struct Counter {
    /// `allowed`, `refused`, `relayed` for connections that go through the proxy, or `spoofed` for sources that are not the
    /// sender's own.
    name: String,
    /// How many packets.
    packets: u64,
    /// With the headers of IP.
    bytes: u64,
}

/// What one name has opened of one address for one client.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OpenedName")]
struct One {
    /// The client that asked: an address, or `cgroup:` and the path of a control group of this host.
    client: String,
    /// The name it asked for.
    name: String,
    /// An address of that.
    address: String,
    /// `tcp/443`, `udp/5000-5010`.
    ports: Vec<String>,
    /// Those of them whose connections go through the proxy, which looks at what opens them; all others go straight.
    relayed: Vec<String>,
    /// Until it ends, if nothing uses it before. 0 if it has ended.
    remaining_seconds: u64,
    /// Packets that the client has sent there because of any name, since that is open; none with `counters = false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
    /// Their bytes, with the headers of IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

pub(crate) async fn get(
    State(admin): State<Admin>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Opened>, Failure> {
    let Query(which) = query.map_err(|error| Failure::request(error.body_text()))?;
    let Some(firewall) = admin.firewall else {
        let failure = Failure::new(StatusCode::NOT_FOUND, "there is no firewall");
        return Err(failure.help("write [firewall] in the configuration, or run `exeat firewall attach`"));
    };
    let address = which.address.map(|text| text.parse::<IpAddr>());
    let address = address.transpose().map_err(|_| Failure::request("`address` is not an IP address"))?;
    let work = move || opened(&firewall, address);
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the work was given up"))?;
    done.map(Json)
}

fn opened(firewall: &Arc<Firewall>, address: Option<IpAddr>) -> Result<Opened, Failure> {
    let mut found = match address {
        Some(address) => firewall.opened_at(address.to_canonical()),
        None => firewall.opened(),
    };
    found.sort_unstable_by(|a, b| (&a.client, &a.name, a.address).cmp(&(&b.client, &b.name, b.address)));
    let left_out = found.len().saturating_sub(OPENED_MAX);
    found.truncate(OPENED_MAX);
    let failed = |error: FirewallError| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    firewall.count(&mut found).map_err(failed)?;
    let counters = firewall.counters().map_err(failed)?.into_iter();
    let counter = |(name, Count { packets, bytes })| Counter { name, packets, bytes };
    Ok(Opened {
        devices: firewall.devices().map(str::to_owned).collect(),
        groups: firewall.groups().map(str::to_owned).collect(),
        name_servers: firewall
            .name_servers()
            .map(|(address, is_ours)| NameServer { address: address.to_string(), is_ours })
            .collect(),
        is_in_force: firewall.is_in_force(),
        counters: counters.map(counter).collect(),
        opened: found.iter().map(One::from).collect(),
        left_out,
    })
}

impl From<&OpenedView> for One {
    fn from(view: &OpenedView) -> Self {
        Self {
            client: view.client.to_string(),
            name: view.name.to_string(),
            address: view.address.to_string(),
            ports: view.ports.iter().map(|(transport, ports)| format!("{transport}/{ports}")).collect(),
            relayed: view.relayed.iter().map(|(transport, ports)| format!("{transport}/{ports}")).collect(),
            remaining_seconds: view.remaining.as_secs(),
            packets: view.count.map(|count| count.packets),
            bytes: view.count.map(|count| count.bytes),
        }
    }
}
