//! The smallest entry that would allow a request, and where it has to stand.

use std::fmt::Write as _;
use std::net::IpAddr;

use exeat_model::{
    AddressClass, CanonicalIp, Host, IpBlock, NamePattern, Port, PortRange, PortSet, Transport,
};

use crate::decide::{EgressRequest, default_expect, denied_address, matching};
use crate::entry::{Destination, Entry, Expect};
use crate::opening::{OpensWith, expected, is_regulated};
use crate::permit::covers;
use crate::reason::Reason;
use crate::rule::RuleId;
use crate::set::{Mode, PolicySet};
use crate::transports::Transports;

/// Room for an entry as most are written, so that it is written where it stays.
const ENTRY_BYTES: usize = 128;

/// The policies, and each ceiling that refuses too: an entry helps only if it stands in all.
pub(super) fn goes_to(
    set: &PolicySet,
    request: &EgressRequest<'_>,
    addrs: &[IpAddr],
    opens: Option<OpensWith>,
) -> Vec<String> {
    let addrs: Vec<CanonicalIp> = addrs.iter().map(|&ip| CanonicalIp::new(ip)).collect();
    let covers = |rule: &&RuleId| addrs.iter().all(|&ip| covers(set, request, **rule, ip));
    let opens =
        |&rule: &RuleId| opens.is_none_or(|with| expected(set, request, rule).refuses(with).is_none());
    let lacks = |owners: &[u32]| match matching(set, owners, request) {
        Ok(rules) => !rules.iter().find(covers).is_some_and(opens),
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
    // Without ports it would be for 80 and 443, and that is one more than was asked for.
    entry.settings.ports = Some(one_port(target.port)?);
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

/// Has `entry` accept what the client opens the connection with, where the port alone would not. `None` if no entry can.
pub(super) fn opened_by(
    mut entry: Entry,
    request: &EgressRequest<'_>,
    opens: Option<OpensWith>,
) -> Option<Entry> {
    let port = request.target.port;
    let refuses = |expect: Expect| opens.is_some_and(|with| expect.refuses(with).is_some());
    if is_regulated(request) && refuses(Expect::Tls) {
        return None;
    }
    if entry.settings.expect.is_none() && refuses(default_expect(port)) {
        entry.settings.expect = Some(Expect::Any);
    }
    Some(entry)
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
