//! What two snapshots allow differently: tables, and the promise that nothing is missed or made
//! up.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use exeat_model::{AddressClass, Authority, CanonicalIp, Host, Transport, in_closed_zone};
use exeat_policy::{
    Announce, Bound, Cap, Change, Defaults, Direction, Entry, Expect, Floor, Hosts, Mode, Reason, Resolve,
    View, What, diff,
};
use proptest::prelude::*;

use crate::reference::{ADDRESSES, NAMES, any_entry, any_rules};
use crate::support::*;

fn between(old: &World, new: &World) -> Vec<Change> {
    diff(View { set: &old.set, bound: &old.bound }, View { set: &new.set, bound: &new.bound })
}

/// `+ host:ports what`, one for each change.
fn lines(old: &World, new: &World) -> Vec<String> {
    let line = |c: &Change| format!("{} {}:{} {}", c.direction.sign(), c.hosts, c.ports, c.what);
    between(old, new).iter().map(|c| line(c).trim_end().to_owned()).collect()
}

fn one(rules: Rules) -> World {
    world(&[], &[rules], &[])
}

#[test]
fn another_way_out_is_gained_and_the_old_one_lost() {
    let plain = || rules("p", &["a.example", "*.b.example:443", "10.0.0.0/24:22"], &[]);
    let by = |hop, resolve| Rules { next_hop: Some((hop, resolve)), ..plain() };
    let hop = |resolve| by("hop", resolve);
    let through = |sign: char| {
        let line = |host: &str| format!("{sign} {host} through hop at 10.0.0.9:3128");
        ["*.b.example:443", "10.0.0.0/24:22", "a.example:80,443"].map(line).to_vec()
    };
    let straight = |sign: char| {
        let line = |host: &str| format!("{sign} {host} straight from here");
        ["*.b.example:443", "10.0.0.0/24:22", "a.example:80,443"].map(line).to_vec()
    };
    let named = |sign: char| {
        let line = |host: &str| format!("{sign} {host} through named at proxy.example:3128");
        ["*.b.example:443", "10.0.0.0/24:22", "a.example:80,443"].map(line).to_vec()
    };
    let ways = |old: Rules, new: Rules| {
        let mut lines = lines(&one(old), &one(new));
        lines.retain(|line| line.ends_with("from here") || line.contains(" through "));
        lines.sort();
        lines
    };
    let both = |mut lines: Vec<String>, more: Vec<String>| {
        lines.extend(more);
        lines.sort();
        lines
    };
    for (case, old, new, want) in [
        ("none", plain(), plain(), vec![]),
        ("the same", hop(Resolve::NextHop), hop(Resolve::NextHop), vec![]),
        ("one now", plain(), hop(Resolve::NextHop), both(through('+'), straight('-'))),
        ("none now", hop(Resolve::Local), plain(), both(straight('+'), through('-'))),
        ("another", hop(Resolve::NextHop), by("named", Resolve::NextHop), both(named('+'), through('-'))),
        // What it resolves to is compared by what may be reached, not by who asks.
        ("resolved elsewhere", hop(Resolve::NextHop), hop(Resolve::Local), vec![]),
        ("nothing that both allow", rules("p", &[], &[]), hop(Resolve::NextHop), vec![]),
    ] {
        assert_eq!(ways(old, new), want, "{case}");
    }
    let changes = between(&one(plain()), &one(hop(Resolve::Local)));
    let change = changes.iter().find(|c| matches!(c.what, What::LeavesBy(_))).unwrap();
    assert_eq!((change.reason, change.refused_by.is_some()), (Reason::PolicyChanged, true));
}

#[test]
fn another_proxy_header_is_gained_and_the_old_one_lost() {
    let side = |announce, hop| {
        let entries = ["a.example", "*.b.example:443", "10.0.0.0/24:22"].map(|text| {
            let mut entry = entry(text);
            entry.settings.announce = announce;
            entry
        });
        let next_hop = Some(("hop", Resolve::NextHop)).filter(|_| hop);
        one(Rules { allow: entries.to_vec(), next_hop, ..rules("p", &[], &[]) })
    };
    let lines_of = |sign: char, says: &str| {
        ["*.b.example:443", "10.0.0.0/24:22", "a.example:80,443"].map(|host| format!("{sign} {host} {says}"))
    };
    let (plain, v2, who) =
        ("without a PROXY header", "with a PROXY header (v2)", "with a PROXY header (v2-principal)");
    let (client, principal) = (Some(Announce::Client), Some(Announce::ClientAndPrincipal));
    for (case, old, new, want) in [
        ("the same", side(client, false), side(client, false), None),
        ("said or left out", side(None, false), side(Some(Announce::Nothing), false), None),
        ("one now", side(None, false), side(client, false), Some((v2, plain))),
        ("none now", side(principal, false), side(None, false), Some((plain, who))),
        ("another", side(client, false), side(principal, false), Some((who, v2))),
        // The next hop gets none: only the way out is another.
        ("by a next hop", side(None, true), side(client, true), None),
    ] {
        let mut got = lines(&old, &new);
        got.sort();
        let mut want: Vec<String> = want
            .into_iter()
            .flat_map(|(is, was)| [lines_of('+', is), lines_of('-', was)])
            .flatten()
            .collect();
        want.sort();
        assert_eq!(got, want, "{case}");
    }
    let changes = between(&side(None, false), &side(client, false));
    let change = changes.iter().find(|change| change.what == What::Announcing(Announce::Client)).unwrap();
    assert_eq!((change.reason, change.refused_by.is_some()), (Reason::PolicyChanged, true));
}

#[test]
fn a_difference_is_what_one_side_allows_and_the_other_refuses() {
    for (why, old, new, want) in [
        ("nothing", rules("p", &[], &[]), rules("p", &[], &[]), &[][..]),
        ("the same", rules("p", &["a.example"], &[]), rules("p", &["a.example"], &[]), &[]),
        (
            "order",
            rules("p", &["a.example", "b.example"], &[]),
            rules("p", &["b.example", "a.example"], &[]),
            &[],
        ),
        ("a name", rules("p", &[], &[]), rules("p", &["a.example"], &[]), &["+ a.example:80,443"]),
        (
            "less ports",
            rules("p", &["a.example"], &[]),
            rules("p", &["a.example:443"], &[]),
            &["- a.example:80"],
        ),
        (
            "other ports",
            rules("p", &["a.example:1000-2000"], &[]),
            rules("p", &["a.example:1500-2500"], &[]),
            &["+ a.example:2001-2500", "- a.example:1000-1499"],
        ),
        ("covered", rules("p", &["*.a.example"], &[]), rules("p", &["*.a.example", "x.a.example"], &[]), &[]),
        (
            "not covered by a wildcard",
            rules("p", &["*.a.example"], &[]),
            rules("p", &["a.example"], &[]),
            &["+ a.example:80,443", "- *.a.example:80,443"],
        ),
        (
            "a wildcard and what was listed below it",
            rules("p", &["x.a.example"], &[]),
            rules("p", &["*.a.example"], &[]),
            &["+ *.a.example:80,443"],
        ),
        (
            "a wildcard, denied names below it",
            rules("p", &[], &[]),
            rules("p", &["*.a.example"], &["x.a.example"]),
            &["+ *.a.example:80,443"],
        ),
        (
            "a deny",
            rules("p", &["*.a.example"], &[]),
            rules("p", &["*.a.example"], &["x.a.example", "elsewhere.test"]),
            &["- x.a.example:80,443"],
        ),
        ("a deny of what is not allowed", rules("p", &[], &[]), rules("p", &[], &["*"]), &[]),
        (
            "a deny of a port",
            rules("p", &["a.example"], &[]),
            rules("p", &["a.example"], &["a.example:80,8080"]),
            &["- a.example:80"],
        ),
        (
            "an allow that a deny takes away",
            rules("p", &[], &["*.example"]),
            rules("p", &["a.example"], &["*.example"]),
            &[],
        ),
        (
            "networks",
            rules("p", &["10.0.0.0/24"], &[]),
            rules("p", &["10.0.0.128-10.0.1.5"], &[]),
            &["+ 10.0.1.0-10.0.1.5:80,443", "- 10.0.0.0/25:80,443"],
        ),
        (
            "a network in two halves",
            rules("p", &["10.0.0.0/25", "10.0.0.128/25"], &[]),
            rules("p", &["10.0.0.0/24"], &[]),
            &[],
        ),
        (
            "a network around metadata",
            rules("p", &[], &[]),
            rules("p", &["169.254.0.0/16:80"], &[]),
            &["+ 169.254.0.0/16:80"],
        ),
        (
            "every address, which begins and ends with addresses that are never reachable",
            rules("p", &[], &[]),
            rules("p", &["0.0.0.0/0:22"], &[]),
            &["+ 1.0.0.0-255.255.255.254:22"],
        ),
        (
            "names that match alike and say different things",
            rules("p", &["a.example", "b.example:22", "c.example"], &[]),
            rules("p", &["a.example", "b.example:22", "c.example"], &["*.example:22"]),
            &["- b.example:22"],
        ),
        (
            "everything public",
            rules("p", &["a.example", "10.0.0.0/8"], &["b.example"]),
            rules("p", &["@any-public", "10.0.0.0/8"], &[]),
            &["+ @any-public:80,443"],
        ),
        (
            "a denied network is closed to names too",
            rules("p", &["a.example"], &[]),
            rules("p", &["a.example"], &["93.184.216.0/24"]),
            &[
                "- allowed names:1-65535 at 93.184.216.0/24",
                "- allowed names:1-65535 at 64:ff9b::5db8:d800/120",
            ],
        ),
        (
            "a denied network that no name can lead to",
            rules("p", &["a.example"], &[]),
            rules("p", &["a.example"], &["10.0.0.0/8"]),
            &[],
        ),
    ] {
        let got = lines(&one(old.clone()), &one(new.clone()));
        assert_eq!(got, want, "{why}");
        let swapped = |l: &String| match l.strip_prefix("+ ") {
            Some(rest) => format!("- {rest}"),
            None => l.replacen("- ", "+ ", 1),
        };
        let mut back = lines(&one(new), &one(old));
        let mut mirrored: Vec<String> = got.iter().map(swapped).collect();
        back.sort();
        mirrored.sort();
        assert_eq!(back, mirrored, "{why}, the other way round");
    }
}

fn with(text: &str, change: impl FnOnce(&mut Entry)) -> Rules {
    let mut entry = entry(text);
    change(&mut entry);
    Rules { name: "p", allow: vec![entry], ..Rules::default() }
}

fn at(text: &str, blocks: &[&str]) -> Rules {
    let blocks = blocks.iter().map(|b| exeat_model::IpBlock::parse(b).unwrap()).collect();
    with(text, |entry| entry.settings.addresses = Some(blocks))
}

fn sni(text: &str, names: &[&str]) -> Rules {
    with(text, |entry| entry.sni = names.iter().map(|n| exeat_model::DnsName::parse(n).unwrap()).collect())
}

#[test]
fn a_difference_may_be_where_a_name_leads_or_what_opens_it() {
    let any = |text: &str| with(text, |entry| entry.settings.expect = Some(Expect::Any));
    let filter = |text: &str| with(text, |e| e.settings.answers = Some(exeat_policy::Answers::Filter));
    for (why, old, new, want) in [
        (
            "a private place",
            rules("p", &["a.example:22"], &[]),
            at("a.example:22", &["10.0.0.0/8"]),
            &["+ a.example:22 at 10.0.0.0/8", "- a.example:22 at public addresses"][..],
        ),
        (
            "a wider place",
            at("a.example:22", &["10.0.0.0/9", "10.200.0.0/24"]),
            at("a.example:22", &["10.0.0.0/8"]),
            &["+ a.example:22 at 10.128.0.0-10.199.255.255", "+ a.example:22 at 10.200.1.0-10.255.255.255"],
        ),
        (
            "a denied network inside the place",
            at("a.example:5432", &["10.0.0.0/8"]),
            Rules { deny: entries(&["10.9.0.0/16"]), ..at("a.example:5432", &["10.0.0.0/8"]) },
            &["- allowed names:1-65535 at 10.9.0.0/16"],
        ),
        (
            "a place that begins with a newly denied network",
            Rules { mode: Mode::Report, ..rules("p", &[], &[]) },
            Rules {
                mode: Mode::Report,
                deny: entries(&["10.0.0.0/24"]),
                ..at("a.example", &["10.0.0.0/23"])
            },
            &["+ a.example:80,443 at 10.0.1.0/24"],
        ),
        (
            "the same place",
            at("a.example", &["10.0.0.0/25", "10.0.0.128/25"]),
            at("a.example", &["10.0.0.0/24"]),
            &[],
        ),
        (
            "anything",
            rules("p", &["a.example:443"], &[]),
            any("a.example:443"),
            &[
                "+ a.example:443 opened by HTTP for a.example, TLS without a name, TLS for any name, HTTP for any host, anything else",
            ],
        ),
        ("anything anyway", rules("p", &["a.example:22"], &[]), any("a.example:22"), &[]),
        (
            "another server name",
            rules("p", &["a.example:443"], &[]),
            sni("a.example:443", &["b.example"]),
            &["+ a.example:443 opened by TLS for b.example"],
        ),
        (
            "mixed answers",
            rules("p", &["a.example:443"], &[]),
            filter("a.example:443"),
            &["+ a.example:443 with answers that mix allowed and forbidden addresses"],
        ),
    ] {
        assert_eq!(lines(&one(old), &one(new)), want, "{why}");
    }
}

#[test]
fn ceilings_modes_metadata_and_listeners_are_part_of_it() {
    let policy = || rules("p", &["a.example", "b.example"], &[]);
    let free = world(&[], &[policy()], &[]);
    let below = world(&[], &[policy()], &[rules("c", &["a.example:443"], &[])]);
    assert_eq!(lines(&free, &below), ["- a.example:80", "- b.example:80,443"]);

    let watched = one(Rules { mode: Mode::Report, ..policy() });
    let gained = lines(&free, &watched);
    assert!(gained.contains(&"+ @any-public:1-65535".to_owned()), "{gained:?}");

    let open = one(Rules { metadata: vec!["169.254.169.254"], ..policy() });
    assert_eq!(lines(&free, &open), ["+ 169.254.169.254:80,443"]);

    let listener: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let network = || rules("p", &["10.0.0.0/24"], &[]);
    let ours = world_with_floor(&[], &[network()], &[], Floor { listeners: vec![listener] });
    assert_eq!(lines(&one(network()), &ours), ["- 10.0.0.1:80"]);
}

#[test]
fn a_change_cites_the_rules_of_both_sides() {
    let (old, new) =
        (one(rules("p", &["*.a.example"], &[])), one(rules("p", &["*.a.example"], &["x.a.example"])));
    let [change] = &between(&old, &new)[..] else { panic!("one change") };
    assert_eq!(change.direction, Direction::Lost);
    assert_eq!((change.rule.text.as_str(), change.reason.token()), ("*.a.example", "host_denied"));
    assert_eq!(change.refused_by.as_ref().map(|r| r.text.as_str()), Some("x.a.example"));
    assert_eq!(change.witness.target.to_string(), "x.a.example:443");
}

#[test]
fn someone_new_gains_everything_and_defaults_count() {
    let new = one(Rules {
        defaults: Defaults { ports: exeat_model::PortSet::parse("8443").ok(), ..Defaults::default() },
        ..rules("p", &["a.example"], &["b.example"])
    });
    let nobody = Bound::default();
    let changes = diff(View { set: &new.set, bound: &nobody }, View { set: &new.set, bound: &new.bound });
    let hosts: Vec<String> = changes.iter().map(|c| format!("{}:{}", c.hosts, c.ports)).collect();
    assert_eq!(hosts, ["a.example:8443"]);
}

#[test]
fn long_lists_are_compared_entry_by_entry() {
    let names = |numbers: std::ops::Range<u32>| -> Rules {
        let allow = numbers.flat_map(|n| {
            [format!("host{n}.example.com"), format!("10.{}.{}.0/24", (n / 256) % 256, n % 256)]
        });
        Rules { name: "p", allow: allow.map(|text| entry(&text)).collect(), ..Rules::default() }
    };
    let (old, new) = (one(names(0..20_000)), one(names(1..20_001)));
    let got = lines(&old, &new);
    assert_eq!(
        got,
        [
            "+ host20000.example.com:80,443",
            "+ 10.78.32.0/24:80,443",
            "- host0.example.com:80,443",
            "- 10.0.0.0/24:80,443",
        ]
    );
}

/// Whether a change speaks of the request.
fn speaks_of(change: &Change, target: &Authority, ip: IpAddr, beyond: Option<Cap>) -> bool {
    let ip = CanonicalIp::new(ip);
    let host = match (&change.hosts, &target.host) {
        (Hosts::Name(own), Host::Name(name)) => own == name,
        (Hosts::Below(parent), Host::Name(name)) => name.is_below(parent),
        (Hosts::Public, Host::Name(name)) => !in_closed_zone(name),
        (Hosts::Public, Host::Address(ip)) => ip.class() == AddressClass::Global,
        (Hosts::Addresses(block), Host::Address(ip)) => block.contains(*ip),
        (Hosts::AllowedNames, Host::Name(_)) => true,
        _ => false,
    };
    let place = match &change.what {
        What::Target => true,
        What::At(block) => block.contains(ip),
        What::AtPublic => ip.class() == AddressClass::Global,
        What::MixedAnswers | What::OpenedBy(_) | What::LeavesBy(_) | What::Announcing(_) => false,
        What::Beyond(_) => true,
    };
    let beyond = beyond == change.witness.beyond;
    host && place && beyond && change.ports.contains(target.port)
}

/// Every request of a small world: names with one address, and addresses. The same for each case.
static REQUESTS: LazyLock<Vec<(Authority, IpAddr)>> = LazyLock::new(requests);

fn requests() -> Vec<(Authority, IpAddr)> {
    let below = NAMES.map(|name| format!("new.{name}"));
    let names: Vec<&str> = NAMES.into_iter().chain(below.iter().map(String::as_str)).collect();
    let mut requests = Vec::new();
    for ip in ips(&ADDRESSES) {
        for port in [443, 80, 22, 8443] {
            requests.push((target(&SocketAddr::new(ip, port).to_string()), ip));
            requests.extend(names.iter().map(|name| (target(&format!("{name}:{port}")), ip)));
        }
    }
    requests
}

/// What was done to a policy: something taken away and something added, so that most stays the same.
fn edited(old: &Rules, drop: (usize, usize), allow: Option<Entry>, deny: Option<Entry>) -> Rules {
    let mut new = old.clone();
    let mut keep = 0..;
    new.allow.retain(|_| keep.next() != Some(drop.0));
    let mut keep = 0..;
    new.deny.retain(|_| keep.next() != Some(drop.1));
    new.allow.extend(allow);
    new.deny.extend(deny);
    new
}

proptest! {
    // Each run draws others.
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn nothing_is_missed(
        old in any_rules("p", 0.1), other in any_rules("o", 0.05),
        ceiling in prop::option::weighted(0.3, any_rules("c", 0.0)),
        drop in (0usize..8, 0usize..4),
        allow in prop::option::of(any_entry(false)), deny in prop::option::of(any_entry(true)),
        at_ceiling in prop::bool::weighted(0.3),
    ) {
        let edit = |rules: &Rules| edited(rules, drop, allow.clone(), deny.clone());
        let (new, new_ceiling) = match &ceiling {
            Some(ceiling) if at_ceiling => (old.clone(), Some(edit(ceiling))),
            _ => (edit(&old), ceiling.clone()),
        };
        let build = |policy, ceiling: Option<Rules>| {
            world(&[], &[policy, other.clone()], &ceiling.into_iter().collect::<Vec<_>>())
        };
        let (old, new) = (build(old, ceiling), build(new, new_ceiling));
        let changes = between(&old, &new);
        let asked = REQUESTS.iter().flat_map(|request| Transport::ALL.map(|over| (over, request)));
        for (over, (target, ip)) in asked {
            let run = |world: &World| world.run_over(over, target, &[*ip]);
            let (direction, beyond) = match (run(&old), run(&new)) {
                (Err(_), Ok(_)) => (Direction::Gained, None),
                (Ok(_), Err(_)) => (Direction::Lost, None),
                (Err(_), Err(_)) => continue,
                // What only report mode lets through is bound by another rule.
                (Ok(old), Ok(new)) if old.would_deny().is_some() != new.would_deny().is_some() => continue,
                (Ok(old), Ok(new)) => match (old.caps().max_bytes_up, new.caps().max_bytes_up) {
                    (Some(old), new) if new.is_none_or(|new| new > old) => (Direction::Gained, Some(old)),
                    (old, Some(new)) if old.is_none_or(|old| old > new) => (Direction::Lost, Some(new)),
                    _ => continue,
                },
            };
            let beyond = beyond.map(Cap::MaxBytesUp);
            prop_assert!(
                changes.iter().any(|c| {
                    c.direction == direction && c.transport.contains(over) && speaks_of(c, target, *ip, beyond)
                }),
                "{target}/{over} at {ip} is {direction:?} beyond {beyond:?}, but: {changes:#?}"
            );
        }
    }

    #[test]
    fn a_policy_does_not_differ_from_itself(
        policy in any_rules("p", 0.2), ceiling in prop::option::of(any_rules("c", 0.0)),
    ) {
        let ceilings: Vec<Rules> = ceiling.into_iter().collect();
        let (old, new) = (world(&[], std::slice::from_ref(&policy), &ceilings), world(&[], &[policy], &ceilings));
        prop_assert_eq!(lines(&old, &new), Vec::<String>::new());
    }
}
