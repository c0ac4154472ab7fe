//! What two snapshots allow differently for one principal, as sets.
//!
//! The destinations that a policy can tell apart are finitely many: each name it mentions, the
//! rest below each wildcard, the rest of all names, the addresses from one edge of a network to
//! the next, and the ports from one edge of a range to the next. One member of each class is put
//! to [`crate::decide`] and [`crate::permit`] on both sides; where they differ, that member is
//! the witness of the change. So no change is made up.
//!
//! What both sides allow may leave by another way, straight from here or through a next hop, or
//! tell its upstream something else of the client: that is a change too, once gained and once lost.
//!
//! Nor is one missed: for every request whose target is a name, or an address, that one side
//! allows and the other refuses, the result is not empty. This holds for a name with one
//! address, at any port, for what opens the connection, and for what a flow may come to. It does
//! not cover answers of several addresses that are split between rules; nor another opening or
//! bound of what both sides let through, one of them in report mode alone; nor IPv6 targets that
//! differ from their neighbours only by an IPv4 address inside (Teredo, ISATAP,
//! `64:ff9b:1::/48`).

mod classes;
mod compare;
mod conditions;
mod denied;
mod fold;
mod join;
mod probe;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use exeat_model::{Authority, DnsName, IpBlock, PortSet, Transport};
use hashbrown::HashMap;

use crate::announce::Announce;
use crate::caps::Cap;
use crate::decide::owners;
use crate::reason::Reason;
use crate::rule::{ListSide, RuleView};
use crate::set::{Bound, ListRef, Mode, PolicySet};
use crate::transports::Transports;

use probe::Pair;

/// One side of a comparison: a snapshot, and what of it holds for the principal.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The snapshot.
    pub set: &'a PolicySet,
    /// What of it holds. The default holds nothing, which allows nothing.
    pub bound: &'a Bound,
}

/// Which side allows more.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// The old side refuses it and the new side allows it.
    Gained,
    /// The old side allows it and the new side refuses it.
    Lost,
}

/// The destinations of a change.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Hosts {
    /// One name.
    Name(DnsName),
    /// The names below this one, but for those that narrower entries of either side speak of.
    Below(DnsName),
    /// The names and addresses that are globally reachable, but for those that narrower entries
    /// of either side speak of.
    Public,
    /// Targets given as these addresses, but for those that are never reachable.
    Addresses(IpBlock),
    /// The names that both sides allow. What changed is where they may lead.
    AllowedNames,
}

/// What of a destination changed.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum What {
    /// The destination as a whole.
    Target,
    /// Connections to these addresses, when the name resolves to them.
    At(IpBlock),
    /// Connections to globally reachable addresses, when the name resolves to them.
    AtPublic,
    /// Answers that mix allowed and forbidden addresses.
    MixedAnswers,
    /// Connections that open like this.
    OpenedBy(Vec<Opening>),
    /// Connections that leave this way; the other side sends them another.
    LeavesBy(WayOut),
    /// Connections that say this of the client; the other side has them say something else.
    Announcing(Announce),
    /// Flows that go beyond this.
    Beyond(Cap),
}

/// The way that a request leaves by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum WayOut {
    /// Straight from here.
    Straight,
    /// Through a next hop.
    NextHop {
        /// Its name.
        name: Arc<str>,
        /// Where it listens.
        endpoint: Authority,
    },
}

/// How a connection opens.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Opening {
    /// TLS with this server name; `None` for no server name.
    Tls(Option<DnsName>),
    /// HTTP/1 with this Host; `None` for the address that is the target.
    Http(Option<DnsName>),
    /// TLS with a server name that no rule speaks of.
    TlsOther(DnsName),
    /// HTTP/1 with a Host that no rule speaks of.
    HttpOther(DnsName),
    /// Anything else.
    Other,
}

/// A request that one side allows and the other refuses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Witness {
    /// The target.
    pub target: Authority,
    /// What the name resolves to; empty if the target alone tells.
    pub addrs: Vec<IpAddr>,
    /// How the connection opens, if that tells.
    pub opening: Option<Opening>,
    /// What the flow goes beyond, if that tells.
    pub beyond: Option<Cap>,
}

/// Something that one side allows and the other refuses, or handles differently.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Which side allows it.
    pub direction: Direction,
    /// The destinations.
    pub hosts: Hosts,
    /// What carries the connections.
    pub transport: Transports,
    /// The ports.
    pub ports: PortSet,
    /// What changed about them.
    pub what: What,
    /// The rule of the side that allows it.
    pub rule: RuleView,
    /// Why the other side refuses it. Of a way out: what ends the connections that took it. A PROXY
    /// header has the same reason, and ends none: it was sent when they began.
    pub reason: Reason,
    /// The rule of the other side that refuses it, that comes nearest, or that handles it differently.
    pub refused_by: Option<RuleView>,
    /// A request to see it with.
    pub witness: Witness,
}

/// Returns what the two sides allow differently, in the order of the rules that allow it: gained
/// first, then lost.
///
/// The cost grows with the entries of both sides and not with their product, but for different
/// combinations of settings (`ports`, `addresses`, `expect`, …) times the deny networks that
/// differ.
#[must_use]
pub fn diff(old: View<'_>, new: View<'_>) -> Vec<Change> {
    let of = |transport| {
        let pair = Pair::new(old, new, transport);
        let (mut findings, carriers) = compare::names(&pair);
        findings.extend(compare::literals(&pair));
        findings.extend(denied::addresses(&pair, &carriers));
        fold::changes(&pair, findings)
    };
    let mut changes = of(Transport::Tcp);
    if opens_udp(old) || opens_udp(new) {
        let told = |c: &Change| (c.direction, c.hosts.clone(), c.ports.clone(), c.what.clone());
        let mut of_tcp: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, tcp) in changes.iter().enumerate() {
            of_tcp.entry(told(tcp)).or_default().push(at);
        }
        for udp in of(Transport::Udp) {
            let alike = of_tcp.get(&told(&udp)).map(Vec::as_slice).unwrap_or_default();
            let is_same = |at: &&usize| changes.get(**at).is_some_and(|tcp| tcp.rule == udp.rule);
            match alike.iter().find(is_same).and_then(|&at| changes.get_mut(at)) {
                Some(tcp) => tcp.transport = Transports::Any,
                None => changes.push(udp),
            }
        }
        changes.sort_by_key(|change| change.direction);
    }
    changes
}

/// Whether any rule allows UDP, as most policies do not: without one there is nothing to compare.
fn opens_udp(view: View<'_>) -> bool {
    owners(view.set, view.bound).any(|(_, owner)| {
        // Report mode lets everything public through, whatever carries it.
        owner.mode == Mode::Report || owner.lists(ListSide::Allow).iter().any(ListRef::has_udp)
    })
}

impl Direction {
    /// The sign that stands before a line.
    #[must_use]
    pub const fn sign(self) -> char {
        match self {
            Self::Gained => '+',
            Self::Lost => '-',
        }
    }

    /// The word in machine-readable output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gained => "gained",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Public => f.write_str("@any-public"),
            Self::Addresses(block) if block.first().is_ipv6() => write!(f, "[{block}]"),
            Self::Addresses(block) => write!(f, "{block}"),
            Self::AllowedNames => f.write_str("allowed names"),
        }
    }
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(Some(name)) => write!(f, "TLS for {name}"),
            Self::Tls(None) => f.write_str("TLS without a name"),
            Self::Http(Some(name)) => write!(f, "HTTP for {name}"),
            Self::Http(None) => f.write_str("HTTP for the address"),
            Self::TlsOther(_) => f.write_str("TLS for any name"),
            Self::HttpOther(_) => f.write_str("HTTP for any host"),
            Self::Other => f.write_str("anything else"),
        }
    }
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Straight => f.write_str("straight from here"),
            Self::NextHop { name, endpoint } => write!(f, "through {name} at {endpoint}"),
        }
    }
}

/// The part of a line after host and ports; empty for the target itself.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target => Ok(()),
            Self::At(block) => write!(f, "at {block}"),
            Self::AtPublic => f.write_str("at public addresses"),
            Self::MixedAnswers => f.write_str("with answers that mix allowed and forbidden addresses"),
            Self::OpenedBy(openings) => {
                let openings: Vec<String> = openings.iter().map(ToString::to_string).collect();
                write!(f, "opened by {}", openings.join(", "))
            }
            Self::LeavesBy(way) => way.fmt(f),
            Self::Announcing(Announce::Nothing) => f.write_str("without a PROXY header"),
            Self::Announcing(announce @ (Announce::Client | Announce::ClientAndPrincipal)) => {
                write!(f, "with a PROXY header ({})", announce.word())
            }
            Self::Beyond(cap) => write!(f, "beyond {cap}"),
        }
    }
}
