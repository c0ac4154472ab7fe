//! The classes of names and addresses that a pair of snapshots can tell apart, and a member of
//! each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use exeat_model::{CLOSED_ZONES, DnsName, IpBlock, NAME_OCTETS_MAX};
use hashbrown::HashSet;

use super::{Hosts, Pair};
use crate::rule::ListSide;

/// The names that either side mentions: a name, and whether what lies below it is meant.
pub(super) struct Mentions<'a> {
    set: HashSet<(&'a str, bool)>,
    /// The same, in the order they were found, so that two runs say the same.
    order: Vec<(&'a str, bool)>,
}

impl<'a> Mentions<'a> {
    pub(super) fn of(pair: &Pair<'a>) -> Self {
        let mut mentions = Self { set: HashSet::new(), order: Vec::new() };
        for view in pair.views() {
            for side in [ListSide::Allow, ListSide::Deny] {
                view.lists(side).flat_map(|list| list.list().names()).for_each(|name| mentions.add(name));
            }
        }
        // `@any-public` tells these from their neighbours. A zone of one label has no parent that
        // an entry could be for, so only what mentions it can reach it.
        for zone in CLOSED_ZONES.iter().filter(|zone| zone.contains('.')) {
            mentions.add((*zone, false));
            mentions.add((*zone, true));
        }
        mentions
    }

    fn add(&mut self, name: (&'a str, bool)) {
        if self.set.insert(name) {
            self.order.push(name);
        }
    }

    /// Every class of names, with a member.
    pub(super) fn classes(&self) -> impl Iterator<Item = (Hosts, DnsName)> {
        let mentioned = self.order.iter().filter_map(|&(text, below)| {
            let name = DnsName::parse(text).ok()?;
            if below {
                let member = self.below(text)?;
                Some((Hosts::Below(name), member))
            } else {
                Some((Hosts::Name(name.clone()), name))
            }
        });
        mentioned.chain(self.elsewhere().map(|member| (Hosts::Public, member)))
    }

    fn free(&self, text: &str) -> bool {
        !self.set.contains(&(text, false))
    }

    /// A name below `parent` that nothing narrower is about. `None` if there is no room for one.
    pub(super) fn below(&self, parent: &str) -> Option<DnsName> {
        let room = NAME_OCTETS_MAX.checked_sub(parent.len() + 1).filter(|room| *room > 0)?;
        let labels = labels().take_while(|label| label.len() <= room).take(self.set.len() + 1);
        labels
            .map(|label| format!("{label}.{parent}"))
            .find(|name| self.free(name))
            .and_then(|name| DnsName::parse(&name).ok())
    }

    /// A globally reachable name that nothing but `@any-public` is about.
    fn elsewhere(&self) -> Option<DnsName> {
        let zone_is_free = |zone: &str| !self.set.contains(&(zone, true)) && !CLOSED_ZONES.contains(&zone);
        let zones = ["example".to_owned()]
            .into_iter()
            .chain(labels().take(2 * self.set.len() + CLOSED_ZONES.len() + 64));
        let mut names = zones.filter(|zone| zone_is_free(zone)).map(|zone| format!("elsewhere.{zone}"));
        names.find_map(|name| DnsName::parse(&name).ok().filter(|name| self.free(name.as_str())))
    }
}

/// Labels, the short ones first; `x` is the very first.
fn labels() -> impl Iterator<Item = String> {
    const LETTERS: &[u8] = b"xabcdefghijklmnopqrstuvwyz0123456789_";
    (0usize..).map(|number| {
        let (mut rest, mut label) = (number, String::new());
        loop {
            label.extend(LETTERS.get(rest % LETTERS.len()).map(|&letter| char::from(letter)));
            rest /= LETTERS.len();
            if rest == 0 {
                return label;
            }
            rest -= 1;
        }
    })
}

/// Both address families, cut before each of these addresses, in ascending order. IPv4-mapped
/// addresses are left out: none is canonical.
pub(super) fn partition(starts: impl IntoIterator<Item = IpAddr>) -> Vec<IpBlock> {
    let mapped_first = Ipv6Addr::from_bits(0xffff << 32);
    let mapped_after = Ipv6Addr::from_bits(0x1_0000 << 32);
    let mut starts: Vec<IpAddr> = starts.into_iter().collect();
    starts.extend([
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(mapped_first),
        IpAddr::V6(mapped_after),
    ]);
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|&next| before(next)).chain([None]);
    let blocks = starts.iter().zip(ends).filter_map(|(&first, end)| {
        let top = match first {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        };
        IpBlock::between(first, end.unwrap_or(top))
    });
    blocks.collect()
}

/// Where a block begins, and where what follows it does.
pub(super) fn block_edges(block: &IpBlock) -> impl Iterator<Item = IpAddr> + use<> {
    [Some(block.first()), after(block.last())].into_iter().flatten()
}

pub(super) fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}

/// The address before, within the family.
fn before(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}
