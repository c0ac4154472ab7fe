//! What is different about tokens: whose count, and what none of an issuer's exceeds.

use std::collections::BTreeMap;

use exeat_identity::IssuerSpec;
use exeat_policy::{Bound, Labels, PolicySet, TokenTerms, View, diff};

use super::{Difference, Side};

/// Returns what is different, issuer by issuer. What a single token may reach is within this: its own list and its labels
/// are known when it is shown.
pub(super) fn differences(old: Side<'_>, new: Side<'_>) -> Vec<Difference> {
    let (before, after) = (by_name(old), by_name(new));
    let mut names: Vec<&str> = before.keys().chain(after.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let (was, is) = (before.get(name).copied(), after.get(name).copied());
        let tokens = format!("(tokens of {name})");
        match (was, is) {
            (Some(was), Some(is)) => found.extend(settings(name, (old, was), (new, is))),
            (None, _) => found.push(Difference::client(&tokens, "client_added")),
            (Some(_), None) => found.push(Difference::client(&tokens, "client_removed")),
        }
        found.extend(access(&tokens, (old, was.map(ceiling)), (new, is.map(ceiling))));
        let limits = [(old, was), (new, is)].map(|(side, spec)| (side, spec.and_then(limits)));
        if let [(_, Some(_)), (_, Some(_))] = &limits {
            let [old, new] = limits;
            found.extend(access(&format!("(policies for tokens of {name})"), old, new));
        }
    }
    found
}

fn by_name<'a>(side: Side<'a>) -> BTreeMap<&'a str, &'a IssuerSpec> {
    side.issuers.all().map(|spec| (&*spec.name, spec)).collect()
}

fn settings(
    name: &str,
    (old, was): (Side<'_>, &IssuerSpec),
    (new, is): (Side<'_>, &IssuerSpec),
) -> Vec<Difference> {
    let setting = format!("issuer.{name}");
    let mut changed: Vec<String> = is.changed_since(was).into_iter().map(str::to_owned).collect();
    let source = |side: Side<'_>| side.key_sources.iter().find(|source| source.issuer() == name).cloned();
    match (source(old), source(new)) {
        (None, None) => changed.extend(is.keys_since(was)),
        // Which keys there are is known to the running proxy, and changes without a word here.
        (Some(before), Some(after)) if after.is_same_as(&before) => {}
        (Some(_), Some(_)) | (None, Some(_)) | (Some(_), None) => changed.push("jwks".to_owned()),
    }
    changed.iter().map(|what| Difference::setting(&setting, what)).collect()
}

/// What binds every token of an issuer.
type Binds<'s> = Box<dyn Fn(&PolicySet) -> Bound + 's>;

/// The ceiling alone.
fn ceiling(spec: &IssuerSpec) -> Binds<'_> {
    Box::new(|set| {
        let terms = TokenTerms {
            ceiling: &spec.ceiling,
            policies: &[],
            policy: None,
            hosts: None,
            class: None,
            via_next_hop: false,
        };
        set.bind_token(&terms, &Labels::default()).unwrap_or_default()
    })
}

/// The policies of which one must allow a request too, if there are any.
fn limits(spec: &IssuerSpec) -> Option<Binds<'_>> {
    let names: Vec<&str> = spec.policies.iter().map(String::as_str).collect();
    (!names.is_empty())
        .then(|| Box::new(move |set: &PolicySet| set.bind(&names, &Labels::default())) as Binds<'_>)
}

fn access(
    title: &str,
    (old, before): (Side<'_>, Option<Binds<'_>>),
    (new, after): (Side<'_>, Option<Binds<'_>>),
) -> Vec<Difference> {
    let bound = |side: Side<'_>, binds: Option<Binds<'_>>| {
        binds.map_or_else(Bound::default, |binds| binds(side.policy))
    };
    let (before, after) = (bound(old, before), bound(new, after));
    let changes = diff(View { set: old.policy, bound: &before }, View { set: new.policy, bound: &after });
    changes.iter().map(|change| Difference::access(title, change)).collect()
}
