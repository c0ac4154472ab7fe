use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::CanonicalIp;

use super::*;

/// A block; the classes of the address before it, its first, its last, and the one after it. `None`
/// where the family has no such address.
type Case = (&'static str, Option<&'static str>, &'static str, &'static str, Option<&'static str>);

const BLOCKS: &[Case] = &[
    ("0.0.0.0/8", None, "unspecified", "unspecified", Some("global")),
    ("10.0.0.0/8", Some("global"), "private", "private", Some("global")),
    ("100.64.0.0/10", Some("global"), "shared", "shared", Some("global")),
    ("127.0.0.0/8", Some("global"), "loopback", "loopback", Some("global")),
    ("169.254.0.0/16", Some("global"), "link_local", "link_local", Some("global")),
    ("172.16.0.0/12", Some("global"), "private", "private", Some("global")),
    ("192.0.0.0/24", Some("global"), "protocol_assignment", "protocol_assignment", Some("global")),
    (
        "192.0.0.0/29",
        Some("global"),
        "protocol_assignment",
        "protocol_assignment",
        Some("protocol_assignment"),
    ),
    (
        "192.0.0.8/32",
        Some("protocol_assignment"),
        "protocol_assignment",
        "protocol_assignment",
        Some("global"),
    ),
    ("192.0.0.9/32", Some("protocol_assignment"), "global", "global", Some("global")),
    ("192.0.0.10/32", Some("global"), "global", "global", Some("protocol_assignment")),
    (
        "192.0.0.170/32",
        Some("protocol_assignment"),
        "protocol_assignment",
        "protocol_assignment",
        Some("protocol_assignment"),
    ),
    (
        "192.0.0.171/32",
        Some("protocol_assignment"),
        "protocol_assignment",
        "protocol_assignment",
        Some("protocol_assignment"),
    ),
    ("192.0.2.0/24", Some("global"), "documentation", "documentation", Some("global")),
    ("192.31.196.0/24", Some("global"), "global", "global", Some("global")),
    ("192.52.193.0/24", Some("global"), "global", "global", Some("global")),
    ("192.88.99.0/24", Some("global"), "tunnelled", "tunnelled", Some("global")),
    ("192.88.99.2/32", Some("tunnelled"), "tunnelled", "tunnelled", Some("tunnelled")),
    ("192.168.0.0/16", Some("global"), "private", "private", Some("global")),
    ("192.175.48.0/24", Some("global"), "global", "global", Some("global")),
    ("198.18.0.0/15", Some("global"), "benchmarking", "benchmarking", Some("global")),
    ("198.51.100.0/24", Some("global"), "documentation", "documentation", Some("global")),
    ("203.0.113.0/24", Some("global"), "documentation", "documentation", Some("global")),
    ("224.0.0.0/4", Some("global"), "multicast", "multicast", Some("reserved")),
    ("240.0.0.0/4", Some("multicast"), "reserved", "broadcast", None),
    ("255.255.255.255/32", Some("reserved"), "broadcast", "broadcast", None),
    ("::/0", None, "unspecified", "multicast", None),
    ("::/96", None, "unspecified", "compatible", Some("reserved")),
    ("::/128", None, "unspecified", "unspecified", Some("loopback")),
    ("::1/128", Some("unspecified"), "loopback", "loopback", Some("compatible")),
    // Folded before it is looked up, so that it has the ends of all of IPv4.
    ("::ffff:0:0/96", Some("reserved"), "unspecified", "broadcast", Some("reserved")),
    // The ends of these two carry 0.0.0.0 and 255.255.255.255.
    ("::ffff:0:0:0/96", Some("reserved"), "unspecified", "broadcast", Some("reserved")),
    ("64:ff9b::/96", Some("reserved"), "unspecified", "broadcast", Some("reserved")),
    ("64:ff9b:1::/48", Some("reserved"), "translated", "translated", Some("reserved")),
    ("100::/64", Some("reserved"), "discard", "discard", Some("discard")),
    ("100:0:0:1::/64", Some("discard"), "discard", "discard", Some("reserved")),
    ("2000::/3", Some("reserved"), "global", "global", Some("reserved")),
    ("2001::/23", Some("global"), "unspecified", "protocol_assignment", Some("global")),
    // The first carries a Teredo server of 0.0.0.0, the last one of 255.255.255.255.
    ("2001::/32", Some("global"), "unspecified", "broadcast", Some("protocol_assignment")),
    ("2001:1::1/128", Some("protocol_assignment"), "global", "global", Some("global")),
    ("2001:1::2/128", Some("global"), "global", "global", Some("global")),
    ("2001:1::3/128", Some("global"), "global", "global", Some("protocol_assignment")),
    ("2001:2::/48", Some("protocol_assignment"), "benchmarking", "benchmarking", Some("protocol_assignment")),
    ("2001:3::/32", Some("protocol_assignment"), "global", "global", Some("protocol_assignment")),
    ("2001:4:112::/48", Some("protocol_assignment"), "global", "global", Some("protocol_assignment")),
    (
        "2001:10::/28",
        Some("protocol_assignment"),
        "protocol_assignment",
        "protocol_assignment",
        Some("global"),
    ),
    ("2001:20::/28", Some("protocol_assignment"), "global", "global", Some("global")),
    ("2001:30::/28", Some("global"), "global", "global", Some("protocol_assignment")),
    ("2001:db8::/32", Some("global"), "documentation", "documentation", Some("global")),
    // The ends carry 0.0.0.0 and 255.255.255.255.
    ("2002::/16", Some("global"), "unspecified", "broadcast", Some("global")),
    ("2620:4f:8000::/48", Some("global"), "global", "global", Some("global")),
    ("3fff::/20", Some("global"), "documentation", "documentation", Some("global")),
    ("5f00::/16", Some("reserved"), "segment_routing", "segment_routing", Some("reserved")),
    ("fc00::/7", Some("reserved"), "unique_local", "unique_local", Some("reserved")),
    ("fe80::/10", Some("reserved"), "link_local", "link_local", Some("site_local")),
    ("fec0::/10", Some("link_local"), "site_local", "site_local", Some("multicast")),
    ("ff00::/8", Some("site_local"), "multicast", "multicast", None),
];

/// The next address up or down, within the family.
fn beside(address: IpAddr, up: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            let moved = if up { bits.checked_add(1) } else { bits.checked_sub(1) };
            moved.map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let moved = if up { bits.checked_add(1) } else { bits.checked_sub(1) };
            moved.map(|bits| Ipv6Addr::from_bits(bits).into())
        }
    }
}

#[test]
fn each_block_has_its_class_from_its_first_address_to_its_last() {
    let name = |address: IpAddr| CanonicalIp::new(address).class().name();
    for &(text, before, first, last, after) in BLOCKS {
        let block: IpNet = text.parse().unwrap();
        assert_eq!(block, block.trunc(), "{text}");
        assert_eq!(beside(block.network(), false).map(name), before, "before {text}");
        assert_eq!(name(block.network()), first, "first of {text}");
        assert_eq!(name(block.broadcast()), last, "last of {text}");
        assert_eq!(beside(block.broadcast(), true).map(name), after, "after {text}");
    }
}

#[test]
fn every_row_is_a_network_with_a_test() {
    let tested: BTreeSet<IpNet> = BLOCKS.iter().map(|row| row.0.parse().unwrap()).collect();
    let v4 = V4.iter().map(|row| {
        let prefix = (row.first ^ row.last).leading_zeros();
        IpNet::new(Ipv4Addr::from_bits(row.first).into(), prefix.try_into().unwrap()).unwrap()
    });
    let v6 = V6.iter().map(|row| {
        let prefix = (row.first ^ row.last).leading_zeros();
        IpNet::new(Ipv6Addr::from_bits(row.first).into(), prefix.try_into().unwrap()).unwrap()
    });
    let mut rows: BTreeSet<IpNet> = v4.chain(v6).collect();
    assert_eq!(rows.len(), V4.len() + V6.len(), "a block is there twice");
    for row in &rows {
        assert_eq!(*row, row.trunc());
    }
    // The one block without a row: folding leaves nothing in it.
    rows.insert("::ffff:0:0/96".parse().unwrap());
    assert_eq!(rows, tested);
}

#[test]
fn the_longer_prefix_comes_first() {
    assert!(V4.is_sorted_by_key(|row| row.last - row.first));
    assert!(V6.is_sorted_by_key(|row| row.last - row.first));
}
