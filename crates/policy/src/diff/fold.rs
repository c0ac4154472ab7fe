//! From findings to what is shown: what a wider finding of the same rule says already is left
//! out, and every witness is put to the engine once more.

use std::net::IpAddr;

use exeat_model::{Authority, Host, NamePattern, Port, PortSet};
use hashbrown::HashMap;

use super::compare::Finding;
use super::conditions::refuses;
use super::probe::Half;
use super::{Change, Direction, Hosts, Pair, What, Witness};
use crate::entry::Destination;
use crate::rule::{At, RuleId};
use crate::transports::Transports;

/// Puts findings in order and into words.
pub(super) fn changes(pair: &Pair<'_>, findings: Vec<Finding>) -> Vec<Change> {
    let mut generic: HashMap<(Direction, RuleId, What), PortSet> = HashMap::new();
    for finding in findings.iter().filter(|f| is_generic(allower(pair, f.direction), f)) {
        let key = (finding.direction, finding.rule, finding.what.clone());
        let ports = generic.entry(key).or_insert_with(|| PortSet::from_ranges([]));
        *ports = PortSet::from_ranges(ports.iter().chain(finding.ports.iter().copied()));
    }
    let folded = |finding: &Finding| {
        let key = (finding.direction, finding.rule, finding.what.clone());
        let covered = |ports: &PortSet| {
            finding
                .ports
                .iter()
                .all(|range| ports.iter().any(|p| p.contains(range.first()) && p.contains(range.last())))
        };
        !is_generic(allower(pair, finding.direction), finding) && generic.get(&key).is_some_and(covered)
    };
    let mut shown: Vec<Change> =
        findings.iter().filter(|f| !folded(f)).filter_map(|finding| change(pair, finding)).collect();
    shown.sort_by(|a, b| {
        let order = |c: &Change| (c.direction, c.rule.place.clone(), c.hosts.clone(), c.what.clone());
        order(a).cmp(&order(b)).then_with(|| a.ports.iter().cmp(b.ports.iter()))
    });
    shown
}

fn allower<'a>(pair: &Pair<'a>, direction: Direction) -> Half<'a> {
    match direction {
        Direction::Gained => pair.new,
        Direction::Lost => pair.old,
    }
}

fn refuser<'a>(pair: &Pair<'a>, direction: Direction) -> Half<'a> {
    match direction {
        Direction::Gained => pair.old,
        Direction::Lost => pair.new,
    }
}

/// Whether the finding is of all that its rule speaks of, and not of a part that something
/// narrower mentions.
fn is_generic(view: Half<'_>, finding: &Finding) -> bool {
    let destination = match finding.rule.at {
        At::Report => return finding.hosts == Hosts::Public,
        At::Metadata(_) => return false,
        At::Entry { side, list, entry } => {
            let list = view.set.owner(finding.rule.owner).and_then(|o| o.lists(side).get(list as usize));
            list.and_then(|list| list.list().entry(entry)).map(|entry| entry.destination)
        }
    };
    match (destination, &finding.hosts) {
        (Some(Destination::Name(NamePattern::Subdomains(parent))), Hosts::Below(below)) => parent == *below,
        (Some(Destination::Name(NamePattern::Exact(own))), Hosts::Name(name)) => own == *name,
        (Some(Destination::AnyPublic), Hosts::Public) => true,
        _ => false,
    }
}

/// The change that a finding is, if the engine confirms it.
fn change(pair: &Pair<'_>, finding: &Finding) -> Option<Change> {
    let (allows, refuses) = (allower(pair, finding.direction), refuser(pair, finding.direction));
    let ports = PortSet::from_ranges(finding.ports.iter().copied());
    let witness = witness(allows, refuses, finding, &ports)?;
    Some(Change {
        direction: finding.direction,
        hosts: finding.hosts.clone(),
        transport: Transports::Only(allows.transport),
        ports,
        what: finding.what.clone(),
        rule: allows.set.rule(finding.rule)?,
        reason: finding.refused.reason,
        refused_by: finding.refused.rule.and_then(|rule| refuses.set.rule(rule)),
        witness,
    })
}

/// A request that the one side allows and the other refuses, on a port that people know if
/// possible.
fn witness(allows: Half<'_>, refuses: Half<'_>, finding: &Finding, ports: &PortSet) -> Option<Witness> {
    let known = [Port::HTTPS, Port::HTTP].into_iter().filter(|&port| ports.contains(port));
    let witnesses = known.chain([finding.port]).map(|port| Witness {
        target: Authority { host: finding.host.clone(), port },
        addrs: finding.addrs.clone(),
        opening: finding.opening.clone(),
        beyond: match &finding.what {
            What::Beyond(cap) => Some(*cap),
            What::Target
            | What::At(_)
            | What::AtPublic
            | What::MixedAnswers
            | What::OpenedBy(_)
            | What::LeavesBy(_)
            | What::Announcing(_) => None,
        },
    });
    witnesses.into_iter().find(|witness| match &finding.what {
        What::LeavesBy(way) => {
            let other = refuses.way(&witness.target);
            allows.way(&witness.target).as_ref() == Some(way) && other.is_some_and(|other| other != *way)
        }
        What::Announcing(announce) => {
            let said =
                |view: Half<'_>| view.permit(&witness.target, &own_addresses(witness)).ok()?.announce();
            said(allows) == Some(*announce) && said(refuses).is_some_and(|other| other != *announce)
        }
        What::Target
        | What::At(_)
        | What::AtPublic
        | What::MixedAnswers
        | What::OpenedBy(_)
        | What::Beyond(_) => is_allowed(allows, witness) && !is_allowed(refuses, witness),
    })
}

/// The addresses that the target of a witness stands for.
fn own_addresses(witness: &Witness) -> Vec<IpAddr> {
    match &witness.target.host {
        Host::Address(ip) => vec![ip.get()],
        Host::Name(_) => witness.addrs.clone(),
    }
}

/// Asks the engine.
fn is_allowed(view: Half<'_>, witness: &Witness) -> bool {
    if witness.addrs.is_empty() && matches!(witness.target.host, Host::Name(_)) {
        return view.target(&witness.target).is_ok();
    }
    view.permit(&witness.target, &own_addresses(witness)).is_ok_and(|permit| {
        witness.opening.as_ref().is_none_or(|opening| refuses(permit.opening(), opening).is_none())
            && witness.beyond.is_none_or(|cap| !permit.caps().end_beyond(cap))
    })
}
