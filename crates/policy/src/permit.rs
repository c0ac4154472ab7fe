//! Proof of an allow, with the addresses it covers. This file is the only one that makes a
//! [`Permit`], a [`HopPermit`] or an [`InfraPermit`], and dialing takes nothing else:
//! connecting without a decision does not compile.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use exeat_model::{AddressClass, Authority, CanonicalIp, Host, Never};
use smallvec::SmallVec;

use crate::announce::Announce;
use crate::caps::Caps;
use crate::decide::{Allowed, Candidates, Denial, EgressRequest, denied_address};
use crate::entry::Answers;
use crate::hop::{HopSpec, Resolve};
use crate::opening::{OpeningRule, opening};
use crate::place::Revision;
use crate::reason::Reason;
use crate::rule::{At, ListSide, RuleId};
use crate::set::{Mode, PolicySet};

/// Proof that one rule allows a target at these addresses. Only [`permit`] builds one.
#[derive(Clone, Debug)]
pub struct Permit {
    /// Shared, since the flow that it allows keeps a copy of the permit.
    addrs: Arc<[SocketAddr]>,
    /// Whether they are allowed only as long as none of them is one of this host.
    elsewhere: bool,
    rule: RuleId,
    opening: OpeningRule,
    announce: Announce,
    verify: Option<bool>,
    caps: Caps,
    would_deny: Option<Denial>,
    revision: Revision,
}

impl Permit {
    /// Returns the addresses that may be dialled, in the order they were answered; never empty.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Returns whether none of the addresses may be one of this host: a listener of ours on every address has the port.
    /// Whoever connects has to ask the system first.
    #[must_use]
    pub fn must_be_elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// Returns the rule that covers them.
    #[must_use]
    pub fn rule(&self) -> RuleId {
        self.rule
    }

    /// Returns what must open the connection.
    #[must_use]
    pub fn opening(&self) -> &OpeningRule {
        &self.opening
    }

    /// Returns what the upstream is told of the client: what the rule says.
    #[must_use]
    pub fn announce(&self) -> Announce {
        self.announce
    }

    /// Returns whether a flow is left to a relay that looks at what opens it, if the rule or one of a ceiling says; of
    /// both, that it is.
    #[must_use]
    pub fn verify(&self) -> Option<bool> {
        self.verify
    }

    /// Returns what the flow may come to: what the rule, a rule of each ceiling and the principal
    /// say, of each kind the lowest.
    #[must_use]
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// Returns why the request would have been refused, if only report mode let it through.
    #[must_use]
    pub fn would_deny(&self) -> Option<Denial> {
        self.would_deny
    }

    /// Returns the snapshot that decided.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// Proof that one rule allows a target through its policy's next hop. Only [`permit_via`]
/// builds one. It opens no connection by itself: [`permit_hop`] gives the addresses of the hop.
#[derive(Clone, Debug)]
pub struct HopPermit {
    hop: Arc<HopSpec>,
    target: Authority,
    /// The addresses of the target that were checked here; empty if it was not resolved.
    checked: SmallVec<[IpAddr; 4]>,
    rule: RuleId,
    opening: OpeningRule,
    caps: Caps,
    would_deny: Option<Denial>,
    revision: Revision,
}

impl HopPermit {
    /// Returns the next hop.
    #[must_use]
    pub fn hop(&self) -> &Arc<HopSpec> {
        &self.hop
    }

    /// Returns what the next hop may be asked for.
    #[must_use]
    pub fn target(&self) -> &Authority {
        &self.target
    }

    /// Returns the addresses that the target was resolved to here and checked for, or the
    /// literal; empty if only the next hop resolves.
    #[must_use]
    pub fn checked(&self) -> &[IpAddr] {
        &self.checked
    }

    /// Returns the rule that allows the target.
    #[must_use]
    pub fn rule(&self) -> RuleId {
        self.rule
    }

    /// Returns what must open the connection.
    #[must_use]
    pub fn opening(&self) -> &OpeningRule {
        &self.opening
    }

    /// Returns what the flow may come to: what the rule, a rule of each ceiling and the principal
    /// say, of each kind the lowest.
    #[must_use]
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// Returns why the request would have been refused, if only report mode let it through.
    #[must_use]
    pub fn would_deny(&self) -> Option<Denial> {
        self.would_deny
    }

    /// Returns the snapshot that decided.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// Proof that addresses belong to infrastructure which the operator configured. Only
/// [`permit_hop`] and [`permit_key_server`] build one, for a next hop or a server of keys of the configuration: no
/// client can name one.
#[derive(Clone, Debug)]
pub struct InfraPermit {
    addrs: SmallVec<[SocketAddr; 4]>,
    /// As of a [`Permit`].
    elsewhere: bool,
}

impl InfraPermit {
    /// Returns the addresses that may be dialled; never empty.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Returns whether none of the addresses may be one of this host, as [`Permit::must_be_elsewhere`] does.
    #[must_use]
    pub fn must_be_elsewhere(&self) -> bool {
        self.elsewhere
    }
}

/// Turns an allow into a permit for the addresses that the target stands for.
///
/// One rule must cover every address alone, and so must one rule of each ceiling. `answers =
/// "filter"` drops what the rule does not cover instead of refusing. For a literal target pass
/// the literal itself.
///
/// # Errors
/// `address_not_allowed` when no rule covers the addresses, `dns_failed` when there are none,
/// `tls_required` when a rule and a ceiling expect different protocols.
pub fn permit(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    allowed: &Allowed,
    addrs: &[IpAddr],
) -> Result<Permit, Denial> {
    if addrs.is_empty() {
        return Err(Denial::of(Reason::DnsFailed));
    }
    if allowed.way.is_some() {
        return Err(Denial::of(Reason::AddressNotAllowed));
    }
    let addrs = distinct(addrs);
    let found = first_that_covers(set, allowed, |rule| covering(set, request, allowed, rule, &addrs))?;
    let port = request.target.port;
    Ok(Permit {
        addrs: found.covered.iter().map(|ip| SocketAddr::new(ip.get(), port.get())).collect(),
        elsewhere: found.covered.iter().any(|&ip| set.floor.may_contain(ip, port)),
        rule: found.rule,
        opening: opening(set, request, allowed, found.rule, &found.covered)?,
        announce: announce(set, found.rule),
        verify: verify(set, request, allowed, &found),
        caps: caps(set, request, allowed, &found),
        would_deny: found.would_deny,
        revision: set.revision(),
    })
}

/// Turns an allow into a permit for the next hop that [`Allowed::way`] names.
///
/// `addrs` are those that the name was resolved to here, empty where the next hop alone resolves.
/// Then a rule, or a ceiling, with `addresses` covers nothing, since nothing can be checked. A
/// literal target is checked as ever and needs no `addrs`.
///
/// # Errors
/// As [`permit`]; `policy_unavailable` if the request leaves straight from here.
pub fn permit_via(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    allowed: &Allowed,
    addrs: &[IpAddr],
) -> Result<HopPermit, Denial> {
    let Some(way) = &allowed.way else { return Err(Denial::of(Reason::PolicyUnavailable)) };
    let addrs = match (&request.target.host, way.resolve) {
        (Host::Address(ip), _) => Addresses::from_slice(&[*ip]),
        (Host::Name(_), Resolve::Local) if addrs.is_empty() => return Err(Denial::of(Reason::DnsFailed)),
        (Host::Name(_), Resolve::Local) => distinct(addrs),
        (Host::Name(_), Resolve::NextHop) => Addresses::new(),
    };
    let found = first_that_covers(set, allowed, |rule| match addrs.as_slice() {
        [] => unresolved(set, allowed, rule),
        addrs => covering(set, request, allowed, rule, addrs),
    })?;
    Ok(HopPermit {
        hop: Arc::clone(&way.hop),
        target: request.target.clone(),
        checked: addrs.iter().map(|ip| ip.get()).collect(),
        rule: found.rule,
        opening: opening(set, request, allowed, found.rule, &found.covered)?,
        caps: caps(set, request, allowed, &found),
        would_deny: found.would_deny,
        revision: set.revision(),
    })
}

/// Returns the permit for the addresses of the next hop itself: its own literal, or what its name was resolved to.
///
/// Infrastructure may lie in special-use space. What stays closed are the addresses that are
/// never reachable and our own listeners.
///
/// # Errors
/// `loop_detected` if an address is one of our own listeners, `address_not_allowed` if one is
/// never reachable, `dns_failed` if there is none.
pub fn permit_hop(set: &PolicySet, permit: &HopPermit, addrs: &[IpAddr]) -> Result<InfraPermit, Denial> {
    infrastructure(set, &permit.hop.endpoint, addrs)
}

/// Returns the permit for the addresses of a server that the configuration has the keys of an issuer fetched from: its own
/// literal, or what its name was resolved to.
///
/// # Errors
/// As [`permit_hop`]; `policy_unavailable` if the configuration knows no such server.
pub fn permit_key_server(
    set: &PolicySet,
    endpoint: &Authority,
    addrs: &[IpAddr],
) -> Result<InfraPermit, Denial> {
    if !set.key_servers.contains(endpoint) {
        return Err(Denial::of(Reason::PolicyUnavailable));
    }
    infrastructure(set, endpoint, addrs)
}

fn infrastructure(set: &PolicySet, endpoint: &Authority, addrs: &[IpAddr]) -> Result<InfraPermit, Denial> {
    let addrs = match &endpoint.host {
        Host::Address(ip) => Addresses::from_slice(&[*ip]),
        Host::Name(_) => distinct(addrs),
    };
    if addrs.is_empty() {
        return Err(Denial::of(Reason::DnsFailed));
    }
    let port = endpoint.port;
    if addrs.iter().any(|&ip| set.floor.contains(ip, port)) {
        return Err(Denial::of(Reason::LoopDetected));
    }
    if addrs.iter().any(|ip| matches!(ip.class(), AddressClass::Never(_))) {
        return Err(Denial::of(Reason::AddressNotAllowed));
    }
    Ok(InfraPermit {
        addrs: addrs.iter().map(|ip| SocketAddr::new(ip.get(), port.get())).collect(),
        elsewhere: addrs.iter().any(|&ip| set.floor.may_contain(ip, port)),
    })
}

/// The rule that permits, and the addresses it covers.
struct Found {
    rule: RuleId,
    covered: Addresses,
    would_deny: Option<Denial>,
}

/// The most specific rule that covers the request alone, among those whose way out is the request's.
fn first_that_covers(
    set: &PolicySet,
    allowed: &Allowed,
    covering: impl Fn(RuleId) -> Result<Addresses, Denial>,
) -> Result<Found, Denial> {
    let mut refusal = allowed.would_deny;
    for &rule in allowed.policies.iter().filter(|rule| leaves(set, allowed, rule)) {
        match covering(rule) {
            Ok(covered) => return Ok(Found { rule, covered, would_deny: None }),
            Err(denial) => refusal = Some(refusal.unwrap_or(denial)),
        }
    }
    let denial = refusal.unwrap_or(Denial::of(Reason::AddressNotAllowed));
    match allowed.report.filter(|rule| leaves(set, allowed, rule)) {
        Some(rule) => Ok(Found { rule, covered: covering(rule)?, would_deny: Some(denial) }),
        None => Err(denial),
    }
}

/// Whether the way out of a rule is the request's.
pub(crate) fn leaves(set: &PolicySet, allowed: &Allowed, rule: &RuleId) -> bool {
    set.owner(rule.owner).is_some_and(|owner| owner.way == allowed.own_way)
}

/// Whether `rule` and a rule of each ceiling allow a name without its addresses: no address, if so.
fn unresolved(set: &PolicySet, allowed: &Allowed, rule: RuleId) -> Result<Addresses, Denial> {
    let needs_none = |rule: RuleId| match rule.at {
        At::Entry { .. } => set.terms(rule).is_some_and(|terms| terms.addresses.is_none()),
        At::Metadata(_) => false,
        At::Report => true,
    };
    let below = |ceiling: &Candidates| ceiling.iter().any(|&above| needs_none(above));
    if needs_none(rule) && allowed.ceilings.iter().all(below) {
        Ok(Addresses::new())
    } else {
        Err(Denial { reason: Reason::AddressNotAllowed, rule: Some(rule) })
    }
}

/// The addresses in canonical form, each once, in their order.
fn distinct(addrs: &[IpAddr]) -> Addresses {
    let mut seen = Addresses::new();
    for ip in addrs.iter().map(|&ip| CanonicalIp::new(ip)) {
        if !seen.contains(&ip) {
            seen.push(ip);
        }
    }
    seen
}

type Addresses = SmallVec<[CanonicalIp; 4]>;

/// The addresses that `rule` covers, if it covers enough of them.
fn covering(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    allowed: &Allowed,
    rule: RuleId,
    addrs: &[CanonicalIp],
) -> Result<Addresses, Denial> {
    let answers = set.terms(rule).map_or(Answers::Refuse, |terms| terms.answers);
    let covered = addrs.iter().copied().filter(|&ip| {
        covers(set, request, rule, ip)
            && denied_address(set, request, ip, Mode::Enforce).is_none()
            && (rule.at == At::Report || denied_address(set, request, ip, Mode::Report).is_none())
    });
    let mut covered: Addresses = covered.collect();
    for ceiling in &allowed.ceilings {
        covered = below(set, request, ceiling, covered);
    }
    let enough = match answers {
        Answers::Refuse => covered.len() == addrs.len(),
        Answers::Filter => !covered.is_empty(),
    };
    if enough { Ok(covered) } else { Err(Denial { reason: Reason::AddressNotAllowed, rule: Some(rule) }) }
}

/// What remains of `addrs` below one ceiling: what its best single rule covers.
fn below(set: &PolicySet, request: &EgressRequest<'_>, ceiling: &Candidates, addrs: Addresses) -> Addresses {
    let covered_by = |&rule: &RuleId| -> Addresses {
        addrs.iter().copied().filter(|&ip| covers(set, request, rule, ip)).collect()
    };
    // `max_by_key` keeps the last of equals; reversed, that is the most specific rule.
    ceiling.iter().rev().map(covered_by).max_by_key(SmallVec::len).unwrap_or_default()
}

/// Whether one rule opens one address for this target.
pub(crate) fn covers(set: &PolicySet, request: &EgressRequest<'_>, rule: RuleId, ip: CanonicalIp) -> bool {
    let Some(owner) = set.owner(rule.owner) else { return false };
    if set.floor.contains(ip, request.target.port) {
        return false;
    }
    let class = ip.class();
    let metadata = owner.metadata.iter().any(|(address, _)| *address == ip);
    match class {
        AddressClass::Never(Never::Metadata) if metadata => {}
        AddressClass::Never(_) => return false,
        AddressClass::Global | AddressClass::SpecialUse(_) => {}
    }
    let At::Entry { side: ListSide::Allow, list, entry } = rule.at else {
        return match rule.at {
            At::Metadata(_) => metadata,
            At::Report => class == AddressClass::Global,
            At::Entry { .. } => false,
        };
    };
    let Some(list_ref) = owner.lists(ListSide::Allow).get(list as usize) else { return false };
    match &request.target.host {
        Host::Address(_) => class == AddressClass::Global || list_ref.list().network_contains(entry, ip),
        Host::Name(_) => match list_ref.terms(entry).addresses {
            Some(blocks) => blocks.iter().any(|block| block.contains(ip)),
            None => class == AddressClass::Global,
        },
    }
}

/// What the upstream is told of the client. Only an entry can ask for it: report mode opens connections that nobody
/// listed, and a metadata service has its own protocol.
fn announce(set: &PolicySet, rule: RuleId) -> Announce {
    match rule.at {
        At::Entry { .. } => set.terms(rule).map_or(Announce::Nothing, |terms| terms.announce),
        At::Metadata(_) | At::Report => Announce::Nothing,
    }
}

/// Whether a relay has to look, as the rule or each ceiling's rule says.
fn verify(set: &PolicySet, request: &EgressRequest<'_>, allowed: &Allowed, found: &Found) -> Option<bool> {
    let above = allowed.ceilings.iter().filter_map(|ceiling| above(set, request, ceiling, &found.covered));
    let rules = std::iter::once(found.rule).chain(above);
    rules.filter_map(|rule| set.terms(rule)?.verify).reduce(|one, other| one || other)
}

/// What the rule and each ceiling's rule let a flow come to, and the principal. A ceiling bounds what
/// report mode lets through, too: it enforces.
fn caps(set: &PolicySet, request: &EgressRequest<'_>, allowed: &Allowed, found: &Found) -> Caps {
    let above = allowed.ceilings.iter().filter_map(|ceiling| above(set, request, ceiling, &found.covered));
    let rules = std::iter::once(found.rule).chain(above);
    let said = rules.filter_map(|rule| set.terms(rule)).map(|terms| terms.caps);
    said.fold(request.bound.caps, Caps::strictest)
}

/// The rule of a ceiling that lets all of `covered` through.
pub(crate) fn above(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    ceiling: &Candidates,
    covered: &[CanonicalIp],
) -> Option<RuleId> {
    let covers_all = |rule: &RuleId| match covered {
        // Not resolved here: a rule about addresses did not let it through.
        [] => set.terms(*rule).is_some_and(|terms| terms.addresses.is_none()),
        covered => covered.iter().all(|&ip| covers(set, request, *rule, ip)),
    };
    ceiling.iter().copied().find(covers_all)
}
