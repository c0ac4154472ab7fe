use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn class(text: &str) -> &'static str {
    CanonicalIp::new(text.parse().unwrap()).class().name()
}

/// Every IPv6 form that carries `v4` in a fixed place, with its name.
fn forms_of(v4: Ipv4Addr) -> Vec<(&'static str, IpAddr)> {
    let [a, b, c, d] = v4.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    // Around the reserved octet of RFC 6052 §2.2, which is bits 64 to 71.
    let octets = |at: usize| {
        let mut octets = [0, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (slot, octet) in (at..).filter(|&slot| slot != 8 || at == 12).zip([a, b, c, d]) {
            octets[slot] = octet;
        }
        IpAddr::from(octets)
    };
    vec![
        ("plain", v4.into()),
        ("mapped", v4.to_ipv6_mapped().into()),
        ("compatible", v6([0, 0, 0, 0, 0, 0, high, low])),
        ("SIIT", v6([0, 0, 0, 0, 0xffff, 0, high, low])),
        ("NAT64", v6([0x64, 0xff9b, 0, 0, 0, 0, high, low])),
        ("local NAT64 /48", octets(6)),
        ("local NAT64 /56", octets(7)),
        ("local NAT64 /64", octets(9)),
        ("local NAT64 /96", octets(12)),
        ("6to4", v6([0x2002, high, low, 0, 0, 0, 0, 1])),
        ("Teredo server", v6([0x2001, 0, high, low, 0, 0, !0x5db8, !0xd822])),
        ("Teredo client", v6([0x2001, 0, 0x5db8, 0xd822, 0x8000, 0xffff, !high, !low])),
        ("ISATAP", v6([0x2606, 0x2800, 0x220, 1, 0, 0x5efe, high, low])),
        ("ISATAP, unique", v6([0x2606, 0x2800, 0x220, 1, 0x200, 0x5efe, high, low])),
        ("ISATAP on the link", v6([0xfe80, 0, 0, 0, 0, 0x5efe, high, low])),
        ("ISATAP in 6to4", v6([0x2002, 0x5db8, 0xd822, 1, 0x200, 0x5efe, high, low])),
    ]
}

#[test]
fn what_an_address_carries_is_told() {
    let v4 = Ipv4Addr::new(93, 184, 216, 34);
    for (form, address) in forms_of(v4) {
        let carried: Vec<IpAddr> = CanonicalIp::new(address).carried().map(CanonicalIp::get).collect();
        let is_fixed = match form {
            // The first two are IPv4, the third is never reachable, and in the others the network chooses the place.
            "plain" | "mapped" | "compatible" => false,
            other => !other.starts_with("local NAT64"),
        };
        assert_eq!(carried.contains(&v4.into()), is_fixed, "{form}: {carried:?}");
    }
}

#[test]
fn ipv4_inside_ipv6_decides_with_it() {
    // The columns: the carried address, and what each form of it is.
    let rows: &[(&str, [&str; 4])] = &[
        // carried           plain, mapped    compatible    SIIT          NAT64, ISATAP
        ("93.184.216.34", ["global", "compatible", "translated", "global"]),
        ("10.0.0.1", ["private", "compatible", "translated", "translated"]),
        ("127.0.0.1", ["loopback", "compatible", "translated", "translated"]),
        ("100.64.0.1", ["shared", "compatible", "translated", "translated"]),
        ("169.254.1.1", ["link_local", "compatible", "translated", "translated"]),
        ("192.0.2.1", ["documentation", "compatible", "translated", "translated"]),
        ("240.0.0.1", ["reserved", "compatible", "translated", "translated"]),
        ("0.1.2.3", ["unspecified", "compatible", "unspecified", "unspecified"]),
        ("224.0.0.1", ["multicast", "compatible", "multicast", "multicast"]),
        ("255.255.255.255", ["broadcast", "compatible", "broadcast", "broadcast"]),
        ("169.254.169.254", ["metadata", "compatible", "metadata", "metadata"]),
        ("168.63.129.16", ["metadata", "compatible", "metadata", "metadata"]),
    ];
    for &(text, [plain, compatible, siit, carried]) in rows {
        let v4: Ipv4Addr = text.parse().unwrap();
        let never = matches!(CanonicalIp::new(v4.into()).class(), AddressClass::Never(_));
        for (form, address) in forms_of(v4) {
            let want = match form {
                "plain" | "mapped" => plain,
                "compatible" => compatible,
                "SIIT" => siit,
                "NAT64" | "ISATAP" | "ISATAP, unique" => carried,
                "6to4" | "Teredo server" | "Teredo client" | "ISATAP in 6to4" => {
                    if never {
                        plain
                    } else {
                        "tunnelled"
                    }
                }
                "ISATAP on the link" => {
                    if never {
                        plain
                    } else {
                        "link_local"
                    }
                }
                // Only metadata is looked for: a layout that is not in use would read noise.
                _ => {
                    if plain == "metadata" {
                        plain
                    } else {
                        "translated"
                    }
                }
            };
            assert_eq!(CanonicalIp::new(address).class().name(), want, "{form} of {text}: {address}");
        }
    }
}

#[test]
fn metadata_is_never_a_destination_in_any_form() {
    for &address in METADATA_ADDRESSES {
        let plain = CanonicalIp::new(address);
        assert_eq!(plain.class(), AddressClass::Never(Never::Metadata), "{address}");
        if let IpAddr::V4(v4) = address {
            for (form, address) in forms_of(v4) {
                let class = CanonicalIp::new(address).class();
                assert!(matches!(class, AddressClass::Never(_)), "{form} of {v4}: {address}");
            }
        }
    }
    let distinct: BTreeSet<&IpAddr> = METADATA_ADDRESSES.iter().collect();
    assert_eq!(distinct.len(), METADATA_ADDRESSES.len());
}

#[test]
fn the_neighbours_of_metadata_are_what_their_block_is() {
    let rows = [
        ("169.254.169.253", "link_local"),
        ("169.254.170.3", "link_local"),
        ("168.63.129.15", "global"),
        ("168.63.129.17", "global"),
        ("100.100.100.201", "shared"),
        ("192.0.0.193", "protocol_assignment"),
        ("fd00:ec2::253", "unique_local"),
        ("fd20:ce::255", "unique_local"),
        ("64:ff9b::a9fe:a9fd", "translated"),
        ("2002:a9fe:a9fd::", "tunnelled"),
    ];
    for (text, want) in rows {
        assert_eq!(class(text), want, "{text}");
    }
}

#[test]
fn ordinary_addresses_are_global() {
    let rows = [
        ("93.184.216.34", "global"),
        ("1.1.1.1", "global"),
        ("2606:2800:220:1:248:1893:25c8:1946", "global"),
        // One bit away from an ISATAP identifier.
        ("2606:2800:220:1:0:5eff:a00:1", "global"),
        ("2606:2800:220:1:1:5efe:a00:1", "global"),
        // Outside 2000::/3 and in no registry.
        ("4000::1", "reserved"),
        ("200::1", "reserved"),
        ("64:ff9b:2::1", "reserved"),
        ("fe00::1", "reserved"),
    ];
    for (text, want) in rows {
        assert_eq!(class(text), want, "{text}");
    }
}

proptest! {
    #[test]
    fn mapped_and_plain_are_one_address(v4 in any::<Ipv4Addr>()) {
        let plain = CanonicalIp::new(v4.into());
        let mapped = CanonicalIp::new(v4.to_ipv6_mapped().into());
        prop_assert_eq!(plain, mapped);
        prop_assert_eq!(plain.class(), mapped.class());
        prop_assert_eq!(plain.to_string(), v4.to_string());
    }

    #[test]
    fn canonical_twice_is_canonical_once(address in any::<IpAddr>()) {
        let once = CanonicalIp::new(address);
        prop_assert_eq!(CanonicalIp::new(once.get()), once);
        prop_assert_eq!(CanonicalIp::new(once.to_string().parse().unwrap()), once);
    }

    /// No way of carrying an IPv4 address makes it more reachable than it is.
    #[test]
    fn carrying_never_widens(v4 in any::<Ipv4Addr>()) {
        let plain = CanonicalIp::new(v4.into()).class();
        for (form, address) in forms_of(v4) {
            let class = CanonicalIp::new(address).class();
            let narrower = match plain {
                AddressClass::Global => true,
                AddressClass::SpecialUse(_) => class != AddressClass::Global,
                AddressClass::Never(_) => matches!(class, AddressClass::Never(_)) || form.starts_with("local"),
            };
            prop_assert!(narrower, "{} of {}: {:?}", form, v4, class);
        }
    }
}
