//! `/v1/firewall`: what names have opened in the kernel, for whom and for how long.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_firewall::{Firewall, OpenedView};
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
    /// Whether the rules of what decides now are in force.
    is_in_force: bool,
    /// By client, then by name. At most 10,000.
    opened: Vec<One>,
    /// Entries beyond those.
    left_out: usize,
}

/// What one name has opened of one address for one client.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OpenedName")]
struct One {
    /// The client that asked.
    client: String,
    /// The name it asked for.
    name: String,
    /// An address of that.
    address: String,
    /// `tcp/443`, `udp/5000-5010`.
    ports: Vec<String>,
    /// Those of them whose connections go through the proxy, which looks at what opens them; all others go straight.
    relayed: Vec<String>,
    /// Until it ends, if nothing uses it before: of one address as the kernel says, else at least. 0 if it has ended.
    remaining_seconds: u64,
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
        Some(address) => firewall
            .why(address.to_canonical())
            .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?,
        None => firewall.opened(),
    };
    found.sort_unstable_by(|a, b| (a.client, &a.name, a.address).cmp(&(b.client, &b.name, b.address)));
    let left_out = found.len().saturating_sub(OPENED_MAX);
    found.truncate(OPENED_MAX);
    Ok(Opened {
        devices: firewall.devices().map(str::to_owned).collect(),
        is_in_force: firewall.is_in_force(),
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
        }
    }
}
