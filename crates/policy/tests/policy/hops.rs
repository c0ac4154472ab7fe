//! Ways out through next hops: what is still checked, which rule says the way, and what a hop itself may be.

use exeat_model::IpBlock;
use exeat_policy::{
    Allowed, Defaults, Entry, Floor, HopPermit, Mode, Reason, Resolve, Verdict, decide, permit, permit_hop,
    permit_key_server, permit_via,
};

use crate::support::{Rules, World, entries, entry, ips, rules, target, world, world_with_floor};

fn via(rules: Rules, resolve: Resolve) -> Rules {
    Rules { next_hop: Some(("hop", resolve)), ..rules }
}

fn allowed(world: &World, text: &str) -> Result<Allowed, Reason> {
    let target = target(text);
    match decide(&world.set, &world.request(&target)) {
        Verdict::Allow(allowed) => Ok(allowed),
        Verdict::Deny(denial) => Err(denial.reason),
    }
}

fn through(world: &World, text: &str, addrs: &[&str]) -> Result<HopPermit, Reason> {
    let (allowed, target) = (allowed(world, text)?, target(text));
    permit_via(&world.set, &world.request(&target), &allowed, &ips(addrs)).map_err(|denial| denial.reason)
}

fn at(name: &str, block: &str) -> Entry {
    let mut entry = entry(name);
    entry.settings.addresses = Some(vec![IpBlock::parse(block).unwrap()]);
    entry
}

#[test]
fn names_ports_literals_and_denies_hold_without_resolving() {
    let policy = rules(
        "a",
        &["example.com", "*.example.org", "10.1.0.0/16", "@any-public"],
        &["evil.example.org", "10.1.2.0/24"],
    );
    let world =
        world(&[], &[via(policy, Resolve::NextHop)], &[rules("c", &["@any-public", "10.0.0.0/8"], &[])]);
    for (asked, want) in [
        ("example.com:443", Ok(())),
        ("example.com:22", Err(Reason::PortNotAllowed)),
        ("a.example.org:443", Ok(())),
        ("evil.example.org:443", Err(Reason::HostDenied)),
        ("10.1.0.1:443", Ok(())),
        ("10.1.2.1:443", Err(Reason::HostDenied)),
        ("10.2.0.1:443", Err(Reason::AddressNotAllowed)),
        ("169.254.169.254:80", Err(Reason::AddressNotAllowed)),
        ("anything.example.net:443", Ok(())),
        ("printer.local:443", Err(Reason::HostNotAllowed)),
        ("localhost:443", Err(Reason::HostNotAllowed)),
    ] {
        let permit = through(&world, asked, &[]);
        assert_eq!(permit.as_ref().map(|_| ()).map_err(|r| *r), want, "{asked}");
        if let Ok(permit) = permit {
            assert_eq!((permit.target().to_string(), &*permit.hop().name), (asked.to_owned(), "hop"));
        }
    }
}

#[test]
fn what_cannot_be_checked_covers_nothing() {
    let with_addresses = Rules { allow: vec![at("db.example.com", "10.0.0.0/8")], ..rules("a", &[], &[]) };
    let by_default = Rules {
        defaults: Defaults {
            addresses: Some(vec![IpBlock::parse("10.0.0.0/8").unwrap()]),
            ..Defaults::default()
        },
        ..rules("a", &["db.example.com"], &[])
    };
    let ceiling = Rules { allow: vec![at("*.example.com", "10.0.0.0/8")], ..rules("c", &[], &[]) };
    let wide = || rules("a", &["db.example.com"], &[]);
    type Case = (&'static str, Rules, Vec<Rules>, Resolve, Result<(), Reason>);
    let cases: [Case; 6] = [
        ("a rule", with_addresses.clone(), vec![], Resolve::NextHop, Err(Reason::AddressNotAllowed)),
        ("a default", by_default, vec![], Resolve::NextHop, Err(Reason::AddressNotAllowed)),
        ("a ceiling", wide(), vec![ceiling.clone()], Resolve::NextHop, Err(Reason::AddressNotAllowed)),
        ("without", wide(), vec![], Resolve::NextHop, Ok(())),
        ("resolved here", with_addresses.clone(), vec![ceiling], Resolve::Local, Ok(())),
        ("resolved elsewhere", wide(), vec![], Resolve::Local, Err(Reason::AddressNotAllowed)),
    ];
    for (case, policy, ceilings, resolve, want) in cases {
        let world = world(&[], &[via(policy, resolve)], &ceilings);
        assert_eq!(through(&world, "db.example.com:443", &["10.1.1.1"]).map(|_| ()), want, "{case}");
    }
    let world = world(&[], &[via(with_addresses, Resolve::Local)], &[]);
    assert_eq!(through(&world, "db.example.com:443", &[]).unwrap_err(), Reason::DnsFailed);
    assert_eq!(through(&world, "db.example.com:443", &["10.1.1.1"]).unwrap().checked(), ips(&["10.1.1.1"]));
}

#[test]
fn the_most_specific_rule_says_the_way() {
    let direct = || rules("direct", &["*.example.com", "both.example.org"], &[]);
    let hopped = || {
        via(rules("hopped", &["api.example.com", "both.example.org", "@any-public"], &[]), Resolve::NextHop)
    };
    for policies in [[direct(), hopped()], [hopped(), direct()]] {
        let world = world(&[], &policies, &[]);
        for (asked, want) in [
            ("api.example.com", Some("hop")),
            ("www.example.com", None),
            ("both.example.org", Some("hop")),
            ("example.net", Some("hop")),
        ] {
            let allowed = allowed(&world, asked).unwrap();
            assert_eq!(allowed.way().map(|way| &*way.hop().name), want, "{asked}");
            let target = target(asked);
            let request = world.request(&target);
            // Each proof is for its way alone, and no rule with the other way out stands in.
            assert_eq!(
                permit(&world.set, &request, &allowed, &ips(&["93.184.216.34"])).is_ok(),
                want.is_none()
            );
            assert_eq!(permit_via(&world.set, &request, &allowed, &[]).is_ok(), want.is_some(), "{asked}");
            if want.is_none() {
                let denial = permit(&world.set, &request, &allowed, &ips(&["10.0.0.1"])).unwrap_err();
                assert_eq!(denial.reason, Reason::AddressNotAllowed);
            }
        }
    }
}

#[test]
fn report_mode_leaves_by_its_own_way() {
    let reporting = Rules { mode: Mode::Report, ..rules("a", &[], &[]) };
    let world = world(&[], &[via(reporting, Resolve::NextHop)], &[]);
    let permit = through(&world, "example.com:443", &[]).unwrap();
    assert_eq!(permit.would_deny().unwrap().reason, Reason::HostNotAllowed);
    assert_eq!(through(&world, "10.0.0.1:443", &[]).unwrap_err(), Reason::IpLiteralNotAllowed);
}

#[test]
fn a_hop_may_be_inside_but_not_ourselves() {
    let cases = [
        ("its literal, whatever is resolved", "hop", "10.9.9.9:1", vec!["8.8.8.8"], Ok("10.0.0.9:3128")),
        ("ourselves", "hop", "10.0.0.9:3128", vec![], Err(Reason::LoopDetected)),
        ("our address, another port", "hop", "10.0.0.9:3129", vec![], Ok("10.0.0.9:3128")),
        ("a name inside", "named", "10.9.9.9:1", vec!["192.168.1.1"], Ok("192.168.1.1:3128")),
        ("a name of ourselves", "named", "10.9.9.9:3128", vec!["10.9.9.9"], Err(Reason::LoopDetected)),
        ("loopback of ourselves", "named", "0.0.0.0:3128", vec!["127.0.0.5"], Err(Reason::LoopDetected)),
        ("loopback, another port", "named", "0.0.0.0:1", vec!["127.0.0.5"], Ok("127.0.0.5:3128")),
        (
            "a name mapped to ourselves",
            "named",
            "10.9.9.9:3128",
            vec!["::ffff:10.9.9.9"],
            Err(Reason::LoopDetected),
        ),
        ("a name of nothing", "named", "10.9.9.9:1", vec![], Err(Reason::DnsFailed)),
        ("a name of every address", "named", "10.9.9.9:1", vec!["0.0.0.0"], Err(Reason::AddressNotAllowed)),
        (
            "a name of metadata",
            "named",
            "10.9.9.9:1",
            vec!["169.254.169.254"],
            Err(Reason::AddressNotAllowed),
        ),
    ];
    for (case, hop, listener, addrs, want) in cases {
        let policy = Rules {
            allow: entries(&["example.com"]),
            next_hop: Some((hop, Resolve::NextHop)),
            ..Rules::default()
        };
        let floor = Floor { listeners: vec![listener.parse().unwrap()] };
        let world = world_with_floor(&[], &[policy], &[], floor);
        let permit = through(&world, "example.com:443", &[]).unwrap();
        let infra = permit_hop(&world.set, &permit, &ips(&addrs)).map_err(|denial| denial.reason);
        let shown = infra.map(|infra| infra.addrs()[0].to_string());
        assert_eq!(shown.as_deref().map_err(|r| *r), want, "{case}");
    }
}

#[test]
fn infrastructure_at_a_port_of_ours_must_be_elsewhere() {
    for (listener, want) in [("0.0.0.0:3128", true), ("[::]:3128", true), ("10.9.9.9:3128", false)] {
        let policy = Rules {
            allow: entries(&["example.com"]),
            next_hop: Some(("named", Resolve::NextHop)),
            ..Rules::default()
        };
        let floor = Floor { listeners: vec![listener.parse().unwrap()] };
        let world = world_with_floor(&[], &[policy], &[], floor);
        let permit = through(&world, "example.com:443", &[]).unwrap();
        let infra = permit_hop(&world.set, &permit, &ips(&["192.168.1.1"])).unwrap();
        assert_eq!(infra.must_be_elsewhere(), want, "{listener}");
    }
}

#[test]
fn only_the_servers_of_keys_that_are_configured_are_permitted() {
    for (case, endpoint, addrs, want) in [
        ("a literal, though it is private", "10.0.0.9:443", vec![], Ok("10.0.0.9:443")),
        ("a name, resolved by us", "keys.example:443", vec!["192.168.7.1"], Ok("192.168.7.1:443")),
        ("a name of nothing", "keys.example:443", vec![], Err(Reason::DnsFailed)),
        ("a name of metadata", "keys.example:443", vec!["169.254.169.254"], Err(Reason::AddressNotAllowed)),
        ("a name of our own listener", "keys.example:443", vec!["10.9.9.9"], Err(Reason::LoopDetected)),
        ("another port", "keys.example:444", vec!["192.168.7.1"], Err(Reason::PolicyUnavailable)),
        ("another name", "example.com:443", vec!["93.184.216.34"], Err(Reason::PolicyUnavailable)),
        ("a next hop", "10.0.0.9:3128", vec![], Err(Reason::PolicyUnavailable)),
    ] {
        let floor = Floor { listeners: vec!["10.9.9.9:443".parse().unwrap()] };
        let world = world_with_floor(&[], &[], &[], floor);
        let infra = permit_key_server(&world.set, &target(endpoint), &ips(&addrs));
        let shown = infra.map(|infra| infra.addrs()[0].to_string());
        assert_eq!(shown.as_deref().map_err(|denial| denial.reason), want, "{case}");
    }
}
