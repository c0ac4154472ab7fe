//! Where both sides allow a target: the addresses that it may lead to, what may open the
//! connection, and what a flow may come to.

use std::net::IpAddr;

use exeat_model::{
    AddressClass, Authority, CanonicalIp, DnsName, Host, IpBlock, class_boundaries, partition,
};

use super::compare::Finding;
use super::join::Joiner;
use super::probe::Half;
use super::probe::Permitted;
use super::{Direction, Hosts, Opening, Pair, What};
use crate::decide::{Denial, each_match, owners};
use crate::entry::Expect;
use crate::opening::OpeningRule;
use crate::reason::Reason;
use crate::rule::{ListSide, RuleId};

/// Returns what the two sides ask differently of connections to a target that both allow.
pub(super) fn differences(pair: &Pair<'_>, hosts: &Hosts, target: &Authority) -> Vec<Finding> {
    let mut search = Search { pair, hosts, target, found: Vec::new(), agreed: None, refused: None };
    match &target.host {
        Host::Address(ip) => search.allowed_by_both(ip.get()),
        Host::Name(_) => search.addresses(),
    }
    search.found
}

struct Search<'a> {
    pair: &'a Pair<'a>,
    hosts: &'a Hosts,
    target: &'a Authority,
    found: Vec<Finding>,
    /// An address that both sides permit, and one that both refuse.
    agreed: Option<IpAddr>,
    refused: Option<IpAddr>,
}

impl Search<'_> {
    /// Where the name may lead: each block that a rule for it names, and public addresses.
    fn addresses(&mut self) {
        let named = self.named_blocks();
        let inside = |ip: IpAddr| named.iter().any(|block| block.contains(CanonicalIp::new(ip)));
        let mut starts: Vec<IpAddr> = named.iter().flat_map(IpBlock::edges).collect();
        starts.extend(class_boundaries().filter(|&ip| inside(ip)));
        starts.extend(named.iter().flat_map(|block| self.pair.deny_edges_in(block)));
        starts.extend(self.listener_edges());
        let mut joiner = Joiner::default();
        for block in partition(starts).into_iter().filter(|block| inside(block.first())) {
            let ip = block.first();
            // Where deny networks differ, they differ for every name: that is found once for all.
            let asked = self.pair.same_denies(self.target, ip).is_some();
            let found = if asked { self.ask(&[ip], What::At(block)) } else { None };
            joiner.add(&block, found.into_iter().collect());
            self.allowed_by_both(ip);
        }
        self.found.extend(joiner.finish());
        for ip in self.public_addresses(&named) {
            let found = self.ask(&[ip], What::AtPublic);
            if !self.found.iter().any(|f| f.what == What::AtPublic) {
                self.found.extend(found);
            }
            self.allowed_by_both(ip);
        }
        if let Some(agreed) = self.agreed {
            let never = IpAddr::from([0, 0, 0, 0]);
            let mixed = self.ask(&[agreed, self.refused.unwrap_or(never)], What::MixedAnswers);
            self.found.extend(mixed);
        }
    }

    /// The blocks of `addresses` of every entry that is for the target.
    fn named_blocks(&self) -> Vec<IpBlock> {
        let mut blocks = Vec::new();
        for view in self.pair.views() {
            for (_, owner) in owners(view.set, view.bound) {
                each_match(owner, ListSide::Allow, &self.target.host, |_, _, terms| {
                    blocks.extend(terms.addresses.unwrap_or_default().iter().copied());
                });
            }
        }
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// Listeners matter where the two sides have different ones.
    fn listener_edges(&self) -> Vec<IpAddr> {
        if self.pair.old.set.floor == self.pair.new.set.floor {
            return Vec::new();
        }
        self.pair.views().iter().flat_map(|view| view.set.floor.edges()).collect()
    }

    /// Globally reachable addresses outside the named blocks: of each family one that no deny
    /// network contains, and one that only watching policies deny; and listeners that only one
    /// side has.
    fn public_addresses(&self, named: &[IpBlock]) -> Vec<IpAddr> {
        let outside = |ip: IpAddr| {
            let ip = CanonicalIp::new(ip);
            ip.class() == AddressClass::Global && !named.iter().any(|block| block.contains(ip))
        };
        let mut found: Vec<IpAddr> = self.listener_edges().into_iter().filter(|&ip| outside(ip)).collect();
        let starts = class_boundaries().chain(named.iter().flat_map(IpBlock::edges));
        let blocks = partition(starts).into_iter().filter(|block| outside(block.first()));
        let mut wanted: Vec<(bool, [bool; 2])> = vec![(true, [false, false]), (false, [false, false])];
        if self.pair.views().iter().any(Half::watches_denies) {
            wanted.extend([(true, [false, true]), (false, [false, true])]);
        }
        for block in blocks {
            let inside = self.pair.deny_edges_in(&block).iter().copied();
            for ip in std::iter::once(block.first()).chain(inside) {
                if wanted.is_empty() {
                    return found;
                }
                let Some(status) = self.pair.same_denies(self.target, ip) else { continue };
                if let Some(at) = wanted.iter().position(|w| *w == (ip.is_ipv4(), status)) {
                    wanted.swap_remove(at);
                    found.push(ip);
                }
                // The rest of the block is of interest for what deny networks do to it only.
                if !wanted.iter().any(|(v4, _)| *v4 == ip.is_ipv4()) {
                    break;
                }
            }
        }
        found
    }

    /// Asks both sides for a permit; a finding if one of them refuses.
    fn ask(&mut self, addrs: &[IpAddr], what: What) -> Option<Finding> {
        let (old, new) = (self.pair.old.permit(self.target, addrs), self.pair.new.permit(self.target, addrs));
        let (direction, rule, refused) = match (old, new) {
            (Err(denial), Ok(permit)) => (Direction::Gained, permit.rule(), denial),
            (Ok(permit), Err(denial)) => (Direction::Lost, permit.rule(), denial),
            (Ok(_), Ok(_)) => {
                self.agreed = addrs.first().copied();
                return None;
            }
            (Err(_), Err(_)) => {
                self.refused = addrs.first().copied();
                return None;
            }
        };
        Some(self.finding(direction, what, rule, refused, addrs, None))
    }

    /// Compares what the two sides say of connections to an address that both permit.
    fn allowed_by_both(&mut self, ip: IpAddr) {
        let pair = self.pair;
        let (Ok(old), Ok(new)) = (pair.old.permit(self.target, &[ip]), pair.new.permit(self.target, &[ip]))
        else {
            return;
        };
        for (direction, wide, narrow) in [(Direction::Lost, &old, &new), (Direction::Gained, &new, &old)] {
            self.opening(direction, wide, narrow, ip);
            self.caps(direction, wide, narrow, ip);
            self.announce(direction, wide, narrow, ip);
        }
    }

    /// Compares what may open a connection.
    fn opening(&mut self, direction: Direction, wide: &Permitted, narrow: &Permitted, ip: IpAddr) {
        let openings = openings(&self.target.host, &[wide.opening(), narrow.opening()]);
        let mut only = openings.into_iter().filter_map(|opening| {
            let refused = refuses(narrow.opening(), &opening)?;
            refuses(wide.opening(), &opening).is_none().then_some((opening, refused))
        });
        let Some((first, reason)) = only.next() else { return };
        let what = What::OpenedBy(std::iter::once(first.clone()).chain(only.map(|(o, _)| o)).collect());
        let refused = Denial { reason, rule: Some(narrow.rule()) };
        self.find_once(self.finding(direction, what, wide.rule(), refused, &[ip], Some(first)));
    }

    /// Compares what a flow may come to.
    fn caps(&mut self, direction: Direction, wide: &Permitted, narrow: &Permitted, ip: IpAddr) {
        for cap in narrow.caps().iter().filter(|cap| !wide.caps().end_beyond(*cap)) {
            let refused = Denial { reason: cap.reason(), rule: Some(narrow.rule()) };
            let what = What::Beyond(cap);
            self.find_once(self.finding(direction, what, wide.rule(), refused, &[ip], None));
        }
    }

    /// Compares what the upstream is told of the client.
    fn announce(&mut self, direction: Direction, own: &Permitted, other: &Permitted, ip: IpAddr) {
        let (Some(said), Some(elsewhere)) = (own.announce(), other.announce()) else { return };
        if said != elsewhere {
            let refused = Denial { reason: Reason::PolicyChanged, rule: Some(other.rule()) };
            let what = What::Announcing(said);
            self.find_once(self.finding(direction, what, own.rule(), refused, &[ip], None));
        }
    }

    /// Keeps a finding, unless another address has shown the same.
    fn find_once(&mut self, finding: Finding) {
        if !self.found.iter().any(|f| f.direction == finding.direction && f.what == finding.what) {
            self.found.push(finding);
        }
    }

    fn finding(
        &self,
        direction: Direction,
        what: What,
        rule: RuleId,
        refused: Denial,
        addrs: &[IpAddr],
        opening: Option<Opening>,
    ) -> Finding {
        Finding {
            direction,
            hosts: self.hosts.clone(),
            ports: Vec::new(),
            what,
            rule,
            refused,
            host: self.target.host.clone(),
            port: self.target.port,
            addrs: addrs.to_vec(),
            opening,
        }
    }
}

/// The openings that these rules can tell apart.
fn openings(host: &Host, rules: &[&OpeningRule]) -> Vec<Opening> {
    let asked = match host {
        Host::Name(name) => Some(name.clone()),
        Host::Address(_) => None,
    };
    let mut openings = vec![Opening::Tls(asked.clone()), Opening::Http(asked.clone())];
    let mut listed: Vec<&DnsName> = rules.iter().flat_map(|rule| rule.listed()).collect();
    listed.sort_unstable();
    listed.dedup();
    for name in listed.iter().filter(|name| asked.as_ref() != Some(name)) {
        openings.extend([Opening::Tls(Some((*name).clone())), Opening::Http(Some((*name).clone()))]);
    }
    if asked.is_some() {
        openings.push(Opening::Tls(None));
    }
    let free = |name: &DnsName| asked.as_ref() != Some(name) && !listed.contains(&name);
    let mut others = (0..=listed.len() + 1).map(|n| DnsName::parse(&format!("other{n}.example")));
    if let Some(Ok(other)) = others.find(|name| name.as_ref().is_ok_and(&free)) {
        openings.extend([Opening::TlsOther(other.clone()), Opening::HttpOther(other)]);
    }
    openings.push(Opening::Other);
    openings
}

/// Why a rule refuses an opening, in the words of the check that looks at the bytes.
pub(super) fn refuses(rule: &OpeningRule, opening: &Opening) -> Option<Reason> {
    match (rule.expect(), opening) {
        (Expect::Any, _) => None,
        (Expect::Tls, Opening::Tls(Some(name)) | Opening::TlsOther(name)) => {
            (!rule.accepts_name(name)).then_some(Reason::SniMismatch)
        }
        (Expect::Tls, Opening::Tls(None)) => (!rule.literal()).then_some(Reason::SniMissing),
        (Expect::Tls, Opening::Http(_) | Opening::HttpOther(_) | Opening::Other) => Some(Reason::TlsRequired),
        (Expect::Http, Opening::Http(Some(name)) | Opening::HttpOther(name)) => {
            (rule.literal() || !rule.accepts_name(name)).then_some(Reason::HostMismatch)
        }
        (Expect::Http, Opening::Http(None)) => None,
        (Expect::Http, Opening::Tls(_) | Opening::TlsOther(_) | Opening::Other) => Some(Reason::HttpRequired),
    }
}
