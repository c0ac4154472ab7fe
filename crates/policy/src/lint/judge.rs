//! Whether an entry opens anything, by the rules of the one policy or ceiling that it is used in.

use std::net::{IpAddr, Ipv4Addr};

use exeat_model::{
    AddressClass, Authority, CanonicalIp, DnsName, Host, IpBlock, NamePattern, Never, Port, Transport,
    class_boundaries,
};

use crate::cuts::Cuts;
use crate::decide::{EgressRequest, allows_port, denied, denied_address, denies_port, each_match};
use crate::entry::Destination;
use crate::permit::covers;
use crate::rule::{At, ListSide, RuleId, RuleView, Terms};
use crate::set::{Bound, Mode, Owner, PolicySet};

/// Addresses that are looked at for one block and port. Of what would take more nothing is said.
const PIECES_MAX: usize = 1024;

/// A label that stands for every one that no entry speaks of. If one speaks of it, that is no wildcard.
const ANY_LABEL: &str = "exeat-any-label";

/// Why something opens nothing.
#[derive(Clone, Debug)]
pub(super) enum Why {
    /// All its addresses are of a class that is never reachable.
    Never(&'static str),
    /// All its addresses are of a cloud's metadata, which its owner does not open.
    Metadata,
    /// It is one of our own listeners.
    Listener,
    /// A deny of its owner, among others perhaps.
    Denied(RuleId),
}

/// One owner, and what closes entries of its allow lists.
pub(super) struct Judge<'a> {
    set: &'a PolicySet,
    number: u32,
    owner: &'a Owner,
    /// A principal of nothing else.
    bound: Bound,
    /// Where a deny or a listener of ours makes a difference between ports.
    cuts: Cuts,
}

/// Why all of them are closed, in the words of the first, if all are.
fn all_closed(mut each: impl Iterator<Item = Option<Why>>) -> Option<Why> {
    let first = each.next()??;
    each.all(|why| why.is_some()).then_some(first)
}

/// A port of a transport.
type Gate = (Transport, Port);

impl<'a> Judge<'a> {
    pub(super) fn new(set: &'a PolicySet, number: u32, owner: &'a Owner) -> Self {
        let mut cuts = Cuts::of_allows();
        for list in owner.lists(ListSide::Deny) {
            let own = list.list().all_settings().iter().filter_map(|settings| settings.own.ports.as_ref());
            own.chain(list.outer().ports.as_ref()).for_each(|ports| cuts.at(Some(ports)));
        }
        set.floor.listeners.iter().for_each(|listener| cuts.at_port(listener.port()));
        let bound = Bound { policies: Box::new([number]), ..Bound::default() };
        Self { set, number, owner, bound, cuts }
    }

    pub(super) fn owner(&self) -> &'a Owner {
        self.owner
    }

    pub(super) fn rule(&self, rule: RuleId) -> Option<RuleView> {
        self.set.rule(rule)
    }

    /// Why an entry opens nothing here; `None` if it does, or if that is not known.
    pub(super) fn why_futile(&self, list: u32, entry: u32) -> Option<Why> {
        let used = self.owner.lists(ListSide::Allow).get(list as usize)?;
        let terms = used.terms(entry);
        let may_deny = !self.owner.lists(ListSide::Deny).iter().all(|list| list.list().is_empty());
        let rule = RuleId { owner: self.number, at: At::Entry { side: ListSide::Allow, list, entry } };
        // Asked before the entry is rebuilt: nearly all are such.
        if !may_deny && terms.addresses.is_none() && !used.list().is_network(entry) {
            return None;
        }
        let destination = used.list().entry(entry)?.destination;
        let closed = |gate| self.closed(rule, &destination, terms.addresses, gate);
        // Most are open at the first port that is tried.
        let first =
            terms.ports.and_then(|ports| ports.iter().next()).map_or(Port::HTTPS, |range| range.first());
        if terms.transport.is_none() {
            closed((Transport::Tcp, first))?;
        }
        all_closed(self.gates(&terms).into_iter().map(closed))
    }

    /// Ports that stand for all that an entry is for: what is between them is decided on like them.
    fn gates(&self, terms: &Terms<'_>) -> Vec<Gate> {
        let mut cuts = self.cuts.clone();
        cuts.at(terms.ports);
        let pieces = cuts.pieces();
        let all = Transport::ALL
            .into_iter()
            .flat_map(|transport| pieces.iter().map(move |ports| (transport, ports.first())));
        let is_meant = |&(transport, port): &Gate| {
            // No allow without ports or transport means every one, whatever the host.
            let target =
                Authority { host: Host::Address(CanonicalIp::new(Ipv4Addr::LOCALHOST.into())), port };
            allows_port(terms, &self.request(&target, transport))
        };
        all.filter(is_meant).collect()
    }

    /// Why nothing is open at one port.
    fn closed(
        &self,
        rule: RuleId,
        destination: &Destination,
        addresses: Option<&[IpBlock]>,
        at: Gate,
    ) -> Option<Why> {
        let name = match destination {
            Destination::Network(block) => return self.block_closed(rule, None, *block, at),
            Destination::Name(NamePattern::Exact(name)) => name.clone(),
            Destination::Name(NamePattern::Subdomains(parent)) => {
                DnsName::parse(&format!("{ANY_LABEL}.{parent}")).ok()?
            }
            Destination::AnyPublic => DnsName::parse(&format!("{ANY_LABEL}.example.com")).ok()?,
            Destination::Name(NamePattern::Any) | Destination::Group(_) => return None,
        };
        if let Some(denied) = self.denied(&name, destination, at) {
            return Some(Why::Denied(denied));
        }
        all_closed(addresses?.iter().map(|block| self.block_closed(rule, Some(&name), *block, at)))
    }

    /// A deny of everything that `destination` is, of which `name` is one.
    fn denied(&self, name: &DnsName, destination: &Destination, at: Gate) -> Option<RuleId> {
        let host = Host::Name(name.clone());
        let target = Authority { host: host.clone(), port: at.1 };
        let request = self.request(&target, at.0);
        let mut found = None;
        for (number, list) in (0u32..).zip(self.owner.lists(ListSide::Deny)) {
            list.list().match_name(name, |entry| {
                let Some(denying) = list.list().entry(entry) else { return };
                let is_whole = match (destination, &denying.destination) {
                    (_, Destination::Name(NamePattern::Any)) => true,
                    (Destination::AnyPublic, other) => *other == Destination::AnyPublic,
                    (Destination::Name(NamePattern::Exact(_)), _) => true,
                    // A closed zone below is not public, and one label is not all.
                    (_, Destination::Name(NamePattern::Subdomains(_))) => true,
                    (_, Destination::Name(_) | Destination::AnyPublic) => false,
                    (_, Destination::Network(_) | Destination::Group(_)) => false,
                };
                if is_whole && denies_port(&list.terms(entry), &request) {
                    found = Some(At::Entry { side: ListSide::Deny, list: number, entry });
                }
            });
        }
        found.map(|at| RuleId { owner: self.number, at })
    }

    /// Why all of a block is closed, to those who ask for it as addresses or, if there is a name, by that.
    fn block_closed(&self, rule: RuleId, name: Option<&DnsName>, block: IpBlock, at: Gate) -> Option<Why> {
        if block.first().is_ipv6() && block.first() != block.last() {
            return self.wide_block_closed(block, at);
        }
        let denied =
            self.owner.lists(ListSide::Deny).iter().flat_map(|list| list.list().networks_within(block));
        // A network around a part of the block begins or ends where one of its own does.
        let own = block.networks().into_iter().map(|net| net.network());
        let others = class_boundaries().chain(self.set.floor.edges());
        let starts = own.chain(others).chain(denied.flat_map(|net| net.edges()));
        let starts = starts.filter(|start| block.contains(CanonicalIp::new(*start)));
        let starts: Vec<IpAddr> = starts.take(PIECES_MAX + 1).collect();
        if starts.len() > PIECES_MAX {
            return None;
        }
        all_closed(starts.into_iter().map(|ip| self.address_closed(rule, name, CanonicalIp::new(ip), at)))
    }

    /// The same of IPv6, in which neighbours may differ by what they carry: by one deny, or as multicast alone.
    fn wide_block_closed(&self, block: IpBlock, at: Gate) -> Option<Why> {
        let [first, last] = [block.first(), block.last()].map(CanonicalIp::new);
        let is_multicast =
            |ip: CanonicalIp| ip.class() == AddressClass::Never(Never::Multicast) && ip.get().is_multicast();
        if is_multicast(first) && is_multicast(last) {
            return Some(Why::Never(first.class().name()));
        }
        let target = Authority { host: Host::Address(first), port: at.1 };
        let request = self.request(&target, at.0);
        let mut found = None;
        each_match(self.owner, ListSide::Deny, &target.host, |list, entry, terms| {
            let destination =
                self.owner.lists(ListSide::Deny).get(list as usize).and_then(|list| list.list().entry(entry));
            let is_whole = match destination.map(|entry| entry.destination) {
                Some(Destination::Network(denied)) => denied.contains(first) && denied.contains(last),
                Some(Destination::Name(NamePattern::Any)) => true,
                Some(Destination::Name(_) | Destination::AnyPublic | Destination::Group(_)) | None => false,
            };
            if is_whole && denies_port(&terms, &request) {
                found = Some(At::Entry { side: ListSide::Deny, list, entry });
            }
        });
        found.map(|at| Why::Denied(RuleId { owner: self.number, at }))
    }

    fn address_closed(&self, rule: RuleId, name: Option<&DnsName>, ip: CanonicalIp, at: Gate) -> Option<Why> {
        let host = name.map_or(Host::Address(ip), |name| Host::Name(name.clone()));
        let target = Authority { host, port: at.1 };
        let request = self.request(&target, at.0);
        let denied = match name {
            None => denied(self.set, &request, Mode::Enforce).and_then(|denial| denial.rule),
            Some(_) => denied_address(self.set, &request, ip, Mode::Enforce),
        };
        if let Some(rule) = denied {
            return Some(Why::Denied(rule));
        }
        if covers(self.set, &request, rule, ip) {
            return None;
        }
        match ip.class() {
            AddressClass::Never(Never::Metadata) => Some(Why::Metadata),
            class @ AddressClass::Never(_) => Some(Why::Never(class.name())),
            AddressClass::Global | AddressClass::SpecialUse(_) => {
                self.set.floor.contains(ip, at.1).then_some(Why::Listener)
            }
        }
    }

    fn request<'r>(&'r self, target: &'r Authority, transport: Transport) -> EgressRequest<'r> {
        EgressRequest { bound: &self.bound, target, transport }
    }
}
