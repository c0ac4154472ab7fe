//! Why a request is allowed or refused, stage by stage, and the smallest entry that would
//! allow it. It asks the same functions that decide, so it cannot tell another story.

use std::fmt;
use std::net::IpAddr;

use exeat_model::Host;

use crate::announce::Announce;
use crate::caps::Caps;
use crate::decide::{
    Allowed, Candidates, Denial, EgressRequest, Verdict, allowing, decide, denied, matching,
};
use crate::entry::{Entry, Expect};
use crate::hop::Resolve;
use crate::opening::{OpeningRule, OpensWith, expectations};
use crate::permit::{permit, permit_via};
use crate::reason::Reason;
use crate::rule::{RuleId, RuleView};
use crate::set::{Bound, Mode, PolicySet};

mod help;

pub use help::{helping_entry, smallest_entry};

/// The stage that looks at addresses.
const ADDRESSES: &str = "addresses";

/// The stage that looks at the first bytes of a connection.
const OPENING: &str = "opening";

/// What is said of addresses that are allowed only where they are not those of the host that connects.
const UNLESS_OURS: &str = ", unless one is an address of this host: a listener on every address has the port";

/// What is said where nothing could open the connection.
const CONTRADICTION: &str = "the rule and a ceiling's expect different protocols to open the connection";

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
    /// `limit NAME`; and `target` of what is none.
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

/// Explains one request. Without addresses the stages that need them stay open. What opens the connection is judged if
/// `opens` says with what.
#[must_use]
pub fn explain(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    addrs: Option<&[IpAddr]>,
    opens: Option<OpensWith>,
) -> Explanation {
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
            match permitted(set, request, &allowed, addrs) {
                Some(permitted) => explanation.add_permit(set, permitted, opens),
                None => explanation.add_unresolved(set, request, &allowed, opens),
            }
            explanation.add_way(&allowed);
        }
    }
    if let Some(reason) = explanation.refused {
        let addrs = addrs.unwrap_or_default();
        let entry = helping_entry(set, request, reason, addrs);
        explanation.entry = entry.and_then(|entry| help::opened_by(entry, request, opens));
        explanation.entry_goes_to = help::goes_to(set, request, addrs, opens);
    }
    explanation
}

impl Explanation {
    /// Explains why `target` is none that could be decided on: for `reason`, with more to say in `detail`.
    #[must_use]
    pub fn malformed(set: &PolicySet, bound: &Bound, target: &str, reason: Reason, detail: String) -> Self {
        Self {
            // It may hold anything.
            target: target.escape_debug().to_string(),
            policies: set.names(bound),
            stages: vec![Stage {
                name: "target".to_owned(),
                outcome: Outcome::Refuse(reason),
                detail,
                rule: None,
            }],
            refused: Some(reason),
            would_deny: None,
            entry: None,
            entry_goes_to: Vec::new(),
        }
    }

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

    fn add_permit(
        &mut self,
        set: &PolicySet,
        permitted: Result<Permitted, Denial>,
        opens: Option<OpensWith>,
    ) {
        let permit = match permitted {
            Ok(permit) => permit,
            Err(denial) => {
                self.refused = Some(denial.reason);
                let is_contradiction = denial.reason == Reason::TlsRequired;
                let detail =
                    if is_contradiction { CONTRADICTION } else { "no single rule covers every address" };
                let rule = denial.rule.and_then(|rule| set.rule(rule));
                self.add(ADDRESSES, Outcome::Refuse(denial.reason), detail.to_owned(), rule);
                return;
            }
        };
        self.would_deny = permit.would_deny.map(|d| d.reason);
        let rule = set.rule(permit.rule);
        self.add(ADDRESSES, Outcome::Pass, permit.addresses, rule.clone());
        let expect = permit.opening.expect();
        self.add_opening(expect, permit.opening.literal(), opens, rule);
        if permit.caps != Caps::default() {
            self.add_later("bounds", permit.caps.to_string());
        }
        if let Some(detail) = announce_detail(permit.announce) {
            self.add_later("PROXY header", detail.to_owned());
        }
    }

    /// Adds the opening that one rule asks for, and whether the client's is one.
    fn add_opening(
        &mut self,
        expect: Expect,
        is_literal: bool,
        opens: Option<OpensWith>,
        rule: Option<RuleView>,
    ) {
        let asks = opening_detail(expect, is_literal);
        match opens.map(|with| (with, expect.refuses(with))) {
            None => self.add_later(OPENING, asks.to_owned()),
            Some((_, None)) => self.add(OPENING, Outcome::Pass, asks.to_owned(), None),
            Some((with, Some(reason))) => {
                self.refused = Some(reason);
                let detail = format!("{asks}, and this request opens it with {}", with.name());
                self.add(OPENING, Outcome::Refuse(reason), detail, rule);
            }
        }
    }

    /// Adds what can be said without the addresses of the name: which rule permits it depends on them, and so may what has
    /// to open the connection.
    fn add_unresolved(
        &mut self,
        set: &PolicySet,
        request: &EgressRequest<'_>,
        allowed: &Allowed,
        opens: Option<OpensWith>,
    ) {
        self.add(ADDRESSES, Outcome::Open, "not resolved".to_owned(), None);
        let expectations = expectations(set, request, allowed);
        if let [Some(expect)] = expectations.as_slice() {
            return self.add_opening(*expect, false, opens, None);
        }
        let refusal = |expect: &Option<Expect>| match (expect, opens) {
            (None, _) => Some(Reason::TlsRequired),
            (Some(expect), Some(with)) => expect.refuses(with),
            (Some(_), None) => None,
        };
        let refusals: Option<Vec<Reason>> = expectations.iter().map(refusal).collect();
        match refusals.as_deref().and_then(<[Reason]>::first) {
            Some(&reason) => {
                self.refused = Some(reason);
                let detail = "no rule accepts what this request opens the connection with";
                let detail = if expectations == [None] { CONTRADICTION } else { detail };
                self.add(OPENING, Outcome::Refuse(reason), detail.to_owned(), None);
            }
            None => {
                self.add_later(OPENING, "what must open the connection depends on the address".to_owned())
            }
        }
    }

    fn add(&mut self, name: &str, outcome: Outcome, detail: String, rule: Option<RuleView>) {
        self.stages.push(Stage { name: name.to_owned(), outcome, detail, rule });
    }

    /// Adds what only the connection will show.
    fn add_later(&mut self, name: &str, detail: String) {
        self.add(name, Outcome::Open, detail, None);
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

const fn opening_detail(expect: Expect, is_literal: bool) -> &'static str {
    match (expect, is_literal) {
        (Expect::Tls, false) => "the connection must open with TLS for the asked name",
        (Expect::Tls, true) => "the connection must open with TLS",
        (Expect::Http, _) => "the connection must open with HTTP/1 for the asked host",
        (Expect::Any, _) => "the connection may open with anything",
    }
}

fn announce_detail(announce: Announce) -> Option<&'static str> {
    match announce {
        Announce::Nothing => None,
        Announce::Client => Some("the upstream is told the client's address"),
        Announce::ClientAndPrincipal => Some("the upstream is told the client's address and its principal"),
    }
}

/// Width of the column with the names of stages; more only for longer names of at most [`NAME_CHARS_MAX`]. Others, which list
/// policies, push theirs out.
const NAME_CHARS: usize = 10;
const NAME_CHARS_MAX: usize = 24;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refused {
            None => writeln!(f, "allow  {}", self.target)?,
            Some(reason) => writeln!(f, "deny   {}  {reason}", self.target)?,
        }
        if let Some(reason) = self.would_deny {
            writeln!(f, "       report mode: would be refused with {reason}")?;
        }
        let names = self.stages.iter().map(|stage| stage.name.chars().count());
        let width = names.filter(|&width| width <= NAME_CHARS_MAX).fold(NAME_CHARS, usize::max);
        let policies = match self.policies.as_slice() {
            [] => "none: nothing is allowed".to_owned(),
            policies => policies.join(", "),
        };
        writeln!(f, "  {:<width$} {policies}", "policies")?;
        for stage in &self.stages {
            writeln!(f, "  {:<width$} {}", stage.name, stage)?;
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
