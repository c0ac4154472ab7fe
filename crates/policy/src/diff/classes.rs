//! The classes of names and addresses that a pair of snapshots can tell apart, and a member of
//! each.

use exeat_model::{CLOSED_ZONES, DnsName, NAME_OCTETS_MAX};
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
