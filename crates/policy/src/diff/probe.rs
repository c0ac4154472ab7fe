//! Two sides, and the questions put to both.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use exeat_model::{Authority, CanonicalIp, Host, IpBlock, Port, PortRange, PortSet};

use super::classes::block_edges;
use super::{View, WayOut};
use crate::announce::Announce;
use crate::caps::Caps;
use crate::decide::{Denial, EgressRequest, Verdict, decide, denied_address, each_match, owners};
use crate::permit::{OpeningRule, permit, permit_via};
use crate::reason::Reason;
use crate::rule::{ListSide, RuleId};
use crate::set::{ListRef, Mode};

/// What a permit says, whichever way out it is for.
pub(super) struct Permitted {
    rule: RuleId,
    opening: OpeningRule,
    caps: Caps,
    announce: Option<Announce>,
}

impl Permitted {
    pub(super) const fn rule(&self) -> RuleId {
        self.rule
    }

    pub(super) const fn opening(&self) -> &OpeningRule {
        &self.opening
    }

    pub(super) const fn caps(&self) -> &Caps {
        &self.caps
    }

    /// What the upstream is told of the client. `None` through a next hop: what that is told is not the policy's matter.
    pub(super) const fn announce(&self) -> Option<Announce> {
        self.announce
    }
}

impl<'a> View<'a> {
    fn request<'b>(&'b self, target: &'b Authority) -> EgressRequest<'b> {
        EgressRequest { bound: self.bound, target }
    }

    /// What the target alone tells: for a name the decision, for an address the permit too.
    pub(super) fn target(&self, target: &Authority) -> Result<RuleId, Denial> {
        if let Host::Address(ip) = &target.host {
            return self.permit(target, &[ip.get()]).map(|permit| permit.rule());
        }
        match decide(self.set, &self.request(target)) {
            Verdict::Deny(denial) => Err(denial),
            Verdict::Allow(allowed) => {
                let first = allowed.rules().first().copied();
                first.or(allowed.report).ok_or(Denial::of(Reason::HostNotAllowed))
            }
        }
    }

    /// The way that an allowed target leaves by.
    pub(super) fn way(&self, target: &Authority) -> Option<WayOut> {
        match decide(self.set, &self.request(target)) {
            Verdict::Deny(_) => None,
            Verdict::Allow(allowed) => Some(match allowed.way() {
                None => WayOut::Straight,
                Some(way) => {
                    let hop = way.hop();
                    WayOut::NextHop { name: Arc::clone(&hop.name), endpoint: hop.endpoint.clone() }
                }
            }),
        }
    }

    /// The whole answer, for a target that stands for these addresses.
    pub(super) fn permit(&self, target: &Authority, addrs: &[IpAddr]) -> Result<Permitted, Denial> {
        let request = self.request(target);
        match decide(self.set, &request) {
            Verdict::Deny(denial) => Err(denial),
            Verdict::Allow(allowed) if allowed.way().is_some() => {
                let permit = permit_via(self.set, &request, &allowed, addrs)?;
                Ok(Permitted {
                    rule: permit.rule(),
                    opening: permit.opening().clone(),
                    caps: permit.caps(),
                    announce: None,
                })
            }
            Verdict::Allow(allowed) => {
                let permit = permit(self.set, &request, &allowed, addrs)?;
                Ok(Permitted {
                    rule: permit.rule(),
                    opening: permit.opening().clone(),
                    caps: permit.caps(),
                    announce: Some(permit.announce()),
                })
            }
        }
    }

    /// The deny rule whose network contains the address, for connections to this port.
    pub(super) fn denied(&self, target: &Authority, ip: IpAddr) -> Option<RuleId> {
        let (request, ip) = (self.request(target), CanonicalIp::new(ip));
        let by_mode = |mode| denied_address(self.set, &request, ip, mode);
        by_mode(Mode::Enforce).or_else(|| by_mode(Mode::Report))
    }

    /// Whether a deny network contains the address, of an enforcing and of a watching policy.
    pub(super) fn deny_status(&self, target: &Authority, ip: IpAddr) -> [bool; 2] {
        let (request, ip) = (self.request(target), CanonicalIp::new(ip));
        [Mode::Enforce, Mode::Report].map(|mode| denied_address(self.set, &request, ip, mode).is_some())
    }

    /// Whether a policy that only watches denies anything.
    pub(super) fn watches_denies(&self) -> bool {
        let mut watching = owners(self.set, self.bound).filter(|(_, owner)| owner.mode == Mode::Report);
        watching.any(|(_, owner)| !owner.lists(ListSide::Deny).is_empty())
    }

    /// Every list of one side, of every policy and ceiling that holds.
    pub(super) fn lists(self, side: ListSide) -> impl Iterator<Item = &'a ListRef> {
        owners(self.set, self.bound).flat_map(move |(_, owner)| owner.lists(side))
    }
}

/// The two sides of a comparison.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) old: View<'a>,
    pub(super) new: View<'a>,
    /// Where deny networks of either side begin and end, in ascending order.
    pub(super) deny_edges: Vec<IpAddr>,
    /// Whether anything leaves through a next hop on either side.
    pub(super) has_hops: bool,
}

impl<'a> Pair<'a> {
    pub(super) fn new(old: View<'a>, new: View<'a>) -> Self {
        let lists = [old, new].into_iter().flat_map(|view| view.lists(ListSide::Deny));
        let mut deny_edges: Vec<IpAddr> =
            lists.flat_map(|l| l.list().blocks()).flat_map(block_edges).collect();
        deny_edges.sort_unstable();
        deny_edges.dedup();
        let leaves = |view: View<'_>| owners(view.set, view.bound).any(|(_, owner)| owner.way.is_some());
        Self { old, new, deny_edges, has_hops: leaves(old) || leaves(new) }
    }

    /// What deny networks say of the address on both sides, unless they say different things.
    pub(super) fn same_denies(&self, target: &Authority, ip: IpAddr) -> Option<[bool; 2]> {
        let old = self.old.deny_status(target, ip);
        (old == self.new.deny_status(target, ip)).then_some(old)
    }

    /// The edges of deny networks that lie in the block.
    pub(super) fn deny_edges_in(&self, block: &IpBlock) -> &[IpAddr] {
        let first = self.deny_edges.partition_point(|ip| *ip < block.first());
        let after = self.deny_edges.partition_point(|ip| *ip <= block.last());
        self.deny_edges.get(first..after).unwrap_or_default()
    }

    pub(super) fn views(&self) -> [View<'a>; 2] {
        [self.old, self.new]
    }

    /// Our own listeners on either side: no rule opens these pairs of address and port.
    pub(super) fn listeners(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        let [old, new] = self.views();
        old.set.floor.listeners.iter().chain(&new.set.floor.listeners).copied()
    }

    /// The ports, cut so that within each range both sides answer alike for this host.
    pub(super) fn port_ranges(&self, host: &Host) -> Vec<PortRange> {
        let mut starts = BTreeSet::from([80, 81, 443, 444]);
        for view in self.views() {
            for (_, owner) in owners(view.set, view.bound) {
                for side in [ListSide::Allow, ListSide::Deny] {
                    each_match(owner, side, host, |_, _, terms| edges(terms.ports, &mut starts));
                }
                if !owner.metadata.is_empty() {
                    edges(owner.defaults.ports.as_ref(), &mut starts);
                }
            }
        }
        let literal = |ip: IpAddr| *host == Host::Address(CanonicalIp::new(ip));
        let floors_differ = self.old.set.floor != self.new.set.floor;
        for listener in self.listeners().filter(|l| floors_differ || literal(l.ip())) {
            starts.insert(listener.port());
            starts.extend(listener.port().checked_add(1));
        }
        cut(&starts)
    }
}

/// Adds the ports at which the set begins and ends.
pub(super) fn edges(ports: Option<&PortSet>, starts: &mut BTreeSet<u16>) {
    for range in ports.into_iter().flat_map(PortSet::iter) {
        starts.insert(range.first().get());
        starts.extend(range.last().get().checked_add(1));
    }
}

/// All ports, cut at these.
pub(super) fn cut(starts: &BTreeSet<u16>) -> Vec<PortRange> {
    let mut starts = starts.clone();
    starts.remove(&0);
    starts.insert(1);
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let ranges = starts.iter().zip(ends);
    ranges.filter_map(|(&first, last)| PortRange::new(Port::new(first)?, Port::new(last)?)).collect()
}
