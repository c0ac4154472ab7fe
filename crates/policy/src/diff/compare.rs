//! Every class of destinations, put to both sides.

use exeat_model::{
    AddressClass, Authority, CanonicalIp, DnsName, Host, IpBlock, Port, PortRange, class_boundaries,
    in_closed_zone, partition,
};
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::classes::Mentions;
use super::join::Joiner;
use super::{Direction, Hosts, Opening, Pair, What, conditions};
use crate::decide::{Denial, each_match, owners};
use crate::floor::speaks_of;
use crate::reason::Reason;
use crate::rule::{ListSide, RuleId};

/// A difference as it is found: one class, in the words of the snapshots.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) direction: Direction,
    pub(super) hosts: Hosts,
    pub(super) ports: Vec<PortRange>,
    pub(super) what: What,
    /// Of the side that allows it.
    pub(super) rule: RuleId,
    /// Of the side that refuses it.
    pub(super) refused: Denial,
    /// The member of the class that was asked for.
    pub(super) host: Host,
    /// A port that shows it.
    pub(super) port: Port,
    pub(super) addrs: Vec<std::net::IpAddr>,
    pub(super) opening: Option<Opening>,
}

/// A name, and the ports on which both sides allow it.
pub(super) struct Carrier {
    pub(super) name: DnsName,
    pub(super) ranges: Vec<PortRange>,
}

/// What is found of one class.
#[derive(Default)]
struct Compared {
    findings: Vec<Finding>,
    both: Vec<PortRange>,
}

/// Compares every class of names. Names that the same settings speak of behave alike, so only
/// the first of them is put to the engine, and the others if that one showed a difference. The
/// carriers are those first ones.
pub(super) fn names(pair: &Pair<'_>) -> (Vec<Finding>, Vec<Carrier>) {
    let (mut findings, mut carriers) = (Vec::new(), Vec::new());
    let mut differs: HashMap<Key, bool> = HashMap::new();
    for (hosts, name) in Mentions::of(pair).classes() {
        let host = Host::Name(name.clone());
        let key = Key::of(pair, &host);
        match differs.get(&key) {
            Some(false) => {}
            Some(true) => findings.extend(compare(pair, &hosts, &host).findings),
            None => {
                let compared = compare(pair, &hosts, &host);
                differs.insert(key, !compared.findings.is_empty());
                findings.extend(compared.findings);
                if !compared.both.is_empty() {
                    carriers.push(Carrier { name, ranges: compared.both });
                }
            }
        }
    }
    (findings, carriers)
}

/// Compares every class of addresses, given as targets. Neighbours that changed alike are one
/// finding; addresses that are never reachable do not come between them.
pub(super) fn literals(pair: &Pair<'_>) -> Vec<Finding> {
    let mut starts = Vec::new();
    for view in pair.views() {
        for side in [ListSide::Allow, ListSide::Deny] {
            for list in view.lists(side) {
                let blocks = list.list().blocks().iter();
                match side {
                    ListSide::Allow => starts.extend(blocks.flat_map(IpBlock::edges)),
                    ListSide::Deny => starts.extend(blocks.flat_map(|block| pair.forms.edges(*block))),
                }
            }
        }
    }
    starts.extend(class_boundaries());
    starts.extend(pair.views().iter().flat_map(|view| view.set.floor.edges()));
    let mut joiner = Joiner::default();
    let mut unchanged: HashSet<Key> = HashSet::new();
    for block in partition(starts) {
        let ip = CanonicalIp::new(block.first());
        let host = Host::Address(ip);
        let mut found = Vec::new();
        let key = Key::of(pair, &host);
        if !unchanged.contains(&key) {
            found = compare(pair, &Hosts::Addresses(block), &host).findings;
            if found.is_empty() {
                unchanged.insert(key);
            }
        }
        joiner.add(&block, found);
    }
    joiner.finish()
}

/// Puts one destination to both sides, port by port.
fn compare(pair: &Pair<'_>, hosts: &Hosts, host: &Host) -> Compared {
    let mut compared = Compared::default();
    for range in pair.port_ranges(host) {
        let target = Authority { host: host.clone(), port: range.first() };
        let (direction, rule, refused) = match (pair.old.target(&target), pair.new.target(&target)) {
            (Err(denial), Ok(rule)) => (Direction::Gained, rule, denial),
            (Ok(rule), Err(denial)) => (Direction::Lost, rule, denial),
            (Err(_), Err(_)) => continue,
            (Ok(old), Ok(new)) => {
                compared.both.push(range);
                for finding in ways(pair, hosts, &target, (old, new)) {
                    add(&mut compared.findings, finding, range);
                }
                for finding in conditions::differences(pair, hosts, &target) {
                    add(&mut compared.findings, finding, range);
                }
                continue;
            }
        };
        let finding = Finding {
            direction,
            hosts: hosts.clone(),
            ports: Vec::new(),
            what: What::Target,
            rule,
            refused,
            host: host.clone(),
            port: range.first(),
            addrs: Vec::new(),
            opening: None,
        };
        add(&mut compared.findings, finding, range);
    }
    compared
}

/// The ways out of a target that both sides allow, by these rules, if they are not the same.
fn ways(pair: &Pair<'_>, hosts: &Hosts, target: &Authority, (old, new): (RuleId, RuleId)) -> Vec<Finding> {
    if !pair.has_hops {
        return Vec::new();
    }
    let (Some(before), Some(after)) = (pair.old.way(target), pair.new.way(target)) else { return Vec::new() };
    if before == after {
        return Vec::new();
    }
    let finding = |direction, way, rule, other| Finding {
        direction,
        hosts: hosts.clone(),
        ports: Vec::new(),
        what: What::LeavesBy(way),
        rule,
        refused: Denial { reason: Reason::PolicyChanged, rule: Some(other) },
        host: target.host.clone(),
        port: target.port,
        addrs: Vec::new(),
        opening: None,
    };
    vec![finding(Direction::Gained, after, new, old), finding(Direction::Lost, before, old, new)]
}

/// Adds a port range to the finding that it continues, or a new finding.
fn add(findings: &mut Vec<Finding>, mut finding: Finding, range: PortRange) {
    let same = findings.iter_mut().find(|f| {
        f.direction == finding.direction
            && f.what == finding.what
            && f.rule == finding.rule
            && f.refused == finding.refused
    });
    match same {
        Some(same) => same.ports.push(range),
        None => {
            finding.ports.push(range);
            findings.push(finding);
        }
    }
}

/// Everything about a host that a decision can depend on. Hosts with equal keys are answered alike
/// on every port by both sides.
#[derive(Eq, Hash, PartialEq)]
struct Key {
    matches: SmallVec<[Match; 4]>,
    class: u8,
    /// An address that is one of a kind: in some `metadata`, or our own listener.
    unique: Option<CanonicalIp>,
}

#[derive(Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Match {
    new: bool,
    /// The place among the matches of the same side, the narrowest first.
    rank: u32,
    /// Of a width that only `@any-public` and `*` have.
    widest: bool,
    side: ListSide,
    owner: u32,
    list: u32,
    settings: u32,
}

impl Key {
    fn of(pair: &Pair<'_>, host: &Host) -> Self {
        let mut matches: SmallVec<[Match; 4]> = SmallVec::new();
        for (new, view) in [false, true].into_iter().zip(pair.views()) {
            let from = matches.len();
            for (number, owner) in owners(view.set, view.bound) {
                for side in [ListSide::Allow, ListSide::Deny] {
                    each_match(owner, side, host, |list, entry, _| {
                        let Some(of) = owner.lists(side).get(list as usize).map(|l| l.list()) else { return };
                        let specificity = of.specificity(entry);
                        let (rank, widest) = (u32::MAX - specificity, specificity == 0);
                        let settings = of.settings_number(entry);
                        matches.push(Match { new, rank, widest, side, owner: number, list, settings });
                    });
                }
            }
            if let Some(own) = matches.get_mut(from..) {
                own.sort_unstable();
                make_dense(own);
            }
        }
        let (class, unique) = match host {
            Host::Name(name) => (u8::from(in_closed_zone(name)), None),
            Host::Address(ip) => {
                let class = match ip.class() {
                    AddressClass::Global => 0,
                    AddressClass::SpecialUse(_) => 1,
                    AddressClass::Never(_) => 2,
                };
                (class, is_unique(pair, *ip).then_some(*ip))
            }
        };
        Self { matches, class, unique }
    }
}

/// Replaces ranks by their order: which of two entries is narrower matters, by how much does not.
fn make_dense(matches: &mut [Match]) {
    let (mut dense, mut last) = (0, None);
    for m in matches {
        if last.is_some_and(|last| last != m.rank) {
            dense += 1;
        }
        last = Some(m.rank);
        m.rank = dense;
    }
}

fn is_unique(pair: &Pair<'_>, ip: CanonicalIp) -> bool {
    let listener = |view: &super::probe::Half<'_>| {
        view.set.floor.listeners.iter().any(|listener| speaks_of(listener, ip))
    };
    let metadata = |view: &super::probe::Half<'_>| {
        owners(view.set, view.bound)
            .any(|(_, owner)| owner.metadata.iter().any(|(address, _)| *address == ip))
    };
    pair.views().iter().any(|view| listener(view) || metadata(view))
}
