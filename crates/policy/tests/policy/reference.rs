//! A slow reference that knows nothing of tables, tries or ranks: every rule is looked at, one
//! after the other, in the words of the specification. The engine must agree on random
//! policies, and adding a deny must never allow more.

use std::net::IpAddr;

use exeat_model::{
    AddressClass, Authority, CanonicalIp, Host, IpBlock, NamePattern, Port, Transport, in_closed_zone,
};
use exeat_policy::{Answers, Destination, Entry, Mode, Reason, Transports};
use proptest::prelude::*;

use crate::support::*;

/// Whether an entry speaks of the target, ports aside.
fn speaks_of(entry: &Entry, host: &Host) -> bool {
    match (&entry.destination, host) {
        (Destination::Name(NamePattern::Any), _) => true,
        (Destination::Name(NamePattern::Exact(own)), Host::Name(name)) => own.as_str() == name.as_str(),
        (Destination::Name(NamePattern::Subdomains(parent)), Host::Name(name)) => {
            name.as_str().ends_with(&format!(".{parent}"))
        }
        (Destination::Network(block), Host::Address(ip)) => block.contains(*ip),
        (Destination::AnyPublic, Host::Name(name)) => !in_closed_zone(name),
        (Destination::AnyPublic, Host::Address(ip)) => ip.class() == AddressClass::Global,
        _ => false,
    }
}

/// The address, and those that it carries, in the forms that the addresses of the random requests have.
fn carried(ip: CanonicalIp) -> Vec<CanonicalIp> {
    let IpAddr::V6(v6) = ip.get() else { return vec![ip] };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let join = |high: u16, low: u16| {
        CanonicalIp::new(std::net::Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into())
    };
    let mut all = vec![ip];
    match (a, b, c) {
        (0x64, 0xff9b, 0) => all.push(join(g, h)),
        (0x2002, ..) => all.push(join(b, c)),
        (0x2001, 0, _) => all.extend([join(c, d), join(!g, !h)]),
        _ => {}
    }
    if e & !0x200 == 0 && f == 0x5efe {
        all.push(join(g, h));
    }
    all
}

fn spellings(host: &Host) -> Vec<Host> {
    match host {
        Host::Name(_) => vec![host.clone()],
        Host::Address(ip) => carried(*ip).into_iter().map(Host::Address).collect(),
    }
}

fn allow_port(entry: &Entry, (port, transport): (Port, Transport)) -> bool {
    let carries = entry.settings.transport.unwrap_or(Transports::TCP).contains(transport);
    carries
        && match &entry.settings.ports {
            Some(ports) => ports.contains(port),
            None => [80, 443].contains(&port.get()),
        }
}

fn deny_port(entry: &Entry, (port, transport): (Port, Transport)) -> bool {
    let carries = entry.settings.transport.is_none_or(|transports| transports.contains(transport));
    carries && entry.settings.ports.as_ref().is_none_or(|ports| ports.contains(port))
}

fn covers(entry: &Entry, host: &Host, ip: CanonicalIp) -> bool {
    match (ip.class(), host, &entry.destination) {
        (AddressClass::Never(_), _, _) => false,
        (_, Host::Address(_), Destination::Network(block)) => block.contains(ip),
        (class, Host::Address(_), _) => class == AddressClass::Global,
        (class, Host::Name(_), _) => match &entry.settings.addresses {
            Some(blocks) => blocks.iter().any(|b| b.contains(ip)),
            None => class == AddressClass::Global,
        },
    }
}

/// The addresses that may be dialled, by the specification.
fn reference(
    policies: &[Rules],
    ceilings: &[Rules],
    target: &Authority,
    transport: Transport,
    addrs: &[IpAddr],
) -> Option<Vec<IpAddr>> {
    let (host, port) = (&target.host, (target.port, transport));
    let everyone = || policies.iter().chain(ceilings);
    let denied_host = |mode: Mode| {
        everyone()
            .filter(|r| r.mode == mode)
            .flat_map(|r| &r.deny)
            .any(|e| spellings(host).iter().any(|host| speaks_of(e, host)) && deny_port(e, port))
    };
    let denied_ip = |ip: CanonicalIp, mode: Mode| {
        everyone().filter(|r| r.mode == mode).flat_map(|r| &r.deny).any(|e| {
            let contains = |block: &IpBlock| carried(ip).iter().any(|ip| block.contains(*ip));
            matches!(&e.destination, Destination::Network(block) if contains(block)) && deny_port(e, port)
        })
    };
    if denied_host(Mode::Enforce) {
        return None;
    }
    let mut ips: Vec<CanonicalIp> = Vec::new();
    for ip in addrs.iter().map(|&ip| CanonicalIp::new(ip)) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    let matches = |e: &&Entry| speaks_of(e, host) && allow_port(e, port);
    if ceilings.iter().any(|c| !c.allow.iter().any(|e| matches(&e))) {
        return None;
    }
    let try_rule =
        |rule: &dyn Fn(CanonicalIp) -> bool, answers: Answers, report: bool| -> Option<Vec<IpAddr>> {
            let mut ok: Vec<CanonicalIp> = ips
                .iter()
                .copied()
                .filter(|&ip| {
                    rule(ip) && !denied_ip(ip, Mode::Enforce) && (report || !denied_ip(ip, Mode::Report))
                })
                .collect();
            for ceiling in ceilings {
                let under =
                    |e: &Entry| ok.iter().copied().filter(|&ip| covers(e, host, ip)).collect::<Vec<_>>();
                ok = ceiling.allow.iter().filter(matches).map(under).max_by_key(Vec::len).unwrap_or_default();
            }
            let enough = if answers == Answers::Filter { !ok.is_empty() } else { ok.len() == ips.len() };
            (enough && !ok.is_empty()).then(|| ok.into_iter().map(CanonicalIp::get).collect())
        };
    if !denied_host(Mode::Report) {
        for policy in policies {
            for entry in policy.allow.iter().filter(matches) {
                let answers = entry.settings.answers.or(policy.defaults.answers).unwrap_or_default();
                if let Some(found) = try_rule(&|ip| covers(entry, host, ip), answers, false) {
                    return Some(found);
                }
            }
        }
    }
    let public = match host {
        Host::Name(name) => !in_closed_zone(name),
        Host::Address(ip) => ip.class() == AddressClass::Global,
    };
    if public && policies.iter().any(|p| p.mode == Mode::Report) {
        return try_rule(&|ip| ip.class() == AddressClass::Global, Answers::Refuse, true);
    }
    None
}

/// The names of the random policies and requests.
pub(crate) const NAMES: [&str; 7] = [
    "example.com",
    "a.example.com",
    "b.a.example.com",
    "example.org",
    "a.example.org",
    "db.corp.example",
    "x.local",
];

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(&NAMES[..]).prop_map(str::to_owned)
}

/// The addresses of the random requests, some of them in networks of the random policies.
pub(crate) const ADDRESSES: [&str; 11] = [
    "93.184.216.34",
    "93.184.217.1",
    "10.0.0.1",
    "10.0.1.1",
    "127.0.0.1",
    "169.254.169.254",
    "2606:2800:220::1",
    "fd00::1",
    "64:ff9b::5db8:d822",
    "64:ff9b::5db8:d901",
    "2002:a00:1::1",
];

/// Addresses that carry others in bits by which no block tells them apart: ISATAP and Teredo.
const FINELY_DIVIDED: [&str; 2] = ["2606:2800:220:1:0:5efe:5db8:d822", "2001:0:5db8:d822::f5ff:fefe"];

fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select([ips(&ADDRESSES), ips(&FINELY_DIVIDED)].concat())
}

pub(crate) fn any_entry(deny: bool) -> impl Strategy<Value = Entry> {
    let host = prop_oneof![
        4 => name(),
        3 => name().prop_map(|n| format!("*.{n}")),
        1 => Just("@any-public".to_owned()),
        2 => prop::sample::select(vec!["10.0.0.0/24", "10.0.0.0/8", "93.184.216.0/24", "169.254.0.0/16", "[2606:2800:220::/48]", "[fd00::/8]", "[64:ff9b::/96]"]).prop_map(str::to_owned),
        u32::from(deny) => Just("*".to_owned()),
    ];
    let ports =
        prop::option::weighted(0.4, prop::sample::select(vec!["443", "22", "80,8000-9000", "1-65535"]));
    let blocks =
        prop::option::weighted(0.3, prop::sample::select(vec!["10.0.0.0/8", "10.0.0.0/24", "93.184.216.34"]));
    let bytes = prop::option::weighted(0.2, prop::sample::select(vec![1024u64, 4096]));
    let transport = prop::option::weighted(0.3, prop::sample::select(Transports::ALL.to_vec()));
    (host, ports, blocks, prop::bool::weighted(0.2), bytes, transport).prop_map(
        move |(host, ports, blocks, filter, bytes, transport)| {
            let mut entry = entry(&ports.map_or(host.clone(), |ports| format!("{host}:{ports}")));
            entry.settings.transport = transport;
            if !deny && matches!(entry.destination, Destination::Name(_)) {
                entry.settings.addresses = blocks.map(|b| vec![IpBlock::parse(b).unwrap()]);
            }
            if !deny && filter {
                entry.settings.answers = Some(Answers::Filter);
            }
            if !deny {
                entry.settings.caps.max_bytes_up = bytes;
            }
            entry
        },
    )
}

pub(crate) fn any_rules(name: &'static str, report: f64) -> impl Strategy<Value = Rules> {
    let allow = prop::collection::vec(any_entry(false), 0..6);
    let deny = prop::collection::vec(any_entry(true), 0..2);
    (allow, deny, prop::bool::weighted(report)).prop_map(move |(allow, deny, report)| Rules {
        name,
        allow,
        deny,
        mode: if report { Mode::Report } else { Mode::Enforce },
        ..Rules::default()
    })
}

fn any_target() -> impl Strategy<Value = (Authority, Vec<IpAddr>)> {
    let port = prop::sample::select(vec![443u16, 80, 22, 8443]);
    let host = prop_oneof![
        4 => (name(), prop::collection::vec(address(), 1..4)),
        1 => address().prop_map(|ip| {
            let text = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            (text, vec![ip])
        }),
    ];
    (host, port).prop_map(|((host, addrs), port)| (target(&format!("{host}:{port}")), addrs))
}

fn any_transport() -> impl Strategy<Value = Transport> {
    prop::sample::select(Transport::ALL.to_vec())
}

/// What was reached: the set of addresses, since rules of one rank may order them differently.
fn engine(
    world: &World,
    target: &Authority,
    transport: Transport,
    addrs: &[IpAddr],
) -> Result<Vec<IpAddr>, Reason> {
    world.run_over(transport, target, addrs).map(|p| p.addrs().iter().map(|a| a.ip()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_engine_agrees_with_the_reference(
        a in any_rules("a", 0.2), b in any_rules("b", 0.2),
        ceiling in prop::option::of(any_rules("c", 0.0)),
        (target, addrs) in any_target(), transport in any_transport(),
    ) {
        let (policies, ceilings) = (vec![a, b], ceiling.into_iter().collect::<Vec<_>>());
        let world = world(&[], &policies, &ceilings);
        let want = reference(&policies, &ceilings, &target, transport, &addrs);
        let got = engine(&world, &target, transport, &addrs);
        prop_assert_eq!(got.is_ok(), want.is_some(), "engine {:?}, reference {:?}", got, want);
        let filters = policies.iter().flat_map(|p| &p.allow).any(|e| e.settings.answers.is_some());
        if let (Ok(got), Some(want), false) = (got, want, filters) {
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn adding_a_deny_never_allows_more(
        a in any_rules("a", 0.2), ceiling in prop::option::of(any_rules("c", 0.0)),
        more in any_entry(true), (target, addrs) in any_target(), transport in any_transport(),
    ) {
        let ceilings: Vec<Rules> = ceiling.into_iter().collect();
        let before = engine(&world(&[], std::slice::from_ref(&a), &ceilings), &target, transport, &addrs);
        let mut narrower = a.clone();
        narrower.deny.push(more);
        let after = engine(&world(&[], &[narrower], &ceilings), &target, transport, &addrs);
        match (before, after) {
            (Err(_), Ok(after)) => prop_assert!(false, "now reaches {after:?}"),
            (Ok(before), Ok(after)) if a.mode == Mode::Enforce => {
                prop_assert!(after.iter().all(|ip| before.contains(ip)), "{before:?} became {after:?}");
            }
            _ => {}
        }
    }

    #[test]
    fn what_is_denied_is_denied_in_every_spelling(
        a in any_rules("a", 0.2), more in any_entry(true), v4 in any::<u32>(), near in prop::sample::select(ips(&ADDRESSES)),
        upper in any::<u64>(), port in prop::sample::select(vec![443u16, 80, 22, 8443]),
    ) {
        let v4 = match near {
            IpAddr::V4(near) => near.to_bits(),
            IpAddr::V6(_) => v4,
        };
        let (wide, upper) = (u128::from(v4), u128::from(upper) << 64);
        let spelled = [
            0x64_ff9b << 96 | wide,
            0xffff << 48 | wide,
            0x2002 << 112 | wide << 80 | 1,
            0x2001_0000 << 96 | wide << 64,
            0x2001_0000 << 96 | u128::from(!v4),
            upper | 0x5efe << 32 | wide,
            upper | 0x0200_5efe << 32 | wide,
        ];
        let mut closed = a;
        closed.deny.push(more);
        // All that a policy can open is open but for what it denies.
        closed.allow.extend(["[::/0]:1-65535", "0.0.0.0/0:1-65535", "@any-public:1-65535"].map(entry));
        let mut named = entry("spelled.example:1-65535");
        named.settings.addresses = Some(vec![IpBlock::parse("::/0").unwrap(), IpBlock::parse("0.0.0.0/0").unwrap()]);
        closed.allow.push(named);
        let world = world(&[], &[closed], &[]);
        let denied = |ip: IpAddr| {
            let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            let literal = world.run(&target(&format!("{host}:{port}")), &[ip]).is_err();
            (literal, world.run(&target(&format!("spelled.example:{port}")), &[ip]).is_err())
        };
        let plain = denied(IpAddr::from(std::net::Ipv4Addr::from_bits(v4)));
        for spelled in spelled.map(|bits| IpAddr::from(std::net::Ipv6Addr::from_bits(bits))) {
            let got = denied(spelled);
            prop_assert!((got.0 || !plain.0) && (got.1 || !plain.1), "{spelled}: {got:?}, but {plain:?}");
        }
    }

    #[test]
    fn printing_and_parsing_an_entry_is_the_identity(mut entry in any_entry(true)) {
        // Of a table, which is the configuration's to read.
        entry.settings.transport = None;
        prop_assert_eq!(Entry::parse(&entry.to_string()).unwrap(), entry);
    }
}
