//! What a principal may reach by address alone, as blocks: for those who tell a kernel, which asks nobody for each packet.
//! Every block is asked of the functions that decide on one connection.

use std::net::IpAddr;

use exeat_model::{
    Authority, CanonicalIp, Host, IpBlock, Port, PortRange, PortSet, Transport, class_boundaries, partition,
};
use hashbrown::HashSet;

use crate::carried::OpenForms;
use crate::cuts::Cuts;
use crate::decide::{Denial, EgressRequest, each_match, owners};
use crate::reach::permitted;
use crate::rule::ListSide;
use crate::set::{Bound, Mode, PolicySet};

/// Blocks of one principal: as many as a kernel's set of intervals takes in a second.
pub const NETWORKS_MAX: usize = 65_536;

/// Addresses and ports that may be reached without a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Network {
    /// The addresses.
    pub block: IpBlock,
    /// What carries the connections.
    pub transport: Transport,
    /// The ports.
    pub ports: PortRange,
    /// Whether it would be refused, and only report mode opens it.
    pub is_watched: bool,
}

/// Ports that are decided alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortPiece {
    /// The ports.
    pub ports: PortRange,
    /// Whether any rule of a policy could open them.
    pub may_open: bool,
}

/// A principal's networks are too many.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("more than {NETWORKS_MAX} blocks of addresses and ports")]
pub struct TooManyNetworks;

/// Returns what `bound` may reach as literal addresses, straight from here: nothing else, and all of it but what lies in a
/// piece of the address space whose members differ although no boundary divides them
/// ([`class_boundaries`] says which; whoever uses this keeps those closed).
///
/// Takes time in proportion to the networks that the policies and ceilings of `bound` name.
///
/// # Errors
/// If they are more than [`NETWORKS_MAX`].
pub fn networks(set: &PolicySet, bound: &Bound) -> Result<Vec<Network>, TooManyNetworks> {
    let mut found: Vec<Network> = Vec::new();
    // Where the newest block of the piece before is that has the same ports and ends where this one begins.
    let mut before: Vec<usize> = Vec::new();
    for block in partition(starts(set, bound)) {
        let mut here = Vec::new();
        for (transport, ports, is_watched) in open_ports(set, bound, block.first()) {
            let next = Network { block, transport, ports, is_watched };
            let joined =
                before.iter().copied().find(|&at| found.get_mut(at).is_some_and(|last| join(last, &next)));
            here.push(joined.unwrap_or(found.len()));
            if joined.is_none() {
                found.push(next);
            }
            if found.len() > NETWORKS_MAX {
                return Err(TooManyNetworks);
            }
        }
        before = here;
    }
    Ok(found)
}

/// Returns whether `bound` may send packets to one port of one address without a name, straight from here, and why it could
/// not if only report mode lets it.
///
/// # Errors
/// The reason why not.
pub fn literal(
    set: &PolicySet,
    bound: &Bound,
    ip: IpAddr,
    port: Port,
    transport: Transport,
) -> Result<Option<Denial>, Denial> {
    let target = Authority { host: Host::Address(CanonicalIp::new(ip)), port };
    let permit = permitted(set, &EgressRequest { bound, target: &target, transport }, &[ip])?;
    Ok(permit.would_deny())
}

/// Returns all ports in pieces: what is opened by name of any principal that has no token begins and ends with one.
#[must_use]
pub fn port_pieces(set: &PolicySet) -> Vec<PortPiece> {
    let mut cuts = Cuts::of_allows();
    let mut allowed: HashSet<&PortSet> = HashSet::new();
    let mut is_all_allowed = false;
    for owner in set.all_owners() {
        // What it watches may go to any port.
        is_all_allowed |= owner.mode == Mode::Report;
        cuts.at(owner.defaults.ports.as_ref());
        for side in [ListSide::Allow, ListSide::Deny] {
            for list in owner.lists(side) {
                let own =
                    list.list().all_settings().iter().filter_map(|settings| settings.own.ports.as_ref());
                for ports in own.chain(list.outer().ports.as_ref()) {
                    cuts.at(Some(ports));
                    if side == ListSide::Allow {
                        allowed.insert(ports);
                    }
                }
            }
        }
    }
    set.floor.listeners.iter().for_each(|listener| cuts.at_port(listener.port()));
    let of_default = |port| port == Port::HTTP || port == Port::HTTPS;
    let may_open = |port| is_all_allowed || of_default(port) || allowed.iter().any(|set| set.contains(port));
    let pieces = cuts.pieces().into_iter();
    pieces.map(|ports| PortPiece { ports, may_open: may_open(ports.first()) }).collect()
}

/// Where what may be reached changes.
fn starts(set: &PolicySet, bound: &Bound) -> Vec<IpAddr> {
    let mut starts: Vec<IpAddr> = class_boundaries().collect();
    let single = |ip: IpAddr| IpBlock::from(CanonicalIp::new(ip)).edges();
    let allows = owners(set, bound).flat_map(|(_, owner)| owner.lists(ListSide::Allow));
    let forms = OpenForms::of(allows.flat_map(|list| list.list().blocks()));
    for (_, owner) in owners(set, bound) {
        starts.extend(owner.metadata.iter().flat_map(|(ip, _)| single(ip.get())));
        for side in [ListSide::Allow, ListSide::Deny] {
            let blocks = owner.lists(side).iter().flat_map(|list| list.list().blocks());
            match side {
                ListSide::Allow => starts.extend(blocks.flat_map(IpBlock::edges)),
                ListSide::Deny => starts.extend(blocks.flat_map(|block| forms.edges(*block))),
            }
        }
    }
    starts.extend(set.floor.edges());
    starts
}

/// The ports of one address that may be reached, and whether they are watched only; neighbours are put together.
fn open_ports(set: &PolicySet, bound: &Bound, ip: IpAddr) -> Vec<(Transport, PortRange, bool)> {
    let host = Host::Address(CanonicalIp::new(ip));
    let mut cuts = Cuts::of_allows();
    for (_, owner) in owners(set, bound) {
        for side in [ListSide::Allow, ListSide::Deny] {
            each_match(owner, side, &host, |_, _, terms| cuts.at(terms.ports));
        }
        cuts.at(owner.defaults.ports.as_ref());
    }
    set.floor.listeners.iter().for_each(|listener| cuts.at_port(listener.port()));
    let pieces = cuts.pieces();
    let mut found: Vec<(Transport, PortRange, bool)> = Vec::new();
    for transport in Transport::ALL {
        for &ports in &pieces {
            let target = Authority { host: host.clone(), port: ports.first() };
            let request = EgressRequest { bound, target: &target, transport };
            let Ok(permit) = permitted(set, &request, &[ip]) else { continue };
            let is_watched = permit.would_deny().is_some();
            match found.last_mut() {
                Some((before, last, was_watched))
                    if *before == transport
                        && *was_watched == is_watched
                        && last.last().get().checked_add(1) == Some(ports.first().get()) =>
                {
                    *last = PortRange::new(last.first(), ports.last()).unwrap_or(*last);
                }
                Some(_) | None => found.push((transport, ports, is_watched)),
            }
        }
    }
    found
}

/// Makes `next` part of `last` if it follows it and opens the same. Returns whether it did.
fn join(last: &mut Network, next: &Network) -> bool {
    let opens = |network: &Network| (network.transport, network.ports, network.is_watched);
    let follows = last.block.edges().nth(1) == Some(next.block.first());
    let joined = IpBlock::between(last.block.first(), next.block.last());
    match joined.filter(|_| follows && opens(last) == opens(next)) {
        Some(block) => {
            last.block = block;
            true
        }
        None => false,
    }
}
