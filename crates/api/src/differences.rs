//! What two configurations allow differently, client by client: as `exeat diff` and the admin API tell it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use exeat_identity::{Certificates, Clients, Issuers, Principal, Workloads};
use exeat_model::IpBlock;
use exeat_policy::{Bound, Change, Direction, PolicySet, View, diff};
use exeat_proxy::{Hops, KeySource, Snapshot};
use exeat_store::Loaded;
use schemars::JsonSchema;
use serde::Serialize;

use crate::explain::Rule;

mod issuers;

/// One side of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    policy: &'a PolicySet,
    clients: &'a Clients,
    workloads: &'a Workloads,
    certificates: &'a Certificates,
    issuers: &'a Issuers,
    key_sources: &'a [Arc<KeySource>],
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
            issuers: &loaded.issuers,
            key_sources: &loaded.key_sources,
            anonymous: loaded.anonymous.as_deref(),
            hops: &loaded.hops,
            senders: Some(&loaded.settings.proxy_protocol_from),
        }
    }
}

impl<'a> From<&'a Snapshot> for Side<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let Snapshot { policy, clients, workloads, certificates, anonymous, hops, .. } = snapshot;
        let (issuers, key_sources) = (&snapshot.issuers, &*snapshot.key_sources);
        let anonymous = anonymous.as_deref();
        Self {
            policy,
            clients,
            workloads,
            certificates,
            issuers,
            key_sources,
            anonymous,
            hops,
            senders: None,
        }
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
/// that is on one side only, the first difference says so. Then comes what no token of an issuer exceeds, and last what is
/// nobody's.
#[must_use]
pub fn differences(old: Side<'_>, new: Side<'_>) -> Vec<Difference> {
    // Many clients share their policies, and then what changed.
    #[expect(clippy::mutable_key_type, reason = "what a token lists is told apart by its address alone")]
    let mut known: HashMap<(&Bound, &Bound), Arc<[Change]>> = HashMap::new();
    let mut found = Vec::new();
    for (who, was, is) in everyone(old, new) {
        let client = title(who);
        match (was, is) {
            (Some(_), Some(_)) => {}
            (None, _) => found.push(Difference::client(&client, "client_added")),
            (Some(_), None) => found.push(Difference::client(&client, "client_removed")),
        }
        let pair = bounds(was, is);
        let changes = known.entry(pair).or_insert_with(|| changes(old, new, pair).into());
        found.extend(changes.iter().map(|change| Difference::access(&client, change)));
    }
    found.extend(issuers::differences(old, new));
    found.extend(settings(old, new));
    found
}

/// How many differences there are of what clients may reach.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// What the later side allows alone.
    pub gained: u64,
    /// What the earlier side allows alone.
    pub lost: u64,
}

/// Counts the [`differences`] of what clients may reach, without making them: with many clients they are many more than what
/// changed. `None` if there are more than `pairs_max` kinds of clients: those of one kind share their policies on both
/// sides, and what changed for them is looked for once.
#[must_use]
pub fn count(old: Side<'_>, new: Side<'_>, pairs_max: usize) -> Option<Counts> {
    #[expect(clippy::mutable_key_type, reason = "as in `differences`")]
    let mut clients: HashMap<(&Bound, &Bound), u64> = HashMap::new();
    for (_, was, is) in everyone(old, new) {
        *clients.entry(bounds(was, is)).or_default() += 1;
        if clients.len() > pairs_max {
            return None;
        }
    }
    let mut counts = Counts::default();
    for (pair, clients) in clients {
        for change in changes(old, new, pair) {
            match change.direction {
                Direction::Gained => counts.gained += clients,
                Direction::Lost => counts.lost += clients,
            }
        }
    }
    Some(counts)
}

/// A client, and who that is on either side.
type Both<'a> = ((bool, &'a str), Option<&'a Principal>, Option<&'a Principal>);

/// Who there is on either side, in the order of [`Side::principals`].
fn everyone<'a>(old: Side<'a>, new: Side<'a>) -> impl Iterator<Item = Both<'a>> {
    let (before, after) = (old.principals(), new.principals());
    let all: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    all.into_iter().map(move |who| (who, before.get(&who).copied(), after.get(&who).copied()))
}

/// What holds for a client on either side; nothing where it is not.
fn bounds<'a>(was: Option<&'a Principal>, is: Option<&'a Principal>) -> (&'a Bound, &'a Bound) {
    static NOTHING: LazyLock<Bound> = LazyLock::new(Bound::default);
    (was.map_or(&*NOTHING, |principal| &principal.bound), is.map_or(&*NOTHING, |principal| &principal.bound))
}

fn changes(old: Side<'_>, new: Side<'_>, (was, is): (&Bound, &Bound)) -> Vec<Change> {
    diff(View { set: old.policy, bound: was }, View { set: new.policy, bound: is })
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
    /// Which; `(without credentials)` for those who send none, `(tokens of NAME)` for an issuer's.
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
    /// Its place in the configuration: `next_hop.NAME`, `issuer.NAME`, or `proxy.proxy_protocol_from`, which takes effect at a
    /// restart.
    setting: String,
    /// What about it: of a next hop `protocol`, `TLS`, `credentials` or `proxy_protocol`; of an issuer a key of its section,
    /// and each key of its set that came (`+key NAME`) or went (`-key NAME`); of the senders of PROXY headers each that came
    /// (`+`) or went (`-`).
    what: String,
}

/// What one client may reach on one side only.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AccessDifference {
    /// Whose; `(without credentials)` for those who send none, `(tokens of NAME)` for what no token of an issuer exceeds.
    client: String,
    /// Whether the later side allows it, or the earlier one did.
    #[schemars(extend("enum" = ["gained", "lost"]))]
    change: &'static str,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use exeat_policy::Revision;
    use exeat_store::{Options, load_text};

    use super::*;

    /// `clients` of one policy, and one with a policy of its own that is bound to it by its label.
    fn document(clients: std::ops::Range<usize>, shared: &str, own: &str) -> Loaded {
        let hash = format!("sha256:{}", "0".repeat(64));
        let mut text = format!(
            "[policy.shared]\nallow = [{shared}]\n[policy.own]\nallow = [{own}]\nbind = {{ app = \"odd\" }}\n\
             [client.odd]\npasswords = [\"{hash}\"]\npolicies = [\"shared\"]\nlabels = {{ app = \"odd\" }}\n"
        );
        for number in clients {
            text += &format!("[client.c{number}]\npasswords = [\"{hash}\"]\npolicies = [\"shared\"]\n");
        }
        load_text("t.toml", &text, Path::new(""), &Options::new(Revision(1))).expect("a good document")
    }

    #[test]
    fn what_is_counted_is_what_is_listed() {
        let old = document(0..5, "\"a.example.com\", \"b.example.com\"", "\"own.example.com\"");
        for (name, new, want) in [
            (
                "the same",
                document(0..5, "\"a.example.com\", \"b.example.com\"", "\"own.example.com\""),
                (0, 0),
            ),
            (
                "one more, one less",
                document(0..5, "\"a.example.com\", \"c.example.com\"", "\"own.example.com\""),
                (6, 6),
            ),
            (
                "of one alone",
                document(0..5, "\"a.example.com\", \"b.example.com\"", "\"new.example.com\""),
                (1, 1),
            ),
            (
                "clients come and go",
                document(2..9, "\"a.example.com\", \"b.example.com\"", "\"own.example.com\""),
                (8, 4),
            ),
        ] {
            let (old, new) = (Side::from(&old), Side::from(&new));
            let listed = differences(old, new);
            let of = |word| {
                let is_it = |difference: &&Difference| matches!(difference, Difference::Access(access) if access.change == word);
                listed.iter().filter(is_it).count() as u64
            };
            let counts = count(old, new, 4).expect("no more than four kinds");
            assert_eq!((counts.gained, counts.lost), want, "{name}");
            assert_eq!((of("gained"), of("lost")), want, "{name}");
        }
    }

    #[test]
    fn too_many_kinds_are_not_counted() {
        let (old, new) = (document(0..5, "\"a.example.com\"", ""), document(0..5, "\"b.example.com\"", ""));
        let (old, new) = (Side::from(&old), Side::from(&new));
        assert_eq!(count(old, new, 2), Some(Counts { gained: 6, lost: 6 }));
        assert_eq!(count(old, new, 1), None);
    }
}
