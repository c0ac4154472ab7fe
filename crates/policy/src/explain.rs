//! Why a request is allowed or refused, stage by stage, and the smallest entry that would
//! allow it. It asks the same functions that decide, so it cannot tell another story.

use std::fmt::{self, Write};
use std::net::IpAddr;

use exeat_model::{
    AddressClass, CanonicalIp, Host, IpBlock, NamePattern, Port, PortRange, PortSet, Transport,
};

use crate::announce::Announce;
use crate::caps::Caps;
use crate::decide::{
    Allowed, Candidates, Denial, EgressRequest, Verdict, allowing, decide, denied, denied_address, matching,
};
use crate::entry::{Destination, Entry, Expect};
use crate::hop::Resolve;
use crate::permit::{OpeningRule, covers, permit, permit_via};
use crate::reason::Reason;
use crate::rule::{RuleId, RuleView};
use crate::set::{Mode, PolicySet};
use crate::transports::Transports;

/// Room for an entry as most are written, so that it is written where it stays.
const ENTRY_BYTES: usize = 128;

/// The stage that looks at addresses.
const ADDRESSES: &str = "addresses";

/// What is said of addresses that are allowed only where they are not those of the host that connects.
const UNLESS_OURS: &str = ", unless one is an address of this host: a listener on every address has the port";

/// How one stage ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The stage lets the request pass.
    Pass,
    /// The stage refuses it.
    Refuse(Reason),
    /// The stage was not reached, or lacks what it needs.
    Open,
}

/// One stage of a decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stage {
    /// What is looked at: `deny`, `allow`, `ceiling NAME`, `addresses`, `opening`, `bounds`,
    /// `PROXY header` or `next hop`; of a token `issuer's ceiling` for `allow`, and `token` and
    /// `limit NAME`.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What there is to say, lower-case.
    pub detail: String,
    /// The rule that spoke.
    pub rule: Option<RuleView>,
}

/// A decision, taken apart.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The target in canonical form.
    pub target: String,
    /// The policies and ceilings of the principal.
    pub policies: Vec<String>,
    /// The stages, in the order they are asked.
    pub stages: Vec<Stage>,
    /// The reason, if the request is refused.
    pub refused: Option<Reason>,
    /// Why it would be refused if report mode did not let it through.
    pub would_deny: Option<Reason>,
    /// The smallest entry that would allow it.
    pub entry: Option<Entry>,
    /// Where the entry has to stand: policies, and each ceiling that is in the way.
    pub entry_goes_to: Vec<String>,
}

/// Explains one request. Without addresses the stages that need them stay open.
#[must_use]
pub fn explain(set: &PolicySet, request: &EgressRequest<'_>, addrs: Option<&[IpAddr]>) -> Explanation {
    let literal = match &request.target.host {
        Host::Address(ip) => Some([ip.get()]),
        Host::Name(_) => None,
    };
    let addrs = literal.as_ref().map(|l| &l[..]).or(addrs);
    let mut explanation = Explanation {
        target: request.target.to_string(),
        policies: set.names(request.bound),
        stages: vec![deny_stage(set, request), allow_stage(set, request)],
        refused: None,
        would_deny: None,
        entry: None,
        entry_goes_to: Vec::new(),
    };
    explanation.stages.extend(token_stages(set, request));
    explanation.stages.extend(ceiling_stages(set, request));
    match decide(set, request) {
        Verdict::Deny(denial) => explanation.refused = Some(denial.reason),
        Verdict::Allow(allowed) => {
            explanation.would_deny = allowed.would_deny.map(|d| d.reason);
            explanation.add_permit(set, permitted(set, request, &allowed, addrs));
            explanation.add_way(&allowed);
        }
    }
    if let Some(reason) = explanation.refused {
        explanation.entry = helping_entry(set, request, reason, addrs.unwrap_or_default());
        explanation.entry_goes_to = goes_to(set, request, addrs.unwrap_or_default());
    }
    explanation
}

impl Explanation {
    /// Returns whether the addresses of an allowed name are still to be looked at. Never where a next hop alone
    /// resolves.
    #[must_use]
    pub fn lacks_addresses(&self) -> bool {
        self.stages.iter().any(|stage| stage.name == ADDRESSES && stage.outcome == Outcome::Open)
    }

    /// Returns the names of the stages that refuse it, in their order.
    pub fn refusing(&self) -> impl Iterator<Item = &str> {
        let refuses = |stage: &&Stage| matches!(stage.outcome, Outcome::Refuse(_));
        self.stages.iter().filter(refuses).map(|stage| stage.name.as_str())
    }

    fn add_permit(&mut self, set: &PolicySet, permitted: Option<Result<Permitted, Denial>>) {
        let (outcome, detail, rule, later) = match permitted {
            None => (Outcome::Open, "not resolved".to_owned(), None, None),
            Some(Ok(permit)) => {
                self.would_deny = permit.would_deny.map(|d| d.reason);
                let later = (permit.opening, permit.caps, permit.announce);
                (Outcome::Pass, permit.addresses, set.rule(permit.rule), Some(later))
            }
            Some(Err(denial)) => {
                self.refused = Some(denial.reason);
                let detail = "no single rule covers every address".to_owned();
                (Outcome::Refuse(denial.reason), detail, denial.rule.and_then(|r| set.rule(r)), None)
            }
        };
        self.stages.push(Stage { name: ADDRESSES.to_owned(), outcome, detail, rule });
        if let Some((opening, caps, announce)) = later {
            self.add_later("opening", opening_detail(&opening));
            if caps != Caps::default() {
                self.add_later("bounds", caps.to_string());
            }
            if let Some(detail) = announce_detail(announce) {
                self.add_later("PROXY header", detail.to_owned());
            }
        }
    }

    /// Adds what only the connection will show.
    fn add_later(&mut self, name: &str, detail: String) {
        self.stages.push(Stage { name: name.to_owned(), outcome: Outcome::Open, detail, rule: None });
    }

    fn add_way(&mut self, allowed: &Allowed) {
        if let (None, Some(way)) = (self.refused, allowed.way()) {
            let hop = way.hop();
            self.add_later("next hop", format!("leaves through {} at {}", hop.name, hop.endpoint));
        }
    }
}

/// A permit of either kind, as far as it is told.
struct Permitted {
    addresses: String,
    rule: RuleId,
    opening: OpeningRule,
    announce: Announce,
    caps: Caps,
    would_deny: Option<Denial>,
}

/// The permit, unless it lacks addresses.
fn permitted(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    allowed: &Allowed,
    addrs: Option<&[IpAddr]>,
) -> Option<Result<Permitted, Denial>> {
    let shown = |addrs: Vec<String>| addrs.join(", ");
    let Some(way) = allowed.way() else {
        let permit = permit(set, request, allowed, addrs?);
        return Some(permit.map(|permit| Permitted {
            addresses: {
                let addresses = shown(permit.addrs().iter().map(ToString::to_string).collect());
                let unless = if permit.must_be_elsewhere() { UNLESS_OURS } else { "" };
                addresses + unless
            },
            rule: permit.rule(),
            opening: permit.opening().clone(),
            announce: permit.announce(),
            caps: permit.caps(),
            would_deny: permit.would_deny(),
        }));
    };
    let addrs = match (way.resolve(), addrs) {
        (Resolve::NextHop, _) => &[],
        (Resolve::Local, addrs) => addrs?,
    };
    let permit = permit_via(set, request, allowed, addrs);
    Some(permit.map(|permit| Permitted {
        addresses: match permit.checked() {
            [] => "resolved by the next hop alone".to_owned(),
            checked => shown(checked.iter().map(ToString::to_string).collect()),
        },
        rule: permit.rule(),
        opening: permit.opening().clone(),
        // That is for the next hop, which the configuration says apart.
        announce: Announce::Nothing,
        caps: permit.caps(),
        would_deny: permit.would_deny(),
    }))
}

fn deny_stage(set: &PolicySet, request: &EgressRequest<'_>) -> Stage {
    let enforced = denied(set, request, Mode::Enforce);
    let (outcome, detail, denial) = match (enforced, denied(set, request, Mode::Report)) {
        (Some(denial), _) => (Outcome::Refuse(denial.reason), "a deny rule matches", Some(denial)),
        (None, Some(denial)) => (Outcome::Pass, "a deny rule matches, in report mode", Some(denial)),
        (None, None) => (Outcome::Pass, "no deny rule matches", None),
    };
    let rule = denial.and_then(|d| d.rule).and_then(|r| set.rule(r));
    Stage { name: "deny".to_owned(), outcome, detail: detail.to_owned(), rule }
}

fn allow_stage(set: &PolicySet, request: &EgressRequest<'_>) -> Stage {
    let name = if request.bound.narrowing.is_some() { "issuer's ceiling" } else { "allow" };
    match_stage(set, request, name.to_owned(), allowing(set, request))
}

/// What the token itself says, and the limits that it is under.
fn token_stages(set: &PolicySet, request: &EgressRequest<'_>) -> Vec<Stage> {
    let Some(narrowing) = &request.bound.narrowing else { return Vec::new() };
    let (outcome, detail) = match narrowing.host(request) {
        Ok(None) => (Outcome::Pass, "the token lists no hosts".to_owned()),
        Ok(Some(item)) => (Outcome::Pass, format!("the token lists {item}")),
        Err(denial) => {
            let detail = if denial.reason == Reason::PortNotAllowed {
                format!("the token lists the host, but not port {}", request.target.port)
            } else {
                format!("the token does not list {}", request.target.host)
            };
            (Outcome::Refuse(denial.reason), detail)
        }
    };
    let mut stages = vec![Stage { name: "token".to_owned(), outcome, detail, rule: None }];
    for limit in narrowing.limits() {
        let names: Vec<String> = limit.iter().filter_map(|&number| set.title(number)).collect();
        let name = format!("limit {}", names.join(", "));
        stages.push(match_stage(set, request, name, matching(set, limit, request)));
    }
    stages
}

fn ceiling_stages(set: &PolicySet, request: &EgressRequest<'_>) -> Vec<Stage> {
    let named = request.bound.ceilings.iter().filter_map(|&n| Some((n, set.title(n)?)));
    named.map(|(number, name)| match_stage(set, request, name, matching(set, &[number], request))).collect()
}

fn match_stage(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    name: String,
    matched: Result<Candidates, Denial>,
) -> Stage {
    match matched {
        Ok(rules) => Stage {
            name,
            outcome: Outcome::Pass,
            detail: match rules.len() {
                1 => "1 rule matches".to_owned(),
                count => format!("{count} rules match, the most specific first"),
            },
            rule: rules.first().and_then(|&rule| set.rule(rule)),
        },
        Err(denial) => Stage {
            name,
            outcome: Outcome::Refuse(denial.reason),
            detail: refusal_detail(request, denial.reason),
            rule: denial.rule.and_then(|r| set.rule(r)),
        },
    }
}

fn refusal_detail(request: &EgressRequest<'_>, reason: Reason) -> String {
    let target = request.target;
    match (reason, &target.host) {
        (Reason::PortNotAllowed, host) => format!("a rule matches {host}, but not port {}", target.port),
        (Reason::ClassMismatch, host) => format!("no rule for the token's class of data matches {host}"),
        (_, Host::Name(name)) => format!("no rule matches {name}"),
        (_, Host::Address(ip)) => format!("no network rule contains {ip} ({})", ip.class().name()),
    }
}

fn opening_detail(opening: &OpeningRule) -> String {
    match (opening.expect(), opening.literal()) {
        (Expect::Tls, false) => "the connection must open with TLS for the asked name".to_owned(),
        (Expect::Tls, true) => "the connection must open with TLS".to_owned(),
        (Expect::Http, _) => "the connection must open with HTTP/1 for the asked host".to_owned(),
        (Expect::Any, _) => "the connection may open with anything".to_owned(),
    }
}

fn announce_detail(announce: Announce) -> Option<&'static str> {
    match announce {
        Announce::Nothing => None,
        Announce::Client => Some("the upstream is told the client's address"),
        Announce::ClientAndPrincipal => Some("the upstream is told the client's address and its principal"),
    }
}

/// The policies, and each ceiling that refuses too: an entry helps only if it stands in all.
fn goes_to(set: &PolicySet, request: &EgressRequest<'_>, addrs: &[IpAddr]) -> Vec<String> {
    let addrs: Vec<CanonicalIp> = addrs.iter().map(|&ip| CanonicalIp::new(ip)).collect();
    let lacks = |owners: &[u32]| match matching(set, owners, request) {
        Ok(rules) => !rules.iter().any(|&rule| addrs.iter().all(|&ip| covers(set, request, rule, ip))),
        Err(_) => true,
    };
    let ceilings: Vec<u32> = request.bound.ceilings.iter().copied().filter(|&c| lacks(&[c])).collect();
    let mut owners: Vec<u32> = request.bound.policies.iter().copied().take(1).collect();
    if !ceilings.is_empty() && !lacks(&request.bound.policies) {
        owners.clear();
    }
    let mut titles: Vec<String> =
        owners.into_iter().chain(ceilings).filter_map(|number| set.title(number)).collect();
    if let Some(narrowing) = &request.bound.narrowing {
        if !lacks(&request.bound.policies) {
            titles.retain(|title| title.starts_with("ceiling "));
        }
        let lacking =
            narrowing.limits().filter(|limit| lacks(limit)).filter_map(|limit| limit.first().copied());
        titles.extend(lacking.filter_map(|number| set.title(number)));
        if narrowing.check_host(request).is_err() {
            titles.push("the token's allowed_hosts".to_owned());
        }
    }
    titles
}

/// Returns the smallest allow entry that would let the request pass, as [`smallest_entry`] does; `None`, too, if an
/// address is denied or one of our own listeners.
#[must_use]
pub fn helping_entry(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    reason: Reason,
    addrs: &[IpAddr],
) -> Option<Entry> {
    let literal = match &request.target.host {
        Host::Address(ip) => Some(*ip),
        Host::Name(_) => None,
    };
    let mut addrs_asked = addrs.iter().map(|&ip| CanonicalIp::new(ip)).chain(literal);
    let is_closed = |ip: CanonicalIp| {
        set.floor.contains(ip, request.target.port)
            || [Mode::Enforce, Mode::Report]
                .iter()
                .any(|&mode| denied_address(set, request, ip, mode).is_some())
    };
    if addrs_asked.any(is_closed) { None } else { smallest_entry(request, reason, addrs) }
}

/// Returns the smallest allow entry that would let the request pass, computed from the request
/// alone. `None` where no entry can help: a deny rule, an address that is never reachable, a
/// malformed request, a dependency that failed; and of a name that leads to a wrong address, if `addrs` does not say
/// which: the name itself is allowed.
#[must_use]
pub fn smallest_entry(request: &EgressRequest<'_>, reason: Reason, addrs: &[IpAddr]) -> Option<Entry> {
    let target = request.target;
    let mut entry = match &target.host {
        Host::Name(name) => Entry::new(Destination::Name(NamePattern::Exact(name.clone()))),
        Host::Address(ip) if matches!(ip.class(), AddressClass::Never(_)) => return None,
        Host::Address(ip) => Entry::new(Destination::Network(block_of(ip.get())?)),
    };
    let on_default_port = target.port == Port::HTTP || target.port == Port::HTTPS;
    if !on_default_port {
        entry.settings.ports = Some(one_port(target.port)?);
    }
    if request.transport != Transport::Tcp {
        entry.settings.transport = Some(Transports::Only(request.transport));
    }
    let opening = matches!(reason, Reason::TlsRequired | Reason::SniMissing | Reason::HttpRequired);
    let missing = matches!(
        reason,
        Reason::HostNotAllowed
            | Reason::PortNotAllowed
            | Reason::IpLiteralNotAllowed
            | Reason::AddressNotAllowed
    );
    if opening {
        entry.settings.ports = Some(one_port(target.port)?);
        entry.settings.expect = Some(Expect::Any);
    } else if !missing {
        return None;
    }
    if let Host::Name(name) = &target.host {
        if addrs.is_empty() && reason == Reason::AddressNotAllowed {
            return None;
        }
        entry.settings.addresses = special_use_blocks(addrs)?;
        if name.is_single_label() && entry.settings.addresses.is_none() {
            return None;
        }
    }
    Some(entry)
}

/// The blocks that a rule has to name so that it covers these addresses: none if all are
/// globally reachable. `None` if one of them can never be reached.
fn special_use_blocks(addrs: &[IpAddr]) -> Option<Option<Vec<IpBlock>>> {
    if never(addrs) {
        return None;
    }
    if addrs.iter().all(|&ip| CanonicalIp::new(ip).class() == AddressClass::Global) {
        return Some(None);
    }
    addrs.iter().map(|&ip| block_of(ip)).collect::<Option<Vec<_>>>().map(Some)
}

fn never(addrs: &[IpAddr]) -> bool {
    addrs.iter().any(|&ip| matches!(CanonicalIp::new(ip).class(), AddressClass::Never(_)))
}

fn block_of(ip: IpAddr) -> Option<IpBlock> {
    IpBlock::parse(&CanonicalIp::new(ip).to_string()).ok()
}

fn one_port(port: Port) -> Option<PortSet> {
    PortRange::new(port, port).map(|range| PortSet::from_ranges([range]))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refused {
            None => writeln!(f, "allow  {}", self.target)?,
            Some(reason) => writeln!(f, "deny   {}  {reason}", self.target)?,
        }
        if let Some(reason) = self.would_deny {
            writeln!(f, "       report mode: would be refused with {reason}")?;
        }
        match self.policies.as_slice() {
            [] => writeln!(f, "  policies   none: nothing is allowed")?,
            policies => writeln!(f, "  policies   {}", policies.join(", "))?,
        }
        for stage in &self.stages {
            writeln!(f, "  {:<10} {}", stage.name, stage)?;
        }
        if let Some(entry) = &self.entry {
            let place = match self.entry_goes_to.as_slice() {
                [] => "a policy of this client".to_owned(),
                titles => titles.join(" and "),
            };
            writeln!(f, "  to allow it, add {} to {place}", entry.toml())?;
        }
        Ok(())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Pass => write!(f, "pass: {}", self.detail)?,
            Outcome::Refuse(reason) => write!(f, "{reason}: {}", self.detail)?,
            Outcome::Open => f.write_str(&self.detail)?,
        }
        match &self.rule {
            Some(rule) => write!(f, "  [{} at {}, {}]", rule.text, rule.place, rule.policy),
            None => Ok(()),
        }
    }
}

impl Entry {
    /// Returns the entry as a TOML value: a quoted string, or an inline table.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut text = String::with_capacity(ENTRY_BYTES);
        // Writing to a string does not fail.
        let _ok = write!(text, "\"{self}");
        if text.starts_with("\"{") {
            text.remove(0);
        } else {
            text.push('"');
        }
        text
    }
}
