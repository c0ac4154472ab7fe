//! What the packets of one principal may reach, for those who open a firewall: everything that a name stands for, on
//! every port at once. It asks the same functions that decide on one connection.

use std::net::IpAddr;

use exeat_model::{Authority, DnsName, Host, PortRange, Transport};

use crate::caps::Caps;
use crate::cuts::Cuts;
use crate::decide::{Denial, EgressRequest, Verdict, decide, each_match, owners};
use crate::entry::Expect;
use crate::permit::{Permit, permit};
use crate::reason::Reason;
use crate::rule::{ListSide, RuleId};
use crate::set::{Bound, PolicySet};

/// What one rule opens of a name: these ports of these addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    /// What carries the connections.
    pub transport: Transport,
    /// The ports.
    pub ports: PortRange,
    /// The addresses, in the order they were answered; never empty.
    pub addrs: Vec<IpAddr>,
    /// The rule that covers them.
    pub rule: RuleId,
    /// Why it would be refused, if only report mode opens it.
    pub would_deny: Option<Denial>,
    /// Which of the flows are a relay's, if there is one.
    pub relayed: Relayed,
}

/// Which flows are left to a relay, which looks at what opens them and holds them to their bounds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relayed {
    /// None: nothing in them tells which name they are for, or the rule says so.
    Never,
    /// Those to an address that several names are known to share.
    IfShared,
    /// All: the rule says so, or only a relay can keep to it.
    Always,
}

/// Whether a name may be asked for at all, by a principal that then connects by itself: whether a connection to some port
/// could be allowed, straight from here. To ask is to tell the servers, so nothing is resolved before.
///
/// Returns the rule that says so, the most specific of the lowest port that has one, and why it would be refused if only
/// report mode lets it through.
///
/// # Errors
/// The reason: of a port that a rule refuses if there is one, else of the default one.
/// `egress_gateway_unavailable` if the name is reached through a next hop alone, which resolves for itself.
pub fn may_resolve(
    set: &PolicySet,
    bound: &Bound,
    name: &DnsName,
) -> Result<(Option<RuleId>, Option<Denial>), Denial> {
    let mut refusal = None;
    let mut reported = None;
    for (transport, ports) in questions(set, bound, name) {
        let target = Authority { host: Host::Name(name.clone()), port: ports.first() };
        match decide(set, &EgressRequest { bound, target: &target, transport }) {
            Verdict::Allow(allowed) if allowed.way().is_none() => {
                let rule = allowed.rules().first().copied().or(allowed.report);
                match allowed.would_deny {
                    None => return Ok((rule, None)),
                    // A name that is allowed on one port is allowed, whatever report mode lets through on others.
                    would_deny @ Some(_) => reported = reported.or(Some((rule, would_deny))),
                }
            }
            Verdict::Allow(_) => note(&mut refusal, Denial::of(Reason::EgressGatewayUnavailable)),
            Verdict::Deny(denial) => note(&mut refusal, denial),
        }
    }
    reported.ok_or(refusal.unwrap_or(Denial::of(Reason::HostNotAllowed)))
}

/// Returns everything that `bound` may reach of `name`, which was resolved to `addrs`: for every port and transport what
/// [`decide`] and [`permit`] say, with neighbours that are opened alike put together, in ascending order.
///
/// Only a relay can count the bytes of a flow and tell its age, and only it sees what opens a connection: a rule that
/// bounds flows opens nothing here, and `expect` is not looked at.
///
/// # Errors
/// The reason, if nothing may be reached: as of [`may_resolve`], and `address_not_allowed` where an address is forbidden,
/// `max_bytes` and `max_age` where only a relay could keep the rule.
pub fn reach(set: &PolicySet, bound: &Bound, name: &DnsName, addrs: &[IpAddr]) -> Result<Vec<Reach>, Denial> {
    reach_of(set, bound, name, addrs, false)
}

/// As [`reach`], where there is a relay for what only a relay can do: bounds are no reason to refuse then.
///
/// # Errors
/// The reason, if nothing may be reached.
pub fn reach_relayed(
    set: &PolicySet,
    bound: &Bound,
    name: &DnsName,
    addrs: &[IpAddr],
) -> Result<Vec<Reach>, Denial> {
    reach_of(set, bound, name, addrs, true)
}

fn reach_of(
    set: &PolicySet,
    bound: &Bound,
    name: &DnsName,
    addrs: &[IpAddr],
    has_relay: bool,
) -> Result<Vec<Reach>, Denial> {
    let mut found: Vec<Reach> = Vec::new();
    let mut refusal = None;
    for (transport, ports) in questions_at(set, bound, name, addrs) {
        let target = Authority { host: Host::Name(name.clone()), port: ports.first() };
        let request = EgressRequest { bound, target: &target, transport };
        // A relay is there for TCP alone.
        let permit = if has_relay && transport == Transport::Tcp {
            straight(set, &request, addrs)
        } else {
            permitted(set, &request, addrs)
        };
        match permit {
            Err(denial) => note(&mut refusal, denial),
            Ok(permit) => add(&mut found, transport, ports, &permit, has_relay),
        }
    }
    if found.is_empty() { Err(refusal.unwrap_or(Denial::of(Reason::HostNotAllowed))) } else { Ok(found) }
}

/// Returns whether a policy of `bound` allows anything below `name`, so that clients must not take the name's absence for
/// that of everything below it (RFC 8020). Denies and ceilings are not looked at. The first question to a snapshot takes
/// time in proportion to its allow lists, 0.2 s for a million names.
#[must_use]
pub fn allows_below(set: &PolicySet, bound: &Bound, name: &DnsName) -> bool {
    let allowing = bound.policies.iter().filter_map(|&number| set.owner(number));
    let mut lists = allowing.flat_map(|owner| owner.lists(ListSide::Allow));
    lists.any(|list| list.list().has_below(name))
}

/// The permit of one port, if the kernel can keep to it.
pub(crate) fn permitted(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    addrs: &[IpAddr],
) -> Result<Permit, Denial> {
    let permit = straight(set, request, addrs)?;
    match needs_relay(permit.caps()) {
        Some(reason) => Err(Denial { reason, rule: Some(permit.rule()) }),
        None => Ok(permit),
    }
}

/// The permit of one port that is reached straight from here.
fn straight(set: &PolicySet, request: &EgressRequest<'_>, addrs: &[IpAddr]) -> Result<Permit, Denial> {
    let allowed = match decide(set, request) {
        Verdict::Deny(denial) => return Err(denial),
        Verdict::Allow(allowed) => allowed,
    };
    if allowed.way().is_some() {
        return Err(Denial::of(Reason::EgressGatewayUnavailable));
    }
    permit(set, request, &allowed, addrs)
}

/// Which flows of a permit are a relay's.
fn relayed(permit: &Permit, transport: Transport) -> Relayed {
    match transport {
        Transport::Udp => return Relayed::Never,
        Transport::Tcp => {}
    }
    if needs_relay(permit.caps()).is_some() {
        return Relayed::Always;
    }
    match (permit.verify(), permit.opening().expect()) {
        (Some(true), _) => Relayed::Always,
        (None, Expect::Tls | Expect::Http) => Relayed::IfShared,
        (None, Expect::Any) | (Some(false), _) => Relayed::Never,
    }
}

/// What would end a flow that only a relay can end.
fn needs_relay(caps: Caps) -> Option<Reason> {
    if caps.max_bytes_up.is_some() || caps.max_bytes_down.is_some() {
        Some(Reason::MaxBytes)
    } else if caps.max_age.is_some() {
        Some(Reason::MaxAge)
    } else {
        None
    }
}

/// Puts what a permit says to what is next to it, if that is the same.
fn add(found: &mut Vec<Reach>, transport: Transport, ports: PortRange, permit: &Permit, has_relay: bool) {
    let addrs: Vec<IpAddr> = permit.addrs().iter().map(std::net::SocketAddr::ip).collect();
    let (rule, would_deny) = (permit.rule(), permit.would_deny());
    let relayed = match relayed(permit, transport) {
        Relayed::IfShared if !has_relay => Relayed::Never,
        relayed @ (Relayed::Never | Relayed::IfShared | Relayed::Always) => relayed,
    };
    let next = Reach { transport, ports, addrs, rule, would_deny, relayed };
    if let Some(last) = found.last_mut() {
        let is_next = last.ports.last().get().checked_add(1) == Some(ports.first().get());
        let joined = PortRange::new(last.ports.first(), ports.last());
        if let (true, Some(joined)) = (is_next, joined)
            && *last == (Reach { ports: last.ports, ..next.clone() })
        {
            last.ports = joined;
            return;
        }
    }
    found.push(next);
}

/// Keeps the refusal that says most: one that a rule made over one that no rule matched.
fn note(refusal: &mut Option<Denial>, denial: Denial) {
    let weight = |denial: &Denial| {
        [Reason::PortNotAllowed, Reason::HostNotAllowed].iter().position(|reason| *reason == denial.reason)
    };
    if refusal.as_ref().is_none_or(|kept| weight(kept) > weight(&denial)) {
        *refusal = Some(denial);
    }
}

/// Every transport, with the ports cut so that the name alone is answered alike within each piece.
fn questions(set: &PolicySet, bound: &Bound, name: &DnsName) -> Vec<(Transport, PortRange)> {
    questions_at(set, bound, name, &[])
}

/// As [`questions`], for what the name was resolved to.
fn questions_at(
    set: &PolicySet,
    bound: &Bound,
    name: &DnsName,
    addrs: &[IpAddr],
) -> Vec<(Transport, PortRange)> {
    let mut cuts = Cuts::of_allows();
    let hosts = std::iter::once(Host::Name(name.clone()));
    let hosts = hosts.chain(addrs.iter().map(|&ip| Host::Address(ip.into())));
    for host in hosts {
        for (_, owner) in owners(set, bound) {
            for side in [ListSide::Allow, ListSide::Deny] {
                each_match(owner, side, &host, |_, _, terms| cuts.at(terms.ports));
            }
            cuts.at(owner.defaults.ports.as_ref());
        }
    }
    if let Some(narrowing) = &bound.narrowing {
        narrowing.each_ports(name, |ports| cuts.at(ports));
    }
    set.floor.listeners.iter().for_each(|listener| cuts.at_port(listener.port()));
    let pieces = cuts.pieces();
    Transport::ALL
        .into_iter()
        .flat_map(|transport| pieces.iter().map(move |&piece| (transport, piece)))
        .collect()
}
