use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> CanonicalIp {
    CanonicalIp::new(text.parse().unwrap())
}

#[test]
fn a_block_prints_in_its_shortest_exact_form() {
    let rows = [
        ("network", "10.0.0.0/8", "10.0.0.0/8"),
        ("all of IPv4", "0.0.0.0/0", "0.0.0.0/0"),
        ("all of IPv6", "::/0", "::/0"),
        ("one address", "10.0.0.1", "10.0.0.1"),
        ("one address as a network", "10.0.0.1/32", "10.0.0.1"),
        ("one address as a range", "10.0.0.1-10.0.0.1", "10.0.0.1"),
        ("range", "10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9"),
        ("range that is a network", "10.0.0.0-10.255.255.255", "10.0.0.0/8"),
        ("IPv6 network", "2001:DB8::/32", "2001:db8::/32"),
        ("IPv6 range", "2001:db8::1-2001:db8::2", "2001:db8::1-2001:db8::2"),
    ];
    for (name, input, want) in rows {
        assert_eq!(IpBlock::parse(input).unwrap().to_string(), want, "{name}");
    }
}

#[test]
fn the_blocks_that_carry_a_block_end_where_it_ends() {
    for (block, want) in [
        (
            "93.184.216.0/24",
            vec![
                "64:ff9b::5db8:d800/120",
                "::ffff:0:5db8:d800/120",
                "2002:5db8:d800::/40",
                "2001:0:5db8:d800::/56",
            ],
        ),
        ("10.0.0.1", vec!["64:ff9b::a00:1", "::ffff:0:a00:1", "2002:a00:1::/48", "2001:0:a00:1::/64"]),
        ("0.0.0.0/0", vec!["64:ff9b::/96", "::ffff:0:0:0/96", "2002::/16", "2001::/32"]),
        ("2606:2800::/32", vec![]),
    ] {
        let block = IpBlock::parse(block).unwrap();
        let carriers: Vec<IpBlock> = block.carriers().collect();
        assert_eq!(carriers, want.iter().map(|c| IpBlock::parse(c).unwrap()).collect::<Vec<_>>(), "{block}");
        for end in carriers.iter().flat_map(|c| [c.first(), c.last()]) {
            assert!(CanonicalIp::new(end).carried().any(|ip| block.contains(ip)), "{end} of {block}");
        }
    }
}

#[test]
fn refused_blocks_say_why_and_what_to_write() {
    let rows = [
        ("empty", "", "\"\" is not an IP address", None),
        ("name", "example.com", "\"example.com\" is not an IP address", None),
        ("short IPv4", "10/8", "\"10\" is not an IP address", None),
        ("octal", "010.0.0.0/8", "\"010.0.0.0\" is not an IP address", None),
        ("brackets", "[::1]", "\"[::1]\" is not an IP address", None),
        ("zone", "fe80::1%eth0", "\"fe80::1%eth0\" is not an IP address", None),
        ("spaces", "10.0.0.1 - 10.0.0.2", "\"10.0.0.1 \" is not an IP address", None),
        ("open end", "10.0.0.1-", "\"\" is not an IP address", None),
        ("no prefix", "10.0.0.0/", "\"\" is not a prefix length: write a number from 0 to 32", None),
        ("long prefix", "10.0.0.0/33", "\"33\" is not a prefix length: write a number from 0 to 32", None),
        ("huge prefix", "::/256", "\"256\" is not a prefix length: write a number from 0 to 128", None),
        ("signed prefix", "10.0.0.0/+8", "\"+8\" is not a prefix length: write a number from 0 to 32", None),
        ("octal prefix", "10.0.0.0/08", "\"08\" is not a prefix length: write a number from 0 to 32", None),
        (
            "netmask",
            "10.0.0.0/255.0.0.0",
            "\"255.0.0.0\" is not a prefix length: write a number from 0 to 32",
            None,
        ),
        (
            "host bits",
            "10.1.2.3/8",
            "the address has bits set after its prefix: the network is 10.0.0.0/8",
            Some("10.0.0.0/8"),
        ),
        (
            "host bits in IPv6",
            "2001:db8::1/32",
            "the address has bits set after its prefix: the network is 2001:db8::/32",
            Some("2001:db8::/32"),
        ),
        (
            "backwards",
            "10.0.0.9-10.0.0.1",
            "the range runs backwards: write 10.0.0.1-10.0.0.9",
            Some("10.0.0.1-10.0.0.9"),
        ),
        (
            "two families",
            "10.0.0.1-::1",
            "the range starts in one address family and ends in the other",
            None,
        ),
        (
            "mapped",
            "::ffff:10.0.0.0/104",
            "an IPv4-mapped block: write it as IPv4, 10.0.0.0/8",
            Some("10.0.0.0/8"),
        ),
        (
            "mapped address",
            "::ffff:10.0.0.1",
            "an IPv4-mapped block: write it as IPv4, 10.0.0.1",
            Some("10.0.0.1"),
        ),
    ];
    for (name, input, message, correction) in rows {
        let error = IpBlock::parse(input).unwrap_err();
        assert_eq!(error.to_string(), message, "{name}");
        assert_eq!(error.correction().as_deref(), correction, "{name}");
        if let Some(correction) = correction {
            assert!(IpBlock::parse(correction).is_ok(), "{name}");
        }
    }
}

#[test]
fn both_ends_are_inside_and_their_neighbours_are_not() {
    let rows = [
        ("10.0.0.0/8", "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
        ("10.0.0.1-10.0.0.9", "10.0.0.0", "10.0.0.1", "10.0.0.9", "10.0.0.10"),
        ("10.0.0.1", "10.0.0.0", "10.0.0.1", "10.0.0.1", "10.0.0.2"),
        (
            "2001:db8::/32",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::",
            "2001:db8:ffff::",
            "2001:db9::",
        ),
    ];
    for (block, before, first, last, after) in rows {
        let parsed = IpBlock::parse(block).unwrap();
        let got = [before, first, last, after].map(|address| parsed.contains(ip(address)));
        assert_eq!(got, [false, true, true, false], "{block}");
    }
    let v4 = IpBlock::parse("0.0.0.0/0").unwrap();
    let v6 = IpBlock::parse("::/0").unwrap();
    assert!(v4.contains(ip("::ffff:10.0.0.1")) && !v6.contains(ip("::ffff:10.0.0.1")));
    assert!(!v4.contains(ip("::1")) && v6.contains(ip("::1")));
}

#[test]
fn the_widest_uneven_range_takes_the_most_networks() {
    let rows =
        [("0.0.0.1-255.255.255.254", 62), ("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", 254), ("::/0", 1)];
    for (block, want) in rows {
        assert_eq!(IpBlock::parse(block).unwrap().networks().len(), want, "{block}");
    }
}

proptest! {
    #[test]
    fn printing_and_parsing_is_the_identity(a in any::<IpAddr>(), b in any::<IpAddr>(), bits in 0_u8..=128) {
        let network = IpNet::new(a, bits.min(if a.is_ipv4() { 32 } else { 128 })).unwrap().trunc();
        for text in [format!("{a}-{b}"), network.to_string(), a.to_string()] {
            if let Ok(block) = IpBlock::parse(&text) {
                prop_assert_eq!(IpBlock::parse(&block.to_string()), Ok(block));
            }
        }
    }

    #[test]
    fn the_networks_cover_the_block_and_nothing_else(a in 0_u32..2000, b in 0_u32..2000) {
        let base = u32::from_be_bytes([93, 184, 216, 0]);
        let at = |offset: u32| IpAddr::from((base + offset).to_be_bytes());
        let block = IpBlock::parse(&format!("{}-{}", at(a.min(b)), at(a.max(b)))).unwrap();
        let networks = block.networks();
        for offset in 0..2001 {
            let held = networks.iter().filter(|network| network.contains(&at(offset))).count();
            prop_assert_eq!(held, usize::from(block.contains(CanonicalIp::new(at(offset)))));
        }
    }
}
