//! What is told of networks in advance is what is decided on each address and port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use exeat_model::{Authority, CanonicalIp, Host, Port, Transport};
use exeat_policy::{Caps, Network, PortPiece, TooManyNetworks, networks, port_pieces, reach};
use proptest::prelude::*;

use crate::reference::{ADDRESSES, NAMES, any_rules};
use crate::support::*;

/// `transport/ports block` for each.
fn told(world: &World) -> Vec<String> {
    let line = |n: &Network| {
        let watched = if n.is_watched { " watched" } else { "" };
        format!("{}/{} {}{watched}", n.transport, n.ports, n.block)
    };
    networks(&world.set, &world.bound).unwrap().iter().map(line).collect()
}

#[test]
fn rules_for_networks_are_told_and_rules_for_names_are_not() {
    for (case, allow, deny, want) in [
        ("nothing", &[][..], &[][..], &[][..]),
        ("names", &["example.com", "*.example.org:1-65535"], &[], &[]),
        ("web ports", &["10.20.0.0/16"], &[], &["tcp/80 10.20.0.0/16", "tcp/443 10.20.0.0/16"]),
        ("ports", &["10.20.0.0/16:5432-5440"], &[], &["tcp/5432-5440 10.20.0.0/16"]),
        ("a deny inside", &["10.20.0.0/31:22"], &["10.20.0.1"], &["tcp/22 10.20.0.0"]),
        (
            "never",
            &["169.254.169.253-169.254.169.255:80"],
            &[],
            &["tcp/80 169.254.169.253", "tcp/80 169.254.169.255"],
        ),
        (
            "a deny inside, as NAT64 and 6to4",
            &["[64:ff9b::a14:0/127]:22", "[2002:a14::/47]:22"],
            &["10.20.0.1"],
            &["tcp/22 64:ff9b::a14:0", "tcp/22 2002:a14::/48"],
        ),
        ("IPv6", &["[fd00::/64]:22"], &[], &["tcp/22 fd00::/64"]),
    ] {
        let world = world(&[], &[rules("p", allow, deny)], &[]);
        assert_eq!(told(&world), want, "{case}");
    }
}

#[test]
fn too_many_are_an_error() {
    let blocks: Vec<String> =
        (0..33_000u32).map(|n| Ipv4Addr::from_bits((10 << 24) | (n * 2)).to_string()).collect();
    let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
    let world = world(&[], &[rules("p", &blocks, &[])], &[]);
    assert_eq!(networks(&world.set, &world.bound), Err(TooManyNetworks));
}

proptest! {
    // Each run draws others.
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_packet_passes_if_and_only_if_the_decision_allows_it(
        a in any_rules("a", 0.2), b in any_rules("b", 0.2), ceiling in prop::option::of(any_rules("c", 0.0)),
        v4 in any::<u32>(), v6 in any::<u128>(), near in prop::sample::select(ips(&ADDRESSES)), ports in prop::collection::vec(1..=u16::MAX, 4),
    ) {
        let world = world(&[], &[a, b], &ceiling.into_iter().collect::<Vec<_>>());
        let told = networks(&world.set, &world.bound).unwrap();
        let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::from_bits(v4).into(), Ipv6Addr::from_bits(v6).into());
        for ip in [v4, v6, near].into_iter().map(CanonicalIp::new) {
            for transport in Transport::ALL {
                for port in ports.iter().copied().chain([22, 53, 80, 443, 8000, 9001]) {
                    let port = Port::new(port).unwrap();
                    let target = Authority { host: Host::Address(ip), port };
                    let permit = world.run_over(transport, &target, &[]).ok();
                    let want = permit.filter(|permit| permit.caps() == Caps::default());
                    let mut open = told.iter().filter(|n| {
                        n.transport == transport && n.ports.contains(port) && n.block.contains(ip)
                    });
                    let watched = want.map(|permit| permit.would_deny().is_some());
                    prop_assert_eq!(open.next().map(|n| n.is_watched), watched, "{}/{} {}", transport, port, ip);
                    prop_assert!(open.next().is_none(), "told twice");
                }
            }
        }
    }

    #[test]
    fn what_a_name_opens_begins_and_ends_with_pieces(
        a in any_rules("a", 0.2), b in any_rules("b", 0.2), ceiling in prop::option::of(any_rules("c", 0.0)),
        host in prop::sample::select(&NAMES[..]), addrs in prop::collection::vec(prop::sample::select(ips(&ADDRESSES)), 1..3),
    ) {
        let world = world(&[], &[a, b], &ceiling.into_iter().collect::<Vec<_>>());
        let pieces = port_pieces(&world.set);
        let name = exeat_model::DnsName::parse(host).unwrap();
        for reached in reach(&world.set, &world.bound, &name, &addrs).unwrap_or_default() {
            let (first, last) = (reached.ports.first(), reached.ports.last());
            let within = pieces.iter().filter(|piece| first <= piece.ports.first() && piece.ports.last() <= last);
            let within: Vec<&PortPiece> = within.collect();
            prop_assert_eq!(within.first().map(|piece| piece.ports.first()), Some(first));
            prop_assert_eq!(within.last().map(|piece| piece.ports.last()), Some(last));
            prop_assert!(within.iter().all(|piece| piece.may_open), "{}", reached.ports);
        }
        let ends = pieces.iter().map(|piece| piece.ports.last().get());
        let next = pieces.iter().skip(1).map(|piece| piece.ports.first().get() - 1);
        prop_assert!(ends.zip(next).all(|(end, next)| end == next));
        prop_assert_eq!(pieces.first().map(|piece| piece.ports.first().get()), Some(1));
        prop_assert_eq!(pieces.last().map(|piece| piece.ports.last().get()), Some(u16::MAX));
    }
}
