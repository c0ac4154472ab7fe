//! The settled semantics, as tables of (what, policy, target, addresses, answer).

use crate::support::*;
use exeat_policy::{Announce, Answers, Defaults, Entry, Expect, Floor, Mode};

const PUBLIC: &[&str] = &["93.184.216.34"];

/// Runs a table of `(target, addresses, want)` against one policy.
fn check(world: &World, cases: &[(&str, &[&str], &str)]) {
    for (target, addrs, want) in cases {
        assert_eq!(world.answer(target, addrs), *want, "{target} at {addrs:?}");
    }
}

fn one(allow: &[&str], deny: &[&str]) -> World {
    world(&[], &[rules("p", allow, deny)], &[])
}

#[test]
fn nothing_is_allowed_by_default() {
    check(&world(&[], &[], &[]), &[("example.com:443", PUBLIC, "host_not_allowed")]);
    check(
        &one(&[], &[]),
        &[
            ("example.com:443", PUBLIC, "host_not_allowed"),
            ("93.184.216.34:443", &[], "ip_literal_not_allowed"),
        ],
    );
}

#[test]
fn names_match_as_written() {
    let world = one(&["example.com", "*.example.org", "cdn.example.net:8443"], &["bad.example.org"]);
    check(
        &world,
        &[
            ("example.com:443", PUBLIC, "allow example.com"),
            ("EXAMPLE.com.:443", PUBLIC, "allow example.com"),
            ("example.com:80", PUBLIC, "allow example.com"),
            ("evilexample.com:443", PUBLIC, "host_not_allowed"),
            ("example.com.evil.test:443", PUBLIC, "host_not_allowed"),
            ("sub.example.com:443", PUBLIC, "host_not_allowed"),
            ("example.org:443", PUBLIC, "host_not_allowed"),
            ("a.example.org:443", PUBLIC, "allow *.example.org"),
            ("a.b.example.org:443", PUBLIC, "allow *.example.org"),
            ("evilexample.org:443", PUBLIC, "host_not_allowed"),
            ("bad.example.org:443", PUBLIC, "host_denied"),
            ("x.bad.example.org:443", PUBLIC, "allow *.example.org"),
            ("cdn.example.net:8443", PUBLIC, "allow cdn.example.net:8443"),
            ("cdn.example.net:443", PUBLIC, "port_not_allowed"),
            ("example.com:22", PUBLIC, "port_not_allowed"),
            ("93.184.216.34:443", &[], "ip_literal_not_allowed"),
        ],
    );
}

#[test]
fn a_deny_without_ports_means_every_port_and_beats_any_allow() {
    let world =
        one(&["a.example.com:1-65535", "b.example.com:1-65535"], &["*.example.com:25", "b.example.com"]);
    check(
        &world,
        &[
            ("a.example.com:25", PUBLIC, "host_denied"),
            ("a.example.com:26", PUBLIC, "allow a.example.com:1-65535"),
            ("b.example.com:26", PUBLIC, "host_denied"),
        ],
    );
    check(
        &one(&["@any-public"], &["*"]),
        &[("example.com:443", PUBLIC, "host_denied"), ("93.184.216.34:443", &[], "host_denied")],
    );
    check(
        &one(&["@any-public"], &["*.com"]),
        &[("example.com:443", PUBLIC, "host_denied"), ("example.org:443", PUBLIC, "allow @any-public")],
    );
}

#[test]
fn names_never_lead_to_special_use_space_unless_the_rule_says_where() {
    let mut db = entry("db.corp.example:5432");
    db.settings.addresses = entry_blocks(&["10.20.0.0/16"]);
    let mut policy = rules("p", &["example.com", "10.0.0.0/8"], &[]);
    policy.allow.push(db);
    let world = world(&[], &[policy], &[]);
    let db = "allow { host = \"db.corp.example\", ports = [5432], addresses = [\"10.20.0.0/16\"] }";
    check(
        &world,
        &[
            ("db.corp.example:5432", &["10.20.1.2"], db),
            ("db.corp.example:5432", &["10.21.0.1"], "address_not_allowed"),
            ("db.corp.example:5432", &["93.184.216.34"], "address_not_allowed"),
            ("db.corp.example:5432", &["10.20.1.2", "10.21.0.1"], "address_not_allowed"),
            ("db.corp.example:5432", &["169.254.169.254"], "address_not_allowed"),
            ("db.corp.example:443", &["10.20.1.2"], "port_not_allowed"),
            ("example.com:443", &["10.20.1.2"], "address_not_allowed"),
            ("example.com:443", &["127.0.0.1"], "address_not_allowed"),
            ("example.com:443", &["0.0.0.0"], "address_not_allowed"),
            ("example.com:443", &["::"], "address_not_allowed"),
            ("example.com:443", &["::ffff:10.0.0.1"], "address_not_allowed"),
            ("example.com:443", &["64:ff9b::a00:1"], "address_not_allowed"),
            ("example.com:443", &["93.184.216.34", "10.0.0.5"], "address_not_allowed"),
            ("example.com:443", &[], "dns_failed"),
        ],
    );
}

#[test]
fn a_network_rule_matches_literals_only() {
    let world = one(
        &["10.20.0.0/16:5432", "93.184.216.0/24", "[2606:2800:220::/48]:443", "@any-public:8080"],
        &["10.20.66.0/24"],
    );
    check(
        &world,
        &[
            ("10.20.1.1:5432", &[], "allow 10.20.0.0/16:5432"),
            ("10.20.1.1:443", &[], "port_not_allowed"),
            ("10.20.66.1:5432", &[], "host_denied"),
            ("10.21.0.1:5432", &[], "address_not_allowed"),
            ("93.184.216.34:443", &[], "allow 93.184.216.0/24"),
            ("[::ffff:93.184.216.34]:443", &[], "allow 93.184.216.0/24"),
            ("[2606:2800:220:1::1]:443", &[], "allow [2606:2800:220::/48]:443"),
            ("93.184.216.34:8080", &[], "allow @any-public:8080"),
            ("example.com:443", PUBLIC, "port_not_allowed"),
            ("example.com:8080", PUBLIC, "allow @any-public:8080"),
            ("127.0.0.1:8080", &[], "address_not_allowed"),
        ],
    );
}

#[test]
fn a_denied_network_refuses_what_names_resolve_to() {
    let mut policy = rules("p", &[], &["192.168.1.5", "93.184.216.9"]);
    let mut lan = entry("nas.example.com");
    lan.settings.addresses = entry_blocks(&["192.168.0.0/16"]);
    policy.allow = vec![lan, entry("example.com")];
    check(
        &world(&[], &[policy], &[]),
        &[
            ("nas.example.com:443", &["192.168.1.5"], "address_not_allowed"),
            (
                "nas.example.com:443",
                &["192.168.1.6"],
                "allow { host = \"nas.example.com\", addresses = [\"192.168.0.0/16\"] }",
            ),
            ("example.com:443", &["93.184.216.9"], "address_not_allowed"),
            ("example.com:443", &["93.184.216.34", "93.184.216.9"], "address_not_allowed"),
        ],
    );
}

#[test]
fn filtering_drops_forbidden_addresses_instead_of_refusing() {
    let mut policy = rules("p", &["example.com"], &["93.184.216.9"]);
    policy.defaults.answers = Some(Answers::Filter);
    let world = world(&[], &[policy], &[]);
    let addrs = ips(&["10.0.0.5", "93.184.216.9", "93.184.216.34", "93.184.216.34"]);
    let permit = world.run(&target("example.com:443"), &addrs).expect("filtered");
    assert_eq!(permit.addrs(), ["93.184.216.34:443".parse().unwrap()]);
    check(&world, &[("example.com:443", &["10.0.0.5"], "address_not_allowed")]);
}

#[test]
fn one_rule_must_cover_every_address_alone() {
    let mut inside = entry("db.example.com");
    inside.settings.addresses = entry_blocks(&["10.0.0.0/8"]);
    let mut policy = rules("p", &["db.example.com"], &[]);
    policy.allow.push(inside);
    check(
        &world(&[], &[policy], &[]),
        &[
            ("db.example.com:443", &["93.184.216.34"], "allow db.example.com"),
            (
                "db.example.com:443",
                &["10.0.0.1"],
                "allow { host = \"db.example.com\", addresses = [\"10.0.0.0/8\"] }",
            ),
            ("db.example.com:443", &["10.0.0.1", "93.184.216.34"], "address_not_allowed"),
        ],
    );
}

#[test]
fn metadata_opens_only_what_it_names_and_only_in_its_policy() {
    let mut policy = rules("p", &["169.254.0.0/16", "example.com"], &[]);
    check(
        &world(&[], &[policy.clone()], &[]),
        &[
            ("169.254.169.254:80", &[], "address_not_allowed"),
            ("169.254.1.1:80", &[], "allow 169.254.0.0/16"),
        ],
    );
    policy.metadata = vec!["169.254.169.254"];
    check(
        &world(&[], &[policy.clone()], &[]),
        &[
            ("169.254.169.254:80", &[], "allow metadata = [\"169.254.169.254\"]"),
            ("[::ffff:a9fe:a9fe]:80", &[], "allow metadata = [\"169.254.169.254\"]"),
            ("169.254.170.2:80", &[], "address_not_allowed"),
            ("example.com:80", &["169.254.169.254"], "address_not_allowed"),
        ],
    );
    let open = rules("open", &["@any-public", "169.254.0.0/16"], &[]);
    check(
        &world(&[], &[open, policy.clone()], &[]),
        &[
            ("169.254.169.254:80", &[], "allow metadata = [\"169.254.169.254\"]"),
            ("168.63.129.16:80", &[], "address_not_allowed"),
        ],
    );
    let ceiling = rules("c", &["@any-public", "169.254.0.0/16"], &[]);
    check(&world(&[], &[policy], &[ceiling]), &[("169.254.169.254:80", &[], "address_not_allowed")]);
}

#[test]
fn our_own_listeners_are_never_reached() {
    let mut own = entry("proxy.example.com:3128");
    own.settings.addresses = entry_blocks(&["10.99.0.0/24"]);
    let mut policy = rules("p", ["10.99.0.0/24:1-65535", "[::ffff:10.99.0.0/120]:3128"][..1].as_ref(), &[]);
    policy.allow.push(own);
    let floor = Floor { listeners: vec!["10.99.0.1:3128".parse().unwrap()] };
    check(
        &world_with_floor(&[], &[policy], &[], floor),
        &[
            ("10.99.0.1:3128", &[], "address_not_allowed"),
            ("[::ffff:10.99.0.1]:3128", &[], "address_not_allowed"),
            ("proxy.example.com:3128", &["10.99.0.1"], "address_not_allowed"),
            ("10.99.0.1:3129", &[], "allow 10.99.0.0/24:1-65535"),
            ("10.99.0.2:3128", &[], "allow 10.99.0.0/24:1-65535"),
        ],
    );
}

#[test]
fn a_deny_of_ipv4_holds_for_what_carries_it() {
    let mut named = entry("example.com");
    named.settings.addresses = entry_blocks(&["::/0", "0.0.0.0/0"]);
    let mut policy = rules("p", &["@any-public"], &["93.184.216.99", "10.0.0.0/8:443"]);
    policy.allow.push(named);
    check(
        &world(&[], &[policy], &[]),
        &[
            ("93.184.216.99:443", &[], "host_denied"),
            ("93.184.216.98:443", &[], "allow @any-public"),
            ("[64:ff9b::5db8:d863]:443", &[], "host_denied"),
            ("[64:ff9b::5db8:d862]:443", &[], "allow @any-public"),
            ("[2606:2800:220:1:0:5efe:5db8:d863]:443", &[], "host_denied"),
            ("[2606:2800:220:1:0:5efe:5db8:d862]:443", &[], "allow @any-public"),
            ("www.example.org:443", &["64:ff9b::5db8:d863"], "address_not_allowed"),
            ("www.example.org:443", &["64:ff9b::5db8:d862"], "allow @any-public"),
            ("example.com:443", &["2002:5db8:d863::1"], "address_not_allowed"),
            ("example.com:443", &["64:ff9b::a00:1"], "address_not_allowed"),
        ],
    );
    // What an allow names is that spelling alone.
    check(
        &one(&["93.184.216.0/24"], &[]),
        &[
            ("93.184.216.99:443", &[], "allow 93.184.216.0/24"),
            ("[64:ff9b::5db8:d863]:443", &[], "ip_literal_not_allowed"),
        ],
    );
}

#[test]
fn a_listener_on_every_address_is_reached_at_none() {
    let mut named = entry("local.example.com:1-65535");
    named.settings.addresses = entry_blocks(&["127.0.0.0/8", "::1", "10.99.0.0/24"]);
    let nets =
        ["127.0.0.0/8:1-65535", "[::1]:1-65535", "10.99.0.0/24:1-65535", "[64:ff9b::7f00:0/104]:1-65535"];
    let mut policy = rules("p", &nets, &[]);
    policy.allow.push(named);
    let floor =
        Floor { listeners: ["0.0.0.0:3128", "[::]:53"].into_iter().map(|l| l.parse().unwrap()).collect() };
    let world = world_with_floor(&[], &[policy], &[], floor);
    check(
        &world,
        &[
            ("127.0.0.1:3128", &[], "address_not_allowed"),
            ("127.77.0.2:3128", &[], "address_not_allowed"),
            ("127.77.0.2:3129", &[], "allow 127.0.0.0/8:1-65535"),
            ("[64:ff9b::7f4d:2]:3128", &[], "address_not_allowed"),
            ("[64:ff9b::7f4d:2]:3129", &[], "allow [64:ff9b::7f00:0/104]:1-65535"),
            ("127.77.0.2:53", &[], "address_not_allowed"),
            ("[::1]:53", &[], "address_not_allowed"),
            ("[::1]:3128", &[], "allow [::1]:1-65535"),
            ("local.example.com:3128", &["127.0.0.9"], "address_not_allowed"),
            ("local.example.com:53", &["::1"], "address_not_allowed"),
            ("local.example.com:53", &["::ffff:127.0.0.9"], "address_not_allowed"),
            (
                "local.example.com:3129",
                &["127.0.0.9"],
                "allow { host = \"local.example.com\", ports = [\"1-65535\"], addresses = [\"127.0.0.0/8\", \"::1\", \"10.99.0.0/24\"] }",
            ),
        ],
    );
    // Whether an address is one of this host is not known here: the permit says that it has to be asked.
    for (target_text, must_be_elsewhere) in [
        ("10.99.0.7:3128", true),
        ("10.99.0.7:53", true),
        ("10.99.0.7:3129", false),
        ("127.77.0.2:3129", false),
        ("[::1]:3128", false),
    ] {
        let permit = world.run(&target(target_text), &[]).unwrap();
        assert_eq!(permit.must_be_elsewhere(), must_be_elsewhere, "{target_text}");
        let told =
            exeat_policy::explain(&world.set, &world.request(&target(target_text)), None, None).to_string();
        assert_eq!(told.contains("unless one is an address of this host"), must_be_elsewhere, "{told}");
    }
}

#[test]
fn ceilings_intersect_and_their_denies_count() {
    let policy = rules("p", &["example.com:1-65535", "other.example.net", "10.0.0.0/8"], &[]);
    let ceiling = rules("c", &["*.example.net", "example.com:443"], &["10.9.0.0/16"]);
    check(
        &world(&[], std::slice::from_ref(&policy), std::slice::from_ref(&ceiling)),
        &[
            ("example.com:443", PUBLIC, "allow example.com:1-65535"),
            ("example.com:22", PUBLIC, "port_not_allowed"),
            ("other.example.net:443", PUBLIC, "allow other.example.net"),
            ("more.example.net:443", PUBLIC, "host_not_allowed"),
            ("10.0.0.1:80", &[], "ip_literal_not_allowed"),
            ("10.9.0.1:80", &[], "host_denied"),
        ],
    );
    let none = rules("none", &[], &[]);
    check(&world(&[], &[policy], &[ceiling, none]), &[("example.com:443", PUBLIC, "host_not_allowed")]);
}

#[test]
fn any_public_is_public_only_and_knows_closed_zones() {
    check(
        &one(&["@any-public"], &[]),
        &[
            ("example.com:443", PUBLIC, "allow @any-public"),
            ("93.184.216.34:443", &[], "allow @any-public"),
            ("example.com:22", PUBLIC, "port_not_allowed"),
            ("metadata.google.internal:80", PUBLIC, "host_not_allowed"),
            ("printer.local:80", PUBLIC, "host_not_allowed"),
            ("kubernetes:443", PUBLIC, "host_not_allowed"),
            ("10.0.0.1:443", &[], "address_not_allowed"),
            ("168.63.129.16:80", &[], "address_not_allowed"),
            ("example.com:443", &["10.0.0.1"], "address_not_allowed"),
        ],
    );
    check(&one(&["registry.internal"], &[]), &[("registry.internal:443", PUBLIC, "allow registry.internal")]);
}

#[test]
fn report_mode_lets_public_destinations_through_and_remembers_why() {
    let mut policy = rules("watch", &["example.com"], &["bad.example.org"]);
    policy.mode = Mode::Report;
    let world = world(&[], &[policy, rules("strict", &[], &["worse.example.org"])], &[]);
    check(
        &world,
        &[
            ("example.com:443", PUBLIC, "allow example.com"),
            ("example.org:22", PUBLIC, "allow mode = \"report\""),
            ("bad.example.org:443", PUBLIC, "allow mode = \"report\""),
            ("worse.example.org:443", PUBLIC, "host_denied"),
            ("93.184.216.34:22", &[], "allow mode = \"report\""),
            ("10.0.0.1:443", &[], "ip_literal_not_allowed"),
            ("169.254.169.254:80", &[], "ip_literal_not_allowed"),
            ("example.org:443", &["10.0.0.1"], "address_not_allowed"),
            ("printer.local:80", PUBLIC, "host_not_allowed"),
        ],
    );
    let would = |text: &str| {
        let permit = world.run(&target(text), &ips(PUBLIC)).expect("report mode");
        permit.would_deny().map(|d| d.reason.token())
    };
    assert_eq!(would("example.com:443"), None);
    assert_eq!(would("example.org:443"), Some("host_not_allowed"));
    assert_eq!(would("example.com:22"), Some("port_not_allowed"));
    assert_eq!(would("bad.example.org:443"), Some("host_denied"));
}

#[test]
fn report_mode_stays_below_ceilings() {
    let mut policy = rules("watch", &[], &[]);
    policy.mode = Mode::Report;
    check(
        &world(&[], &[policy], &[rules("c", &["example.com"], &[])]),
        &[
            ("example.com:443", PUBLIC, "allow mode = \"report\""),
            ("example.org:443", PUBLIC, "host_not_allowed"),
        ],
    );
}

#[test]
fn groups_pass_their_settings_down() {
    let ports = Entry::parse("x.example:5432").unwrap().settings.ports;
    let inner =
        list(&entries(&["a.example.com", "b.example.com:1"]), Defaults { ports, ..Defaults::default() });
    let outer = list(&entries(&["@inner", "c.example.com"]), Defaults::default());
    let mut policy = rules("p", &["@outer"], &[]);
    policy.defaults.expect = Some(Expect::Any);
    let world = world(&[("inner", inner), ("outer", outer)], &[policy], &[]);
    check(
        &world,
        &[
            ("a.example.com:5432", PUBLIC, "allow a.example.com"),
            ("a.example.com:443", PUBLIC, "port_not_allowed"),
            ("b.example.com:1", PUBLIC, "allow b.example.com:1"),
            ("b.example.com:5432", PUBLIC, "port_not_allowed"),
            ("c.example.com:443", PUBLIC, "allow c.example.com"),
        ],
    );
    let permit = world.run(&target("c.example.com:443"), &ips(PUBLIC)).unwrap();
    assert_eq!(permit.opening().expect(), Expect::Any);
}

#[test]
fn the_opening_follows_the_port_the_rule_and_the_ceiling() {
    let opening = |allow: Entry, ceiling: Option<Entry>, text: &str| {
        let policy = Rules { name: "p", allow: vec![allow], ..Rules::default() };
        let ceilings: Vec<Rules> =
            ceiling.into_iter().map(|c| Rules { name: "c", allow: vec![c], ..Rules::default() }).collect();
        let world = world(&[], &[policy], &ceilings);
        world.run(&target(text), &ips(PUBLIC)).map(|p| p.opening().clone()).map_err(|r| r.token())
    };
    let with = |text: &str, expect: Expect| {
        let mut entry = entry(text);
        entry.settings.expect = Some(expect);
        entry
    };
    let wide = "example.com:1-65535";
    for (allow, ceiling, target, want) in [
        (entry(wide), None, "example.com:443", Ok(Expect::Tls)),
        (entry(wide), None, "example.com:80", Ok(Expect::Http)),
        (entry(wide), None, "example.com:22", Ok(Expect::Any)),
        (with(wide, Expect::Any), None, "example.com:443", Ok(Expect::Any)),
        (with(wide, Expect::Tls), None, "example.com:22", Ok(Expect::Tls)),
        (with(wide, Expect::Any), Some(entry(wide)), "example.com:443", Ok(Expect::Tls)),
        (entry(wide), Some(with(wide, Expect::Any)), "example.com:443", Ok(Expect::Tls)),
        (with(wide, Expect::Http), Some(entry(wide)), "example.com:443", Err("tls_required")),
    ] {
        assert_eq!(opening(allow, ceiling, target).map(|o| o.expect()), want, "{target}");
    }
    let literal = opening(entry("93.184.216.34"), None, "93.184.216.34:443").unwrap();
    assert!(literal.literal());
    assert!(literal.accepts_name(&"anything.example".parse().unwrap()), "a literal was asked for by no name");
    let mut listed = entry("93.184.216.34");
    listed.sni = vec!["edge.example.net".parse().unwrap()];
    let listed = opening(listed, None, "93.184.216.34:443").unwrap();
    assert!(listed.accepts_name(&"edge.example.net".parse().unwrap()));
    assert!(!listed.accepts_name(&"anything.example".parse().unwrap()), "unless the rule lists some");
    let mut fronted = entry("example.com");
    fronted.sni = vec!["edge.example.net".parse().unwrap()];
    let rule = opening(fronted, None, "example.com:443").unwrap();
    for (name, want) in [("example.com", true), ("edge.example.net", true), ("www.example.com", false)] {
        assert_eq!(rule.accepts_name(&name.parse().unwrap()), want, "{name}");
    }
}

#[test]
fn the_most_specific_rule_is_cited_whatever_the_order() {
    let texts = ["@any-public", "*.example.com", "*.b.example.com", "a.b.example.com", "a.b.example.com:443"];
    for shift in 0..texts.len() {
        let mut turned = texts.to_vec();
        turned.rotate_left(shift);
        check(
            &one(&turned, &[]),
            &[
                ("a.b.example.com:443", PUBLIC, "allow a.b.example.com:443"),
                ("a.b.example.com:80", PUBLIC, "allow a.b.example.com"),
                ("x.b.example.com:80", PUBLIC, "allow *.b.example.com"),
                ("b.example.com:80", PUBLIC, "allow *.example.com"),
                ("example.com:80", PUBLIC, "allow @any-public"),
            ],
        );
    }
}

fn entry_blocks(texts: &[&str]) -> Option<Vec<exeat_model::IpBlock>> {
    Some(texts.iter().map(|t| exeat_model::IpBlock::parse(t).unwrap()).collect())
}

#[test]
fn an_upstream_is_told_of_the_client_only_where_the_cited_rule_says_so() {
    let announcing = |text: &str, announce| {
        let mut entry = entry(text);
        entry.settings.announce = announce;
        entry
    };
    let (client, principal) = (Some(Announce::Client), Some(Announce::ClientAndPrincipal));
    let by_default =
        Rules { defaults: Defaults { announce: client, ..Defaults::default() }, ..rules("a", &[], &[]) };
    let one = |entry| Rules { allow: vec![entry], ..rules("a", &[], &[]) };
    let two = |policy: Rules, entry| Rules { allow: vec![entry], ..policy };
    let metadata = "169.254.169.254";
    let report = Rules { mode: Mode::Report, metadata: vec![metadata], ..by_default.clone() };
    let (name, address) = ("lb.example.com:443", "93.184.216.34");
    for (case, policies, ceiling, asked, want) in [
        ("nobody said so", vec![rules("a", &["lb.example.com"], &[])], None, name, Announce::Nothing),
        (
            "the entry",
            vec![one(announcing("lb.example.com", principal))],
            None,
            name,
            Announce::ClientAndPrincipal,
        ),
        ("the policy", vec![two(by_default.clone(), entry("lb.example.com"))], None, name, Announce::Client),
        (
            "the entry takes it back",
            vec![two(by_default.clone(), announcing("lb.example.com", Some(Announce::Nothing)))],
            None,
            name,
            Announce::Nothing,
        ),
        (
            "a rule that is not cited",
            vec![
                rules("a", &["lb.example.com"], &[]),
                Rules { allow: vec![announcing("*.example.com", client)], ..rules("b", &[], &[]) },
            ],
            None,
            name,
            Announce::Nothing,
        ),
        (
            "a ceiling",
            vec![rules("a", &["lb.example.com"], &[])],
            Some(announcing("*.example.com", client)),
            name,
            Announce::Nothing,
        ),
        ("report mode", vec![report.clone()], None, name, Announce::Nothing),
        ("a metadata service", vec![report], None, "169.254.169.254:80", Announce::Nothing),
    ] {
        let ceilings: Vec<Rules> =
            ceiling.map(|entry| Rules { allow: vec![entry], ..rules("c", &[], &[]) }).into_iter().collect();
        let world = world(&[], &policies, &ceilings);
        let permit = world.run(&target(asked), &ips(&[address])).unwrap_or_else(|r| panic!("{case}: {r}"));
        assert_eq!(permit.announce(), want, "{case}");
    }
    let shown = announcing("lb.example.com:443", client).to_string();
    assert_eq!(shown, "{ host = \"lb.example.com\", ports = [443], proxy_protocol = \"v2\" }");
}
