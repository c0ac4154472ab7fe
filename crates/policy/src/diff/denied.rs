//! Deny networks that differ: they also stop names that both sides allow, where those resolve
//! into them.

use std::net::IpAddr;

use exeat_model::{Authority, CanonicalIp, Host, IpBlock, PortRange, PortSet, class_boundaries, partition};

use super::compare::{Carrier, Finding};
use super::join::Joiner;
use super::probe::Half;
use super::{Direction, Hosts, Pair, What};
use crate::cuts::Cuts;
use crate::decide::{Denial, each_denying_network, owners};
use crate::reason::Reason;
use crate::rule::ListSide;
use crate::set::Mode;

/// Compares where allowed names may lead, as far as deny networks tell. The first carrier that
/// can lead into a network witnesses for all; a network that none can lead into is no change.
pub(super) fn addresses(pair: &Pair<'_>, carriers: &[Carrier]) -> Vec<Finding> {
    let mut joiner = Joiner::default();
    if pair.deny_edges.is_empty() {
        return Vec::new();
    }
    for block in partition(starts(pair)) {
        let ip = block.first();
        let (old, new) = (denies(&pair.old, ip), denies(&pair.new, ip));
        let found = if old == new { Vec::new() } else { changed(pair, carriers, &block, &old, &new) };
        joiner.add(&block, found);
    }
    joiner.finish()
}

/// Where anything about an address that a name resolves to can change.
fn starts(pair: &Pair<'_>) -> Vec<IpAddr> {
    let mut starts = pair.deny_edges.clone();
    starts.extend(class_boundaries());
    for list in pair.views().into_iter().flat_map(|view| view.lists(ListSide::Allow)) {
        let own = list.list().all_settings().iter().map(|settings| &settings.own);
        let blocks = own.chain([list.outer()]).flat_map(|defaults| defaults.addresses.iter().flatten());
        starts.extend(blocks.flat_map(IpBlock::edges));
    }
    starts
}

/// What the deny networks of one side say of an address: who, and on which ports.
type Denies<'a> = Vec<(Mode, Option<&'a PortSet>)>;

fn denies<'a>(view: &Half<'a>, ip: IpAddr) -> Denies<'a> {
    let mut found = Denies::new();
    for (_, owner) in owners(view.set, view.bound) {
        for list in owner.lists(ListSide::Deny) {
            each_denying_network(list.list(), CanonicalIp::new(ip), |entry| {
                let terms = list.terms(entry);
                let denies = (owner.mode, terms.ports);
                if terms.transport.is_none_or(|t| t.contains(view.transport)) && !found.contains(&denies) {
                    found.push(denies);
                }
            });
        }
    }
    found
}

/// Whether a port is denied, by enforcing and by watching policies.
fn status(denies: &Denies<'_>, range: PortRange) -> [bool; 2] {
    [Mode::Enforce, Mode::Report].map(|mode| {
        denies.iter().any(|(by, ports)| *by == mode && ports.is_none_or(|p| p.contains(range.first())))
    })
}

fn changed(
    pair: &Pair<'_>,
    carriers: &[Carrier],
    block: &IpBlock,
    old: &Denies<'_>,
    new: &Denies<'_>,
) -> Vec<Finding> {
    let mut cuts = Cuts::default();
    old.iter().chain(new).for_each(|(_, ports)| cuts.at(*ports));
    let mut found: Vec<Finding> = Vec::new();
    for range in cuts.pieces().into_iter().filter(|&range| status(old, range) != status(new, range)) {
        // A deny that comes or goes works one way for all names; one that only watches may not.
        let watching = [status(old, range), status(new, range)].iter().any(|[_, watching]| *watching);
        let mut directions = vec![Direction::Gained, Direction::Lost];
        for carrier in carriers {
            let Some(mut finding) = witness(pair, carrier, block, range, &directions) else { continue };
            directions.retain(|direction| *direction != finding.direction);
            let same =
                found.iter_mut().find(|f| f.direction == finding.direction && f.refused == finding.refused);
            match same {
                Some(same) => same.ports.push(range),
                None => {
                    finding.ports.push(range);
                    found.push(finding);
                }
            }
            if !watching || directions.is_empty() {
                break;
            }
        }
    }
    found
}

/// Puts one name that leads to the block to both sides, at a port in the range.
fn witness(
    pair: &Pair<'_>,
    carrier: &Carrier,
    block: &IpBlock,
    range: PortRange,
    directions: &[Direction],
) -> Option<Finding> {
    let ip = block.first();
    let ports = carrier.ranges.iter().map(|own| own.first().max(range.first()));
    let ports = ports.zip(&carrier.ranges).filter(|(port, own)| own.contains(*port) && range.contains(*port));
    for (port, _) in ports {
        let host = Host::Name(carrier.name.clone());
        let target = Authority { host: host.clone(), port };
        let (old, new) = (pair.old.permit(&target, &[ip]), pair.new.permit(&target, &[ip]));
        let (direction, rule, refuser) = match (old, new) {
            (Err(_), Ok(permit)) => (Direction::Gained, permit.rule(), &pair.old),
            (Ok(permit), Err(_)) => (Direction::Lost, permit.rule(), &pair.new),
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => continue,
        };
        if !directions.contains(&direction) {
            continue;
        }
        let refused = Denial { reason: Reason::AddressNotAllowed, rule: refuser.denied(&target, ip) };
        return Some(Finding {
            direction,
            hosts: Hosts::AllowedNames,
            ports: Vec::new(),
            what: What::At(*block),
            rule,
            refused,
            host,
            port,
            addrs: vec![ip],
            opening: None,
        });
    }
    None
}
