//! What two configurations allow differently, client by client: as `exeat diff` and the admin API tell it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use exeat_identity::{Certificates, Clients, Principal, Workloads};
use exeat_model::IpBlock;
use exeat_policy::{Bound, Change, Direction, PolicySet, View, diff};
use exeat_proxy::{Hops, Snapshot};
use exeat_store::Loaded;
use schemars::JsonSchema;
use serde::Serialize;

use crate::explain::Rule;

/// One side of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    policy: &'a PolicySet,
    clients: &'a Clients,
    workloads: &'a Workloads,
    certificates: &'a Certificates,
    anonymous: Option<&'a Principal>,
    hops: &'a Hops,
    /// Whose PROXY header is believed, if that is known.
    senders: Option<&'a [IpBlock]>,
}

impl<'a> From<&'a Loaded> for Side<'a> {
    fn from(loaded: &'a Loaded) -> Self {
        Self {
            policy: &loaded.policy,
            clients: &loaded.clients,
            workloads: &loaded.workloads,
            certificates: &loaded.certificates,
            anonymous: loaded.anonymous.as_deref(),
            hops: &loaded.hops,
            senders: Some(&loaded.settings.proxy_protocol_from),
        }
    }
}

impl<'a> From<&'a Snapshot> for Side<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let Snapshot { policy, clients, workloads, certificates, anonymous, hops, .. } = snapshot;
        let anonymous = anonymous.as_deref();
        Self { policy, clients, workloads, certificates, anonymous, hops, senders: None }
    }
}

impl<'a> Side<'a> {
    /// Says whose PROXY header is believed, which no snapshot knows.
    #[must_use]
    pub fn with_senders(self, senders: &'a [IpBlock]) -> Self {
        Self { senders: Some(senders), ..self }
    }

    /// Who there is, by name; the one without credentials comes first and cannot be mistaken for a client of the same
    /// name.
    fn principals(self) -> BTreeMap<(bool, &'a str), &'a Principal> {
        let named = self
            .clients
            .principals()
            .chain(self.workloads.principals())
            .chain(self.certificates.principals());
        let clients = named.map(|p| ((true, &*p.name), &**p));
        clients.chain(self.anonymous.iter().map(|p| ((false, &*p.name), *p))).collect()
    }
}

/// Returns what the two sides allow differently, the client without credentials first, then by name. Of a client
/// that is on one side only, the first difference says so. What is not a client's comes last.
#[must_use]
pub fn differences(old: Side<'_>, new: Side<'_>) -> Vec<Difference> {
    let nothing = Bound::default();
    let (before, after) = (old.principals(), new.principals());
    let mut everyone: Vec<_> = before.keys().chain(after.keys()).copied().collect();
    everyone.sort_unstable();
    everyone.dedup();
    // Many clients share their policies, and then what changed.
    #[expect(clippy::mutable_key_type, reason = "what a token lists is told apart by its address alone")]
    let mut known: HashMap<(&Bound, &Bound), Arc<[Change]>> = HashMap::new();
    let mut found = Vec::new();
    for who in everyone {
        let (was, is) = (before.get(&who), after.get(&who));
        let client = title(who);
        match (was, is) {
            (Some(_), Some(_)) => {}
            (None, _) => found.push(Difference::client(&client, "client_added")),
            (Some(_), None) => found.push(Difference::client(&client, "client_removed")),
        }
        let bounds = (was.map_or(&nothing, |p| &p.bound), is.map_or(&nothing, |p| &p.bound));
        let compare = || {
            let old = View { set: old.policy, bound: bounds.0 };
            diff(old, View { set: new.policy, bound: bounds.1 }).into()
        };
        let changes = known.entry(bounds).or_insert_with(compare);
        found.extend(changes.iter().map(|change| Difference::access(&client, change)));
    }
    found.extend(settings(old, new));
    found
}

/// What is different that no client's policy speaks of: how next hops are spoken to, and whose PROXY header is believed.
/// A hop of another name, or at another place, is another way out of the policies that use it.
fn settings(old: Side<'_>, new: Side<'_>) -> Vec<Difference> {
    let mut found = Vec::new();
    let names: BTreeSet<&Arc<str>> = new.hops.keys().collect();
    for name in names {
        let (Some(before), Some(after)) = (old.hops.get(name), new.hops.get(name)) else { continue };
        let setting = format!("next_hop.{name}");
        found.extend(after.changed_since(before).into_iter().map(|what| Difference::setting(&setting, what)));
    }
    let senders = |side: Side<'_>| side.senders.map(|blocks| blocks.iter().copied().collect::<BTreeSet<_>>());
    if let (Some(before), Some(after)) = (senders(old), senders(new)) {
        let gone = before.difference(&after).map(|block| format!("-{block}"));
        let came = after.difference(&before).map(|block| format!("+{block}"));
        let all = came.chain(gone);
        found.extend(all.map(|what| Difference::setting("proxy.proxy_protocol_from", &what)));
    }
    found
}

fn title((client, name): (bool, &str)) -> String {
    if client { name.to_owned() } else { "(without credentials)".to_owned() }
}

/// One difference.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Difference {
    /// Of a client that is on one side only.
    Client(ClientDifference),
    /// Of what a client may reach.
    Access(Box<AccessDifference>),
    /// Of what is not a client's.
    Setting(SettingDifference),
}

/// A client that is on one side only.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ClientDifference {
    /// Which; `(without credentials)` for those who send none.
    client: String,
    /// On which side.
    #[schemars(extend("enum" = ["client_added", "client_removed"]))]
    change: &'static str,
}

/// A setting that is different, whoever asks.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SettingDifference {
    /// That it is different.
    #[schemars(extend("enum" = ["changed"]))]
    change: &'static str,
    /// Its place in the configuration: `next_hop.NAME`, or `proxy.proxy_protocol_from`, which takes effect at a restart.
    setting: String,
    /// What about it: of a next hop `protocol`, `TLS`, `credentials` or `proxy_protocol`, of the senders of PROXY headers
    /// each that came (`+`) or went (`-`).
    what: String,
}

/// What one client may reach on one side only.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AccessDifference {
    /// Whose; `(without credentials)` for those who send none.
    client: String,
    /// Whether the later side allows it, or the earlier one did.
    #[schemars(extend("enum" = ["gained", "lost"]))]
    change: &'static str,
    #[serde(skip)]
    direction: Direction,
    /// The destinations: a name, `*.` and a name, `@any-public`, a network, or `allowed names`.
    hosts: String,
    /// The ports.
    ports: String,
    /// What carries the connections.
    #[schemars(extend("enum" = ["tcp", "udp", "any"]))]
    transport: &'static str,
    /// Which part of it: addresses that a name may lead to, what may open the connection, the way that it leaves by, or
    /// the PROXY header that it begins with. Null for all of it.
    what: Option<String>,
    /// The rule that allows it.
    allowed_by: Rule,
    /// Why the other side refuses it. Of another way out, `policy_changed`, which ends connections that took the old one;
    /// of another PROXY header, too, which ends none.
    reason: &'static str,
    /// The rule of the other side.
    refused_by: Option<Rule>,
    /// A request to see it with.
    witness: Witness,
}

/// A request to see a difference with.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Witness {
    /// The target.
    target: String,
    /// What the name resolves to; empty if the target alone tells.
    addresses: Vec<String>,
    /// How the connection opens, if that tells.
    opening: Option<String>,
    /// What the flow goes beyond, if that tells.
    beyond: Option<String>,
}

impl Difference {
    /// Which side allows more, of what a client may reach.
    #[must_use]
    pub fn direction(&self) -> Option<Direction> {
        match self {
            Self::Client(_) | Self::Setting(_) => None,
            Self::Access(difference) => Some(difference.direction),
        }
    }

    fn client(client: &str, change: &'static str) -> Self {
        Self::Client(ClientDifference { client: client.to_owned(), change })
    }

    fn setting(setting: &str, what: &str) -> Self {
        Self::Setting(SettingDifference {
            change: "changed",
            setting: setting.to_owned(),
            what: what.to_owned(),
        })
    }

    fn access(client: &str, change: &Change) -> Self {
        let witness = &change.witness;
        Self::Access(Box::new(AccessDifference {
            client: client.to_owned(),
            change: change.direction.word(),
            direction: change.direction,
            hosts: change.hosts.to_string(),
            ports: change.ports.to_string(),
            transport: change.transport.word(),
            what: Some(change.what.to_string()).filter(|what| !what.is_empty()),
            allowed_by: change.rule.clone().into(),
            reason: change.reason.token(),
            refused_by: change.refused_by.clone().map(Rule::from),
            witness: Witness {
                target: witness.target.to_string(),
                addresses: witness.addrs.iter().map(ToString::to_string).collect(),
                opening: witness.opening.as_ref().map(ToString::to_string),
                beyond: witness.beyond.as_ref().map(ToString::to_string),
            },
        }))
    }
}
