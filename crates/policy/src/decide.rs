//! The one decision: may this principal reach this target, as far as the name, the port and
//! the literal address tell. Addresses behind a name are [`crate::permit`]'s part.

use exeat_model::{AddressClass, Authority, CanonicalIp, Host, Port, Transport, in_closed_zone};
use smallvec::SmallVec;

use crate::carried::with_carried;
use crate::entry::Expect;
use crate::hop::Way;
use crate::list::List;
use crate::reason::Reason;
use crate::rule::{At, ListSide, RuleId, Terms};
use crate::set::{Bound, Mode, Owner, PolicySet};
use crate::transports::Transports;

/// A request to reach something, as every enforcement point puts it.
#[derive(Clone, Copy, Debug)]
pub struct EgressRequest<'a> {
    /// What holds for the principal, from the same snapshot that decides.
    pub bound: &'a Bound,
    /// The target as asked, in canonical form.
    pub target: &'a Authority,
    /// What carries it. A proxy relays TCP alone.
    pub transport: Transport,
}

/// The decision. Never an error: what goes wrong is a reason to deny.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Some rule allows it, as far as the target tells; [`crate::permit`] has the last word.
    Allow(Allowed),
    /// It is refused.
    Deny(Denial),
}

/// Why a request is refused, and the rule that says so where one does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The reason.
    pub reason: Reason,
    /// The deny rule, or the allow rule that came nearest.
    pub rule: Option<RuleId>,
}

impl Denial {
    /// A refusal that no rule in particular caused.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        Self { reason, rule: None }
    }
}

/// Rules that match, the most specific first.
pub(crate) type Candidates = SmallVec<[RuleId; 4]>;

/// The rules that allow a request by its target, most specific first.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowed {
    pub(crate) policies: Candidates,
    /// For each ceiling in turn, the rules that keep the request below it.
    pub(crate) ceilings: Vec<Candidates>,
    /// The report-mode policy that lets the request through if nothing else does.
    pub(crate) report: Option<RuleId>,
    /// Why the request would be refused if that policy were enforced.
    pub(crate) would_deny: Option<Denial>,
    /// The way out that the most specific rule gives.
    pub(crate) way: Option<Way>,
    /// The one that the rules must say themselves. It is another only where a token's limit adds one.
    pub(crate) own_way: Option<Way>,
}

impl Allowed {
    /// Returns the matching rules of the policies, most specific first.
    #[must_use]
    pub fn rules(&self) -> &[RuleId] {
        &self.policies
    }

    /// Returns the next hop that the request leaves through; `None` if it leaves straight from here. The most
    /// specific rule says so, and of equals one with a next hop; rules with another way out cannot permit the
    /// request. [`crate::permit_via`] gives the proof for a next hop, [`crate::permit`] for the other case.
    #[must_use]
    pub fn way(&self) -> Option<&Way> {
        self.way.as_ref()
    }
}

/// Decides one request by its name, port and literal address.
///
/// | denied by a rule | allowed | below every ceiling | verdict |
/// |---|---|---|---|
/// | yes | – | – | deny `host_denied` |
/// | no | no | – | deny `host_not_allowed`, `ip_literal_not_allowed`, `port_not_allowed`, … |
/// | no | yes | no | deny, with the ceiling's reason |
/// | no | yes | yes | allow |
///
/// A policy in report mode turns its own refusals into an allow of public destinations, and
/// remembers the refusal. Pure: the same snapshot and request give the same verdict.
pub fn decide(set: &PolicySet, request: &EgressRequest<'_>) -> Verdict {
    let report = report_rule(set, request);
    let mut would_deny = None;
    if let Some(denial) = denied(set, request, Mode::Enforce) {
        return Verdict::Deny(denial);
    }
    let mut policies = Candidates::new();
    if let Some(denial) = denied(set, request, Mode::Report) {
        would_deny = Some(denial);
    } else {
        match allowing(set, request) {
            Ok(candidates) => policies = candidates,
            Err(denial) => would_deny = Some(denial),
        }
    }
    if let (Some(denial), None) = (would_deny, report) {
        return Verdict::Deny(denial);
    }
    let mut ceilings = Vec::new();
    for &ceiling in &request.bound.ceilings {
        match matching(set, &[ceiling], request) {
            Ok(candidates) => ceilings.push(candidates),
            Err(denial) => return Verdict::Deny(denial),
        }
    }
    let way_of = |rule: &RuleId| set.owner(rule.owner)?.way.clone();
    let own_way = policies.first().copied().or(report).as_ref().and_then(way_of);
    let mut way = own_way.clone();
    if let Some(narrowing) = &request.bound.narrowing {
        match narrowing.check_host(request).and_then(|()| narrowing.limit_rules(set, request)) {
            Ok(limits) => {
                match narrowing.way(way, limits.iter().map(|rules| rules.first().and_then(way_of))) {
                    Ok(found) => way = found,
                    Err(denial) => return Verdict::Deny(denial),
                }
                ceilings.extend(limits);
            }
            Err(denial) => return Verdict::Deny(denial),
        }
    }
    Verdict::Allow(Allowed { policies, ceilings, report, would_deny, way, own_way })
}

/// The allow rules that the permission rests on: of a token, those of its issuer's ceiling that are for its class.
pub(crate) fn allowing(set: &PolicySet, request: &EgressRequest<'_>) -> Result<Candidates, Denial> {
    let mut rules = matching(set, &request.bound.policies, request)?;
    if let Some(narrowing) = &request.bound.narrowing {
        narrowing.retain(set, &mut rules)?;
    }
    Ok(rules)
}

/// The report-mode policy that may let the request through: the first one, if the target is
/// public as far as can be told.
fn report_rule(set: &PolicySet, request: &EgressRequest<'_>) -> Option<RuleId> {
    let mut policies = request.bound.policies.iter().copied();
    // What is marked for a class of data is not left to report mode.
    if request.bound.narrowing.as_ref().is_some_and(|narrowing| narrowing.class.is_some()) {
        return None;
    }
    // Asked first, since hardly any request has one.
    let owner = policies.find(|&n| set.owner(n).is_some_and(|o| o.mode == Mode::Report))?;
    let public = match &request.target.host {
        Host::Name(name) => !in_closed_zone(name),
        Host::Address(ip) => ip.class() == AddressClass::Global,
    };
    public.then_some(RuleId { owner, at: At::Report })
}

/// The first deny rule that matches, among the owners of one mode. Ceilings always enforce.
pub(crate) fn denied(set: &PolicySet, request: &EgressRequest<'_>, mode: Mode) -> Option<Denial> {
    let rule_of = |(number, owner): (u32, &Owner)| {
        let mut found = None;
        each_match(owner, ListSide::Deny, &request.target.host, |list, entry, terms| {
            if found.is_none() && denies_port(&terms, request) {
                found = Some(At::Entry { side: ListSide::Deny, list, entry });
            }
        });
        found.map(|at| RuleId { owner: number, at })
    };
    let rule = owners(set, request.bound).filter(|(_, owner)| owner.mode == mode).find_map(rule_of)?;
    Some(Denial { reason: Reason::HostDenied, rule: Some(rule) })
}

/// The deny rule whose network contains an address that a name resolved to.
pub(crate) fn denied_address(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    ip: CanonicalIp,
    mode: Mode,
) -> Option<RuleId> {
    for (owner_number, owner) in owners(set, request.bound).filter(|(_, o)| o.mode == mode) {
        for (list, list_ref) in (0u32..).zip(owner.lists(ListSide::Deny)) {
            let mut found = None;
            each_denying_network(list_ref.list(), ip, |entry| {
                if denies_port(&list_ref.terms(entry), request) {
                    found = Some(At::Entry { side: ListSide::Deny, list, entry });
                }
            });
            if let Some(at) = found {
                return Some(RuleId { owner: owner_number, at });
            }
        }
    }
    None
}

/// Calls `found` with each network of a deny list that contains the address or one that it carries.
pub(crate) fn each_denying_network(list: &List, ip: CanonicalIp, mut found: impl FnMut(u32)) {
    with_carried(ip).for_each(|ip| list.match_network(ip, &mut found));
}

/// Every policy and ceiling of a principal.
pub(crate) fn owners<'a>(set: &'a PolicySet, bound: &'a Bound) -> impl Iterator<Item = (u32, &'a Owner)> {
    bound.owners().filter_map(|number| Some((number, set.owner(number)?)))
}

/// The allow rules of these owners that match the target and its port, most specific first, or
/// why there is none.
pub(crate) fn matching(
    set: &PolicySet,
    owners: &[u32],
    request: &EgressRequest<'_>,
) -> Result<Candidates, Denial> {
    let target = request.target;
    let mut ranked: SmallVec<[(Rank, Out<'_>, _, RuleId); 4]> = SmallVec::new();
    let mut wrong_port = None;
    let mut opens_addresses = false;
    for &number in owners {
        let Some(owner) = set.owner(number) else { continue };
        let lists = owner.lists(ListSide::Allow);
        let out = Out::of(owner);
        opens_addresses |= lists.iter().any(|l| l.list().opens_addresses());
        each_match(owner, ListSide::Allow, &target.host, |list, entry, terms| {
            let at = At::Entry { side: ListSide::Allow, list, entry };
            let rule = RuleId { owner: number, at };
            if allows_port(&terms, request) {
                let list = lists.get(list as usize).map(|l| l.list());
                let rank = rank(list, entry, &terms, target.port);
                ranked.push((rank, out, terms.caps.strictness(), rule));
            } else {
                wrong_port = Some(rule);
            }
        });
        if let Some(index) = metadata_rule(owner, &target.host) {
            let rule = RuleId { owner: number, at: At::Metadata(index) };
            let terms = Terms::new(None, &owner.defaults);
            if allows_port(&terms, request) {
                ranked.push((Rank::FIRST, out, terms.caps.strictness(), rule));
            } else {
                wrong_port = Some(rule);
            }
        }
    }
    if ranked.is_empty() {
        return Err(no_match(&target.host, wrong_port.is_some(), wrong_port, opens_addresses));
    }
    ranked.sort_unstable();
    Ok(ranked.into_iter().map(|(_, _, _, rule)| rule).collect())
}

/// Why no rule matches; `wrong_port` is one that matches but for its ports.
pub(crate) fn no_match(
    host: &Host,
    is_wrong_port: bool,
    wrong_port: Option<RuleId>,
    opens_addresses: bool,
) -> Denial {
    let reason = match host {
        _ if is_wrong_port => Reason::PortNotAllowed,
        Host::Name(_) => Reason::HostNotAllowed,
        Host::Address(_) if opens_addresses => Reason::AddressNotAllowed,
        Host::Address(_) => Reason::IpLiteralNotAllowed,
    };
    Denial { reason, rule: wrong_port }
}

/// Calls `found` with list, entry and terms of each entry of one side that matches the host. A deny matches an address
/// that carries another one by that, too; what an allow opens is the spelling that it names.
pub(crate) fn each_match<'a>(
    owner: &'a Owner,
    side: ListSide,
    host: &Host,
    mut found: impl FnMut(u32, u32, Terms<'a>),
) {
    for (list, list_ref) in (0u32..).zip(owner.lists(side)) {
        let mut on_match = |entry| found(list, entry, list_ref.terms(entry));
        match (host, side) {
            (Host::Name(name), _) => list_ref.list().match_name(name, on_match),
            (Host::Address(ip), ListSide::Allow) => list_ref.list().match_address(*ip, on_match),
            (Host::Address(ip), ListSide::Deny) => {
                with_carried(*ip).for_each(|ip| list_ref.list().match_address(ip, &mut on_match));
            }
        }
    }
}

/// The position of a literal metadata address in the owner's `metadata`.
fn metadata_rule(owner: &Owner, host: &Host) -> Option<u32> {
    let Host::Address(ip) = host else { return None };
    let index = owner.metadata.iter().position(|(address, _)| address == ip)?;
    u32::try_from(index).ok()
}

/// Whether an allow rule is for the port and the transport: without ports it means 80 and 443, without a transport TCP.
pub(crate) fn allows_port(terms: &Terms<'_>, request: &EgressRequest<'_>) -> bool {
    let port = request.target.port;
    terms.ports.map_or(port == Port::HTTP || port == Port::HTTPS, |ports| ports.contains(port))
        && terms.transport.unwrap_or(Transports::TCP).contains(request.transport)
}

/// Whether a deny rule is for the port and the transport: without them it means every one.
pub(crate) fn denies_port(terms: &Terms<'_>, request: &EgressRequest<'_>) -> bool {
    terms.ports.is_none_or(|ports| ports.contains(request.target.port))
        && terms.transport.is_none_or(|transports| transports.contains(request.transport))
}

/// What must open a connection to a port when no rule says so.
pub(crate) fn default_expect(port: Port) -> Expect {
    match port {
        Port::HTTPS => Expect::Tls,
        Port::HTTP => Expect::Http,
        _ => Expect::Any,
    }
}

/// The order in which matching rules are tried: narrow host, then few ports, then what the rule
/// says itself over what the port implies, then the laxer opening, then the laxer bounds. It depends
/// on what rules say, never on where they stand.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    width: u32,
    ports: u32,
    implied: bool,
    strictness: u8,
    no_sni: bool,
}

impl Rank {
    const FIRST: Self = Self { width: 0, ports: 0, implied: false, strictness: 0, no_sni: false };
}

fn rank(list: Option<&List>, entry: u32, terms: &Terms<'_>, port: Port) -> Rank {
    let ports = terms.ports.map_or(2, |set| {
        set.iter().map(|range| u32::from(range.last().get()) - u32::from(range.first().get()) + 1).sum()
    });
    Rank {
        width: u32::MAX - list.map_or(0, |l| l.specificity(entry)),
        ports,
        implied: terms.expect.is_none(),
        strictness: match terms.expect.unwrap_or_else(|| default_expect(port)) {
            Expect::Any => 0,
            Expect::Http => 1,
            Expect::Tls => 2,
        },
        no_sni: terms.settings.is_none_or(|s| s.sni.is_empty()),
    }
}

/// The order of rules that are otherwise equal: through a next hop, by its name, before straight out. Like [`Rank`] it
/// does not depend on where policies stand.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Out<'a> {
    Via(&'a str),
    Straight,
}

impl<'a> Out<'a> {
    fn of(owner: &'a Owner) -> Self {
        owner.way.as_ref().map_or(Self::Straight, |way| Self::Via(&way.hop.name))
    }
}
