//! What two configurations allow differently, client by client: as `exeat diff` and the admin API tell it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use exeat_identity::{Clients, Principal};
use exeat_policy::{Bound, Change, PolicySet, RuleView, View, diff};
use exeat_proxy::Snapshot;
use exeat_store::Loaded;
use serde_json::{Value, json};

/// One side of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    policy: &'a PolicySet,
    clients: &'a Clients,
    anonymous: Option<&'a Principal>,
}

impl<'a> From<&'a Loaded> for Side<'a> {
    fn from(loaded: &'a Loaded) -> Self {
        Self { policy: &loaded.policy, clients: &loaded.clients, anonymous: loaded.anonymous.as_deref() }
    }
}

impl<'a> From<&'a Snapshot> for Side<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let Snapshot { policy, clients, anonymous, .. } = snapshot;
        Self { policy, clients, anonymous: anonymous.as_deref() }
    }
}

impl<'a> Side<'a> {
    /// Who there is, by name; the one without credentials comes first and cannot be mistaken for a client of the same
    /// name.
    fn principals(self) -> BTreeMap<(bool, &'a str), &'a Principal> {
        let clients = self.clients.principals().map(|p| ((true, &*p.name), &**p));
        clients.chain(self.anonymous.iter().map(|p| ((false, &*p.name), *p))).collect()
    }
}

/// Returns what the two sides allow differently, the client without credentials first, then by name. Each difference
/// is a JSON object; of a client that is on one side only, the first says so.
#[must_use]
pub fn differences(old: Side<'_>, new: Side<'_>) -> Vec<Value> {
    let nothing = Bound::default();
    let (before, after) = (old.principals(), new.principals());
    let mut everyone: Vec<_> = before.keys().chain(after.keys()).copied().collect();
    everyone.sort_unstable();
    everyone.dedup();
    // Many clients share their policies, and then what changed.
    let mut known: HashMap<(&Bound, &Bound), Arc<[Change]>> = HashMap::new();
    let mut objects = Vec::new();
    for who in everyone {
        let (was, is) = (before.get(&who), after.get(&who));
        let client = title(who);
        match (was, is) {
            (Some(_), Some(_)) => {}
            (None, _) => objects.push(json!({ "client": client, "change": "client_added" })),
            (Some(_), None) => objects.push(json!({ "client": client, "change": "client_removed" })),
        }
        let bounds = (was.map_or(&nothing, |p| &p.bound), is.map_or(&nothing, |p| &p.bound));
        let compare = || {
            let old = View { set: old.policy, bound: bounds.0 };
            diff(old, View { set: new.policy, bound: bounds.1 }).into()
        };
        let changes = known.entry(bounds).or_insert_with(compare);
        objects.extend(changes.iter().map(|change| object(&client, change)));
    }
    objects
}

fn title((client, name): (bool, &str)) -> String {
    if client { name.to_owned() } else { "(without credentials)".to_owned() }
}

fn object(client: &str, change: &Change) -> Value {
    let rule = |rule: &RuleView| json!({ "policy": rule.policy, "text": rule.text, "place": rule.place.to_string() });
    let witness = &change.witness;
    json!({
        "client": client,
        "change": change.direction.word(),
        "hosts": change.hosts.to_string(),
        "ports": change.ports.to_string(),
        "what": Some(change.what.to_string()).filter(|what| !what.is_empty()),
        "allowed_by": rule(&change.rule),
        "reason": change.reason.token(),
        "refused_by": change.refused_by.as_ref().map(rule),
        "witness": {
            "target": witness.target.to_string(),
            "addresses": witness.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "opening": witness.opening.as_ref().map(ToString::to_string),
            "beyond": witness.beyond.as_ref().map(ToString::to_string),
        },
    })
}
