//! Entries of allow lists that are not what their author can have meant: those that never open anything, and networks that
//! open this host and the site besides the world.
//!
//! What is said to open nothing opens nothing for anyone. The other way round there is no promise: what only a ceiling or
//! another policy closes is not told, since that depends on who asks, and nor is what would take long to find out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use exeat_model::{AddressClass, CanonicalIp, IpBlock, class_boundaries};
use hashbrown::HashMap;

use crate::entry::{Destination, Entry};
use crate::list::{EntryProblem, List, Severity};
use crate::rule::ListSide;
use crate::set::{Mode, PolicySet};

use judge::{Judge, Why};

mod judge;

/// Entries that are told: more than anyone reads.
const TOLD_MAX: usize = 500;

/// What a network beyond the public ones is told to open, by an address that is such.
const NEAR: [(&str, IpAddr); 6] = [
    ("loopback", IpAddr::V4(Ipv4Addr::LOCALHOST)),
    ("loopback", IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ("private", IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1))),
    ("link-local", IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1))),
    ("unique-local", IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))),
    ("link-local", IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))),
];

/// Where a list is used to allow, and as which of the owner's.
type Use<'j, 'a> = (&'j Judge<'a>, u32);

/// Returns what there is to say of entries, given all the rules around them: warnings alone.
#[must_use]
pub fn lint(set: &PolicySet) -> Vec<EntryProblem> {
    let judges: Vec<Judge<'_>> =
        (0u32..).zip(set.all_owners()).map(|(number, owner)| Judge::new(set, number, owner)).collect();
    // In the order in which they are written, each with everyone who uses it.
    let mut lists: Vec<(&List, Vec<Use<'_, '_>>)> = Vec::new();
    let mut found: HashMap<*const List, usize> = HashMap::new();
    for judge in &judges {
        for (number, used) in (0u32..).zip(judge.owner().lists(ListSide::Allow)) {
            let at = *found.entry(ptr::from_ref(used.list())).or_insert_with(|| {
                lists.push((used.list(), Vec::new()));
                lists.len() - 1
            });
            lists.get_mut(at).into_iter().for_each(|(_, uses)| uses.push((judge, number)));
        }
    }
    let mut problems = Vec::new();
    lists.iter().for_each(|(list, uses)| of_list(list, uses, &mut problems));
    problems
}

/// Looks at the entries of one list, which several owners may use, each with its own rules around it.
fn of_list(list: &List, uses: &[Use<'_, '_>], problems: &mut Vec<EntryProblem>) {
    let is_of_a_policy = uses.iter().any(|(judge, _)| judge.owner().is_policy());
    // In report mode a policy opens what its rules do not.
    let may_be_futile = uses.iter().all(|(judge, _)| judge.owner().mode == Mode::Enforce);
    let why_futile = |number| {
        let mut whys = uses.iter().map(|(judge, at)| Some((judge, judge.why_futile(*at, number)?)));
        let first = whys.next()??;
        whys.all(|why| why.is_some()).then_some(first)
    };
    for number in 0..list.own_len() {
        if problems.len() >= TOLD_MAX {
            return;
        }
        let futile = if may_be_futile { why_futile(number) } else { None };
        problems.extend(match futile {
            Some((judge, why)) => opens_nothing(judge, list, number, &why),
            None if is_of_a_policy => opens_the_site(list, number),
            None => None,
        });
    }
}

fn opens_nothing(judge: &Judge<'_>, list: &List, number: u32, why: &Why) -> Option<EntryProblem> {
    let entry = list.entry(number)?;
    let (because, correction) = match why {
        Why::Never(class) => {
            (format!("addresses that are {class} are never reachable"), "remove the entry".to_owned())
        }
        Why::Metadata => (
            "a cloud's metadata is not opened by an entry".to_owned(),
            format!(
                "write metadata = [\"{}\"] in the policy if it is meant, or remove the entry",
                entry.destination
            ),
        ),
        Why::Listener => ("it is a listener of this proxy".to_owned(), "remove the entry".to_owned()),
        Why::Denied(rule) => {
            let rule = judge.rule(*rule)?;
            (format!("`{}` at {} denies it", rule.text, rule.place), "remove one of the two".to_owned())
        }
    };
    let message = format!("`{entry}` opens nothing: {because}");
    Some(EntryProblem { severity: Severity::Warning, place: list.place(number)?, message, correction })
}

/// A network in which the world and this host lie.
fn opens_the_site(list: &List, number: u32) -> Option<EntryProblem> {
    // Most are none, and an entry is not rebuilt for nothing.
    let entry = if list.is_network(number) { list.entry(number)? } else { return None };
    let Entry { destination: Destination::Network(block), .. } = entry else { return None };
    let holds = |ip: IpAddr| block.contains(CanonicalIp::new(ip));
    let is_near = holds(Ipv4Addr::LOCALHOST.into()) || holds(Ipv6Addr::LOCALHOST.into());
    if !is_near || !has_global(block) {
        return None;
    }
    let mut near: Vec<&str> = NEAR.iter().filter(|(_, ip)| holds(*ip)).map(|(name, _)| *name).collect();
    near.dedup();
    let message = format!("`{block}` opens {} addresses besides the public ones", listed(&near));
    let correction = "write \"@any-public\" for all that is globally reachable, by name or address, or the networks that are meant";
    let place = list.place(number)?;
    Some(EntryProblem { severity: Severity::Warning, place, message, correction: correction.to_owned() })
}

fn has_global(block: IpBlock) -> bool {
    let mut starts = class_boundaries().filter(|&start| block.contains(CanonicalIp::new(start)));
    starts.any(|start| CanonicalIp::new(start).class() == AddressClass::Global)
}

/// `a`, `a and b`, `a, b and c`.
fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
