//! What a name opens on every port at once: tables, and the promise that it is what each port says by itself.

use std::net::{IpAddr, SocketAddr};

use exeat_model::{Authority, DnsName, Host, Port, Transport};
use exeat_policy::{
    Answers, Caps, Entry, Expect, Floor, Mode, Reach, Reason, Relayed, Resolve, Transports, allows_below,
    may_resolve, reach, reach_relayed,
};
use proptest::prelude::*;

use crate::reference::{ADDRESSES, NAMES, any_rules};
use crate::support::*;

fn name(text: &str) -> DnsName {
    DnsName::parse(text).unwrap()
}

/// `transport/ports addresses`, one for each reach, or the refusal.
fn opened(world: &World, host: &str, addrs: &[&str]) -> Result<Vec<String>, Reason> {
    let found = reach(&world.set, &world.bound, &name(host), &ips(addrs)).map_err(|denial| denial.reason)?;
    let line = |r: &Reach| {
        let addrs: Vec<String> = r.addrs.iter().map(ToString::to_string).collect();
        format!("{}/{} {}", r.transport, r.ports, addrs.join(","))
    };
    Ok(found.iter().map(line).collect())
}

fn with(text: &str, set: impl Fn(&mut Entry)) -> Entry {
    let mut entry = entry(text);
    set(&mut entry);
    entry
}

/// What is tried, the two lists, and what they open.
type Case = (&'static str, Vec<Entry>, Vec<Entry>, Result<Vec<&'static str>, Reason>);

const A: &str = "93.184.216.34";
const B: &str = "93.184.217.1";

#[test]
fn a_name_opens_the_ports_of_its_rules() {
    let udp = |text| with(text, |e| e.settings.transport = Some(Transports::Only(Transport::Udp)));
    let any = |text| with(text, |e| e.settings.transport = Some(Transports::Any));
    let capped = |text| with(text, |e| e.settings.caps = Caps { max_bytes_up: Some(9), ..Caps::default() });
    let idle = |text| with(text, |e| e.settings.caps.idle_timeout = Some(std::time::Duration::from_secs(9)));
    let (plain, deny) = (entries(&["example.com"]), entries(&["example.com:8000-8010"]));
    let cases: Vec<Case> = vec![
        ("nothing", vec![], vec![], Err(Reason::HostNotAllowed)),
        ("web ports", plain.clone(), vec![], Ok(vec!["tcp/80 93.184.216.34", "tcp/443 93.184.216.34"])),
        ("a range", entries(&["example.com:1-65535"]), vec![], Ok(vec!["tcp/1-65535 93.184.216.34"])),
        (
            "a deny cuts into it",
            entries(&["example.com:8000-9000"]),
            deny,
            Ok(vec!["tcp/8011-9000 93.184.216.34"]),
        ),
        ("a deny of it all", plain.clone(), entries(&["*.com"]), Err(Reason::HostDenied)),
        ("a deny of the address", plain.clone(), entries(&[A]), Err(Reason::AddressNotAllowed)),
        (
            "a deny of the address, elsewhere",
            plain.clone(),
            entries(&["93.184.216.34:80"]),
            Ok(vec!["tcp/443 93.184.216.34"]),
        ),
        (
            "a deny of UDP",
            vec![any("example.com:443")],
            vec![udp("example.com")],
            Ok(vec!["tcp/443 93.184.216.34"]),
        ),
        ("UDP", vec![udp("example.com:443")], vec![], Ok(vec!["udp/443 93.184.216.34"])),
        (
            "both",
            vec![any("example.com:443")],
            vec![],
            Ok(vec!["tcp/443 93.184.216.34", "udp/443 93.184.216.34"]),
        ),
        ("bounds that a relay keeps", vec![capped("example.com")], vec![], Err(Reason::MaxBytes)),
        (
            "a bound that the kernel has",
            vec![idle("example.com:443")],
            vec![],
            Ok(vec!["tcp/443 93.184.216.34"]),
        ),
    ];
    for (case, allow, deny, want) in cases {
        let world = world(&[], &[Rules { name: "p", allow, deny, ..Rules::default() }], &[]);
        let want = want.map(|lines| lines.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(opened(&world, "example.com", &[A]), want, "{case}");
        // Nothing is resolved that could not be reached, whatever it resolves to.
        let resolved = may_resolve(&world.set, &world.bound, &name("example.com"));
        let by_address = matches!(want, Err(Reason::AddressNotAllowed | Reason::MaxBytes));
        assert_eq!(resolved.is_ok(), want.is_ok() || by_address, "{case}");
    }
}

#[test]
fn what_only_a_relay_can_judge_is_told_apart() {
    let verify = |text, word| with(text, |e| e.settings.verify = Some(word));
    let any = |text| with(text, |e| e.settings.expect = Some(Expect::Any));
    let udp = |text| with(text, |e| e.settings.transport = Some(Transports::Only(Transport::Udp)));
    let capped = |text| with(text, |e| e.settings.caps = Caps { max_bytes_up: Some(9), ..Caps::default() });
    let (never, shared, always) = (Relayed::Never, Relayed::IfShared, Relayed::Always);
    // What is tried, the allow list, that of a ceiling, and what is the relay's on which port.
    type Case = (&'static str, Vec<Entry>, Option<Entry>, Vec<(u16, Relayed)>);
    let cases: Vec<Case> = vec![
        ("TLS and HTTP tell names apart", entries(&["example.com"]), None, vec![(80, shared), (443, shared)]),
        ("all else does not", entries(&["example.com:22"]), None, vec![(22, never)]),
        ("nor what may begin with anything", vec![any("example.com:443")], None, vec![(443, never)]),
        ("a rule says so", vec![verify("example.com:443", true)], None, vec![(443, always)]),
        ("of any port", vec![verify("example.com:22", true)], None, vec![(22, always)]),
        ("a rule says not", vec![verify("example.com:443", false)], None, vec![(443, never)]),
        (
            "the ceiling says so",
            vec![verify("example.com:443", false)],
            Some(verify("example.com", true)),
            vec![(443, always)],
        ),
        ("bounds", vec![capped("example.com:22")], None, vec![(22, always)]),
        ("datagrams", vec![udp("example.com:443")], None, vec![(443, never)]),
        ("of a range", entries(&["example.com:79-81"]), None, vec![(79, never), (80, shared), (81, never)]),
    ];
    for (case, allow, ceiling, want) in cases {
        let ceilings: Vec<Rules> =
            ceiling.map(|entry| Rules { allow: vec![entry], ..rules("c", &[], &[]) }).into_iter().collect();
        let world = world(&[], &[Rules { name: "p", allow, ..Rules::default() }], &ceilings);
        let found = reach_relayed(&world.set, &world.bound, &name("example.com"), &ips(&[A])).unwrap();
        let found: Vec<_> = found.iter().map(|reach| (reach.ports.first().get(), reach.relayed)).collect();
        assert_eq!(found, want, "{case}");
        // Without a relay nothing waits for one, but what a rule wants verified is still told.
        if let Ok(found) = reach(&world.set, &world.bound, &name("example.com"), &ips(&[A])) {
            assert!(found.iter().all(|reach| reach.relayed != Relayed::IfShared), "{case}");
            let is_verified = want.iter().any(|(_, relayed)| *relayed == always);
            assert_eq!(found.iter().any(|reach| reach.relayed == always), is_verified, "{case}");
        }
    }
    let shown = verify("example.com:443", true).to_string();
    assert_eq!(shown, "{ host = \"example.com\", ports = [443], verify = true }");
}

#[test]
fn a_forbidden_address_refuses_the_answer() {
    let one = |allow: &[&str]| world(&[], &[rules("p", allow, &[])], &[]);
    let world = one(&["example.com:443"]);
    assert_eq!(opened(&world, "example.com", &[A, "10.0.0.1"]), Err(Reason::AddressNotAllowed));
    assert_eq!(opened(&world, "example.com", &["::ffff:10.0.0.1"]), Err(Reason::AddressNotAllowed));
    assert_eq!(opened(&world, "example.com", &["64:ff9b::a00:5"]), Err(Reason::AddressNotAllowed));
    assert_eq!(opened(&world, "example.com", &[A, B]), Ok(vec![format!("tcp/443 {A},{B}")]));
    let filter = with("example.com:443", |e| e.settings.answers = Some(Answers::Filter));
    let world =
        crate::support::world(&[], &[Rules { name: "p", allow: vec![filter], ..Rules::default() }], &[]);
    assert_eq!(opened(&world, "example.com", &[A, "10.0.0.1"]), Ok(vec![format!("tcp/443 {A}")]));
}

#[test]
fn our_own_listeners_stay_closed() {
    let listener: SocketAddr = format!("{A}:8443").parse().unwrap();
    let floor = Floor { listeners: vec![listener] };
    let world = world_with_floor(&[], &[rules("p", &["example.com:8442-8444"], &[])], &[], floor);
    let want = vec![format!("tcp/8442 {A}"), format!("tcp/8444 {A}")];
    assert_eq!(opened(&world, "example.com", &[A]), Ok(want));
}

#[test]
fn what_leaves_through_a_next_hop_is_not_resolved() {
    let by_hop = Rules { next_hop: Some(("hop", Resolve::NextHop)), ..rules("p", &["example.com"], &[]) };
    let world = world(&[], &[by_hop, rules("q", &["example.com:22", "example.org"], &[])], &[]);
    let resolve = |host| may_resolve(&world.set, &world.bound, &name(host)).map_err(|d| d.reason);
    assert!(resolve("example.org").is_ok());
    assert_eq!(opened(&world, "example.com", &[A]), Ok(vec![format!("tcp/22 {A}")]));
    assert_eq!(resolve("example.net").err(), Some(Reason::HostNotAllowed));
    let by_hop = Rules { next_hop: Some(("hop", Resolve::NextHop)), ..rules("p", &["example.com"], &[]) };
    let world = crate::support::world(&[], &[by_hop], &[]);
    let refused = may_resolve(&world.set, &world.bound, &name("example.com")).map_err(|d| d.reason);
    assert_eq!(refused.err(), Some(Reason::EgressGatewayUnavailable));
}

#[test]
fn report_mode_is_told_of_names_that_no_port_is_allowed_of() {
    let world = world(&[], &[Rules { mode: Mode::Report, ..rules("p", &["example.com:8443"], &[]) }], &[]);
    let would_deny = |host| {
        let (rule, denial) = may_resolve(&world.set, &world.bound, &name(host)).unwrap();
        assert!(rule.is_some());
        denial.map(|denial| denial.reason)
    };
    assert_eq!(would_deny("example.com"), None);
    assert_eq!(would_deny("example.org"), Some(Reason::HostNotAllowed));
}

#[test]
fn names_above_allowed_ones_are_known() {
    let world = world(&[], &[rules("p", &["a.b.example.com", "*.example.org"], &["c.example.net"])], &[]);
    for (host, want) in [
        ("b.example.com", true),
        ("example.com", true),
        ("com", true),
        ("a.b.example.com", false),
        ("x.b.example.com", false),
        ("example.org", true),
        ("www.example.org", false),
        ("example.net", false),
    ] {
        assert_eq!(allows_below(&world.set, &world.bound, &name(host)), want, "{host}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_port_is_open_that_would_be_allowed_and_no_other(
        a in any_rules("a", 0.2), b in any_rules("b", 0.2), ceiling in prop::option::of(any_rules("c", 0.0)),
        host in prop::sample::select(&NAMES[..]),
        addrs in prop::collection::vec(prop::sample::select(ips(&ADDRESSES)), 1..3),
    ) {
        let world = world(&[], &[a, b], &ceiling.into_iter().collect::<Vec<_>>());
        let found = reach(&world.set, &world.bound, &name(host), &addrs).unwrap_or_default();
        for transport in Transport::ALL {
            for port in [1, 22, 53, 79, 80, 81, 442, 443, 444, 7999, 8000, 8443, 9000, 9001, 65_535] {
                let port = Port::new(port).unwrap();
                let target = Authority { host: Host::Name(name(host)), port };
                let permit = world.run_over(transport, &target, &addrs).ok();
                let permit = permit.filter(|permit| permit.caps() == Caps::default());
                let want: Option<Vec<IpAddr>> = permit.map(|p| p.addrs().iter().map(SocketAddr::ip).collect());
                let mut open = found.iter().filter(|r| r.transport == transport && r.ports.contains(port));
                prop_assert_eq!(open.next().map(|r| r.addrs.clone()), want, "{}/{}", transport, port);
                prop_assert_eq!(open.next(), None);
            }
        }
        if !found.is_empty() {
            prop_assert!(may_resolve(&world.set, &world.bound, &name(host)).is_ok());
        }
    }
}
