//! Two sides, and the questions put to both.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use exeat_model::{Authority, CanonicalIp, Host, IpBlock, PortRange, Transport};

use super::{View, WayOut};
use crate::announce::Announce;
use crate::caps::Caps;
use crate::carried::OpenForms;
use crate::cuts::Cuts;
use crate::decide::{Denial, EgressRequest, Verdict, decide, denied_address, each_match, owners};
use crate::floor::speaks_of;
use crate::opening::OpeningRule;
use crate::permit::{permit, permit_via};
use crate::reason::Reason;
use crate::rule::{ListSide, RuleId};
use crate::set::{Bound, ListRef, Mode, PolicySet};

/// One side, asked about one transport.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half<'a> {
    pub(super) set: &'a PolicySet,
    pub(super) bound: &'a Bound,
    pub(super) transport: Transport,
}

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

impl<'a> Half<'a> {
    fn request<'b>(&'b self, target: &'b Authority) -> EgressRequest<'b> {
        EgressRequest { bound: self.bound, target, transport: self.transport }
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
    pub(super) old: Half<'a>,
    pub(super) new: Half<'a>,
    /// The forms of IPv6 in which a deny of IPv4 can matter.
    pub(super) forms: OpenForms,
    /// Where deny networks of either side begin and end, in ascending order.
    pub(super) deny_edges: Vec<IpAddr>,
    /// Whether anything leaves through a next hop on either side.
    pub(super) has_hops: bool,
}

impl<'a> Pair<'a> {
    pub(super) fn new(old: View<'a>, new: View<'a>, transport: Transport) -> Self {
        let half = |View { set, bound }| Half { set, bound, transport };
        let (old, new) = (half(old), half(new));
        let allows = || [old, new].into_iter().flat_map(|view| view.lists(ListSide::Allow));
        let forms = OpenForms::of(allows().flat_map(|list| {
            let own = list.list().all_settings().iter().map(|settings| &settings.own);
            let defaults = own.chain([list.outer()]);
            list.list()
                .blocks()
                .iter()
                .chain(defaults.flat_map(|defaults| defaults.addresses.iter().flatten()))
        }));
        let lists = [old, new].into_iter().flat_map(|view| view.lists(ListSide::Deny));
        let mut deny_edges: Vec<IpAddr> =
            lists.flat_map(|l| l.list().blocks()).flat_map(|block| forms.edges(*block)).collect();
        deny_edges.sort_unstable();
        deny_edges.dedup();
        let leaves = |view: Half<'_>| owners(view.set, view.bound).any(|(_, owner)| owner.way.is_some());
        Self { old, new, forms, deny_edges, has_hops: leaves(old) || leaves(new) }
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

    pub(super) fn views(&self) -> [Half<'a>; 2] {
        [self.old, self.new]
    }

    /// Our own listeners on either side: no rule opens these pairs of address and port.
    pub(super) fn listeners(&self) -> impl Iterator<Item = SocketAddr> {
        let [old, new] = self.views();
        old.set.floor.listeners.iter().chain(&new.set.floor.listeners).copied()
    }

    /// The ports, cut so that within each range both sides answer alike for this host.
    pub(super) fn port_ranges(&self, host: &Host) -> Vec<PortRange> {
        let mut cuts = Cuts::of_allows();
        for view in self.views() {
            for (_, owner) in owners(view.set, view.bound) {
                for side in [ListSide::Allow, ListSide::Deny] {
                    each_match(owner, side, host, |_, _, terms| cuts.at(terms.ports));
                }
                if !owner.metadata.is_empty() {
                    cuts.at(owner.defaults.ports.as_ref());
                }
            }
        }
        let literal = |listener: &SocketAddr| match host {
            Host::Address(ip) => speaks_of(listener, *ip),
            Host::Name(_) => false,
        };
        let floors_differ = self.old.set.floor != self.new.set.floor;
        for listener in self.listeners().filter(|listener| floors_differ || literal(listener)) {
            cuts.at_port(listener.port());
        }
        cuts.pieces()
    }
}
