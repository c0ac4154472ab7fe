//! What must open a permitted connection, and what the scheme of a URL says of that beforehand.

use exeat_model::{CanonicalIp, DnsName, Host, Transport};

use crate::decide::{Allowed, Candidates, Denial, EgressRequest, default_expect};
use crate::entry::Expect;
use crate::permit::{above, leaves};
use crate::reason::Reason;
use crate::rule::{At, RuleId};
use crate::set::PolicySet;

/// What must open a permitted connection before any byte of it goes upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpeningRule {
    expect: Expect,
    asked: Option<DnsName>,
    /// Names that the rule lists as `sni` and no ceiling takes away; `None` if it lists none.
    further: Option<Box<[DnsName]>>,
}

impl OpeningRule {
    /// Returns the protocol.
    #[must_use]
    pub fn expect(&self) -> Expect {
        self.expect
    }

    /// The names that the rule lists as `sni`.
    pub(crate) fn listed(&self) -> &[DnsName] {
        self.further.as_deref().unwrap_or_default()
    }

    /// Returns whether the opening may speak for `name`: the asked name, or one that the rule
    /// lists as `sni`. A literal target was not asked for by a name, so any name will do unless
    /// the rule lists some.
    #[must_use]
    pub fn accepts_name(&self, name: &DnsName) -> bool {
        let listed = self.further.as_ref().map(|names| names.contains(name));
        match &self.asked {
            Some(asked) => asked == name || listed.unwrap_or(false),
            None => listed.unwrap_or(true),
        }
    }

    /// Returns whether the target was an address, which needs no server name.
    #[must_use]
    pub fn literal(&self) -> bool {
        self.asked.is_none()
    }
}

/// What a client opens a connection with, where a scheme says so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpensWith {
    /// TLS for the asked name: `https`, `wss`.
    Tls,
    /// HTTP/1 for the asked host: `http`, `ws`.
    Http,
}

impl OpensWith {
    /// What it is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tls => "TLS",
            Self::Http => "HTTP",
        }
    }
}

impl Expect {
    /// Why an opening of this kind is refused, if it is, in the words of the check that looks at the bytes.
    pub(crate) const fn refuses(self, with: OpensWith) -> Option<Reason> {
        match (self, with) {
            (Self::Any, OpensWith::Tls | OpensWith::Http)
            | (Self::Tls, OpensWith::Tls)
            | (Self::Http, OpensWith::Http) => None,
            (Self::Tls, OpensWith::Http) => Some(Reason::TlsRequired),
            (Self::Http, OpensWith::Tls) => Some(Reason::HttpRequired),
        }
    }
}

/// What must open the connection: what the rule and each ceiling's rule say together.
pub(crate) fn opening(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    allowed: &Allowed,
    rule: RuleId,
    covered: &[CanonicalIp],
) -> Result<OpeningRule, Denial> {
    let sni_of =
        |rule: RuleId| -> &[DnsName] { set.terms(rule).and_then(|t| t.settings).map_or(&[], |s| &s.sni) };
    let mut expect = expected(set, request, rule);
    let mut further = sni_of(rule).to_vec();
    for ceiling in ceilings(allowed, rule) {
        let Some(above) = above(set, request, ceiling, covered) else { continue };
        expect = both(expect, expected(set, request, above))
            .ok_or(Denial { reason: Reason::TlsRequired, rule: Some(above) })?;
        further.retain(|name| sni_of(above).contains(name));
    }
    let tls_required = Denial { reason: Reason::TlsRequired, rule: Some(rule) };
    match request.transport {
        // Datagrams have no first bytes that could be looked at.
        Transport::Udp if is_regulated(request) => return Err(tls_required),
        Transport::Udp => expect = Expect::Any,
        Transport::Tcp if is_regulated(request) => expect = both(expect, Expect::Tls).ok_or(tls_required)?,
        Transport::Tcp => {}
    }
    let asked = match &request.target.host {
        Host::Name(name) => Some(name.clone()),
        Host::Address(_) => None,
    };
    let further = (!sni_of(rule).is_empty()).then(|| further.into());
    Ok(OpeningRule { expect, asked, further })
}

/// What can come to be expected, whatever addresses the name has: `None` where a rule and a ceiling contradict each other,
/// so that nothing opens. What [`opening`] says is among it.
pub(crate) fn expectations(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    allowed: &Allowed,
) -> Vec<Option<Expect>> {
    let mut found = Vec::new();
    let rules = allowed.policies.iter().chain(&allowed.report).filter(|rule| leaves(set, allowed, rule));
    for &rule in rules {
        let mut of_rule = vec![Some(expected(set, request, rule))];
        for ceiling in ceilings(allowed, rule) {
            let above = ceiling.iter().map(|&above| expected(set, request, above));
            of_rule = distinct(above.flat_map(|above| combined(&of_rule, above)));
        }
        found.extend(of_rule);
    }
    if is_regulated(request) {
        found = combined(&found, Expect::Tls).collect();
    }
    distinct(found.into_iter())
}

fn combined(these: &[Option<Expect>], other: Expect) -> impl Iterator<Item = Option<Expect>> {
    these.iter().map(move |&this| this.and_then(|this| both(this, other)))
}

fn distinct(all: impl Iterator<Item = Option<Expect>>) -> Vec<Option<Expect>> {
    all.fold(Vec::new(), |mut seen, one| {
        if !seen.contains(&one) {
            seen.push(one);
        }
        seen
    })
}

/// What one rule alone expects.
pub(crate) fn expected(set: &PolicySet, request: &EgressRequest<'_>, rule: RuleId) -> Expect {
    let said = set.terms(rule).and_then(|terms| terms.expect);
    said.unwrap_or_else(|| default_expect(request.target.port))
}

/// The ceilings that bind the opening. Report mode must not break what it watches, so none binds it.
fn ceilings(allowed: &Allowed, rule: RuleId) -> &[Candidates] {
    if rule.at == At::Report { &[] } else { &allowed.ceilings }
}

/// Whether the request is for a class of data that has to be encrypted.
pub(crate) fn is_regulated(request: &EgressRequest<'_>) -> bool {
    request.bound.narrowing.as_ref().is_some_and(|narrowing| narrowing.class.is_some())
}

/// What satisfies both expectations, if anything does.
fn both(a: Expect, b: Expect) -> Option<Expect> {
    match (a, b) {
        (Expect::Any, other) | (other, Expect::Any) => Some(other),
        (Expect::Tls, Expect::Tls) => Some(Expect::Tls),
        (Expect::Http, Expect::Http) => Some(Expect::Http),
        (Expect::Tls, Expect::Http) | (Expect::Http, Expect::Tls) => None,
    }
}
