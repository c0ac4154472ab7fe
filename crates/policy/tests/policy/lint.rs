//! What is said to open nothing opens nothing, and what its neighbours open is not told of.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use exeat_model::{Authority, CanonicalIp, DnsName, Host, Port, Transport};
use exeat_policy::{Defaults, Entry, EntryProblem, Floor, Mode, lint};
use proptest::prelude::*;

use crate::reference::{ADDRESSES, NAMES, any_entry, any_rules};
use crate::support::*;

/// `line message` for each.
fn told(world: &World) -> Vec<String> {
    lint(&world.set).iter().map(|problem| format!("{} {}", problem.place.line, problem.message)).collect()
}

fn opens_nothing(problem: &EntryProblem) -> bool {
    problem.message.contains("opens nothing")
}

fn in_block(text: &str, block: &str) -> Entry {
    let mut entry = entry(text);
    entry.settings.addresses = Some(vec![exeat_model::IpBlock::parse(block).unwrap()]);
    entry
}

#[test]
fn what_opens_nothing_is_told_and_its_nearest_twin_is_not() {
    for (case, allow, deny, want) in [
        ("a name", &["a.example.com"][..], &["a.example.com"][..], Some("`a.example.com`")),
        ("another name", &["a.example.com"], &["b.example.com"], None),
        ("below a pattern", &["a.example.com"], &["*.example.com"], Some("`*.example.com`")),
        ("the apex of a pattern", &["example.com"], &["*.example.com"], None),
        ("a pattern", &["*.a.example.com"], &["*.example.com"], Some("`*.example.com`")),
        ("a pattern, one name of which", &["*.example.com"], &["a.example.com"], None),
        ("a pattern and its apex", &["*.example.com"], &["example.com"], None),
        ("everything", &["@any-public"], &["*"], Some("`*`")),
        ("everything, by a pattern", &["@any-public"], &["*.com", "*.org"], None),
        ("all its ports", &["a.example.com"], &["a.example.com:80,443"], Some("`a.example.com:80,443`")),
        ("one of its ports", &["a.example.com"], &["a.example.com:443"], None),
        ("each port by another", &["a.example.com"], &["*.com:80", "a.example.com:443"], Some("denies it")),
        ("the ports around", &["a.example.com:8000-8010"], &["a.example.com:8001-9000,1-7999"], None),
        ("the ports", &["a.example.com:8000-8010"], &["a.example.com:8001-9000,1-8000"], Some("denies it")),
        ("a network", &["10.1.0.0/16"], &["10.0.0.0/8"], Some("`10.0.0.0/8`")),
        ("a network but one address", &["10.0.0.0/31"], &["10.0.0.1"], None),
        ("a network in halves", &["10.0.0.0/31"], &["10.0.0.0", "10.0.0.1"], Some("denies it")),
        ("a range across networks", &["10.0.0.0-10.0.0.11"], &["10.0.0.8/29"], None),
        ("a range, the rest of which", &["10.0.0.0-10.0.0.11"], &["10.0.0.0/29"], None),
        ("a range, all of it", &["10.0.0.0-10.0.0.11"], &["10.0.0.8/29", "10.0.0.0/29"], Some("denies it")),
        ("NAT64 of what is denied", &["64:ff9b::a00:1"], &["10.0.0.0/8"], Some("`10.0.0.0/8`")),
        ("NAT64 of its neighbour", &["64:ff9b::b00:1"], &["10.0.0.0/8"], None),
        ("IPv6", &["[fd00::/64]:22"], &["fd00::/8"], Some("`fd00::/8`")),
        ("IPv6, half of it", &["[fd00::/64]:22"], &["fd00::/65"], None),
        ("a cloud's metadata", &["169.254.169.254"], &[], Some("metadata is not opened")),
        ("the link around it", &["169.254.0.0/16"], &[], None),
        ("in IPv6", &["fd00:ec2::254"], &[], Some("metadata is not opened")),
        ("in NAT64", &["64:ff9b::a9fe:a9fe"], &[], Some("metadata is not opened")),
        ("no address", &["0.0.0.0"], &[], Some("addresses that are unspecified are never reachable")),
        ("many receivers", &["224.0.0.0/4"], &[], Some("are multicast are never")),
        ("many receivers of IPv6", &["ff00::/8"], &[], Some("are multicast are never")),
        ("one below them", &["223.255.255.255-224.0.0.1"], &[], None),
        ("loopback", &["127.0.0.0/8"], &[], None),
        ("a listener", &["127.0.0.1:3128"], &[], Some("`127.0.0.1:3128` opens nothing: it is a listener")),
        ("the port after it", &["127.0.0.1:3128-3129"], &[], None),
        ("the address after it", &["127.0.0.2:3128"], &[], None),
        ("networks say nothing of names", &["a.example.com"], &["0.0.0.0/0", "::/0"], None),
    ] {
        let floor = Floor { listeners: vec!["127.0.0.1:3128".parse().unwrap()] };
        let world = world_with_floor(&[], &[rules("p", allow, deny)], &[], floor);
        let got = told(&world);
        match want {
            None => assert!(got.is_empty(), "{case}: {got:?}"),
            Some(want) => assert!(got.len() == 1 && got[0].contains(want), "{case}: {got:?}"),
        }
    }
}

#[test]
fn where_a_name_may_live_counts() {
    for (case, entry, deny, want) in [
        ("denied", in_block("db.example.com:5432", "10.0.0.0/8"), &["10.0.0.0/8"][..], true),
        ("denied for another port", in_block("db.example.com:5432", "10.0.0.0/8"), &["10.0.0.0/8:22"], false),
        ("half of it denied", in_block("db.example.com:5432", "10.0.0.0/8"), &["10.0.0.0/9"], false),
        ("never reachable", in_block("*.example.com", "169.254.169.254"), &[], true),
        ("reachable", in_block("*.example.com", "169.254.169.253"), &[], false),
    ] {
        let policy = Rules { name: "p", allow: vec![entry], deny: entries(deny), ..Rules::default() };
        assert_eq!(told(&world(&[], &[policy], &[])).len(), usize::from(want), "{case}");
    }
}

#[test]
fn only_what_opens_nothing_for_anyone_is_told() {
    let shared = || list(&entries(&["a.example.com", "169.254.169.254"]), Defaults::default());
    let policy = |name, deny: &[&str]| rules(name, &["@shared"], deny);
    let opened = |name| Rules { metadata: vec!["169.254.169.254"], ..policy(name, &[]) };
    let report = |name| Rules { mode: Mode::Report, ..policy(name, &["a.example.com"]) };
    let denied = || policy("p", &["a.example.com"]);
    for (case, policies, ceilings, want) in [
        ("by the only one", vec![denied()], vec![], &["1 `a.example.com`", "2 `169.254.169.254`"][..]),
        ("by one of two", vec![denied(), policy("q", &[])], vec![], &["2 `169.254.169.254`"]),
        ("opened by one of two", vec![denied(), opened("q")], vec![], &[]),
        ("watched alone", vec![report("p")], vec![], &[]),
        // Not everybody is below it.
        ("by a ceiling", vec![opened("p")], vec![rules("c", &["@any-public"], &["a.example.com"])], &[]),
        (
            "of a ceiling",
            vec![],
            vec![policy("c", &["*.com"])],
            &["1 `a.example.com`", "2 `169.254.169.254`"],
        ),
    ] {
        let got = told(&world(&[("shared", shared())], &policies, &ceilings));
        assert_eq!(got.len(), want.len(), "{case}: {got:?}");
        assert!(got.iter().zip(want).all(|(got, want)| got.starts_with(want)), "{case}: {got:?}");
    }
}

#[test]
fn a_network_around_the_world_and_this_host_is_told() {
    let of_v4 = "opens loopback, private and link-local addresses besides the public ones";
    for (entry, want) in [
        ("0.0.0.0/0", Some(of_v4)),
        ("0.0.0.0/0:443", Some(of_v4)),
        ("::/0", Some("opens loopback, unique-local and link-local addresses besides the public ones")),
        ("64.0.0.0/2", Some("opens loopback addresses besides the public ones")),
        ("128.0.0.0/1", None),
        ("127.0.0.0/8", None),
        ("10.0.0.0/8", None),
        ("2000::/3", None),
        ("@any-public", None),
    ] {
        let got = told(&world(&[], &[rules("p", &[entry], &[])], &[]));
        assert_eq!(got.len(), usize::from(want.is_some()), "{entry}: {got:?}");
        assert!(got.iter().all(|got| got.ends_with(want.unwrap_or_default())), "{entry}: {got:?}");
        // A ceiling opens nothing by itself.
        let ceiling = rules("c", &[entry], &[]);
        assert_eq!(told(&world(&[], &[], &[ceiling])), [""; 0], "{entry}");
    }
}

/// Requests around everything that entries of [`any_entry`] speak of. The same for each case.
static REQUESTS: LazyLock<Vec<(Transport, Authority, Vec<IpAddr>)>> = LazyLock::new(|| requests().collect());

fn requests() -> impl Iterator<Item = (Transport, Authority, Vec<IpAddr>)> {
    let names = NAMES.iter().flat_map(|name| [(*name).to_owned(), format!("zz.{name}")]);
    let names =
        names.chain(["example.net".to_owned()]).map(|name| Host::Name(DnsName::parse(&name).unwrap()));
    let near = [Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(169, 254, 1, 1), Ipv4Addr::new(93, 184, 216, 0)];
    let all = ips(&ADDRESSES).into_iter().chain(near.map(IpAddr::from));
    let literals = all.clone().map(|ip| (Host::Address(CanonicalIp::new(ip)), ip));
    let by_name = names.flat_map(move |name| all.clone().map(move |ip| (name.clone(), ip)));
    literals.chain(by_name).flat_map(|(host, ip)| {
        let ports = [1, 22, 79, 80, 443, 444, 8000, 9000, 9001, 65535];
        Transport::ALL.into_iter().flat_map(move |transport| {
            let host = host.clone();
            ports.map(|port| {
                (transport, Authority { host: host.clone(), port: Port::new(port).unwrap() }, vec![ip])
            })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_said_to_open_nothing_can_be_left_out(
        policy in any_rules("a", 0.0), more in prop::collection::vec(any_entry(true), 0..3),
        ceiling in prop::option::of(any_rules("c", 0.0)), metadata in any::<bool>(),
    ) {
        let deny = policy.deny.iter().cloned().chain(more).collect();
        let metadata = if metadata { vec!["169.254.169.254"] } else { vec![] };
        let policy = Rules { deny, metadata, ..policy };
        let ceilings: Vec<Rules> = ceiling.into_iter().collect();
        let before = world(&[], std::slice::from_ref(&policy), &ceilings);
        // Of the policy alone: those of the ceiling have the same places.
        let of_policy = lint(&world(&[], std::slice::from_ref(&policy), &[]).set);
        let lines: Vec<u32> = of_policy.iter().filter(|p| opens_nothing(p)).map(|p| p.place.line).collect();
        let kept = (1u32..).zip(&policy.allow).filter(|(line, _)| !lines.contains(line));
        let allow = kept.map(|(_, entry)| entry.clone()).collect();
        let after = world(&[], &[Rules { allow, ..policy }], &ceilings);
        for (transport, target, addrs) in REQUESTS.iter() {
            let permits = |world: &World| world.run_over(*transport, target, addrs).map(|p| p.addrs().to_vec()).ok();
            prop_assert_eq!(permits(&before), permits(&after), "{}/{} at {:?}: {:?}", transport, target, addrs, of_policy);
        }
    }
}
