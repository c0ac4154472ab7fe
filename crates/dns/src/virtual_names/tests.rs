use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> DnsName {
    DnsName::parse(text).unwrap()
}

fn small() -> Ranges {
    Ranges::new("198.18.7.0/28".parse().unwrap(), "fd00::/64".parse().unwrap()).unwrap()
}

fn is(text: &str) -> Meaning {
    Meaning::Name(name(text))
}

#[test]
fn a_name_keeps_its_addresses_and_each_client_has_its_own() {
    let now = Instant::now();
    let table = VirtualNames::new(Ranges::default(), now);
    let a = table.assign("one", &name("a.example"), now).unwrap();
    let b = table.assign("one", &name("b.example"), now).unwrap();
    assert_ne!((a.v4, a.v6), (b.v4, b.v6));
    assert_eq!(table.assign("one", &name("a.example"), now), Ok(a));
    let of_two = table.assign("two", &name("b.example"), now).unwrap();
    let mapped: IpAddr = a.v4.to_ipv6_mapped().into();
    for (whose, ip, want) in [
        ("one", a.v4.into(), is("a.example")),
        ("one", mapped, is("a.example")),
        ("one", a.v6.into(), is("a.example")),
        ("one", b.v6.into(), is("b.example")),
        // What one was told says nothing of another, even where the addresses are the same.
        ("two", of_two.v4.into(), is("b.example")),
        ("two", b.v4.into(), Meaning::Unknown),
        ("three", a.v4.into(), Meaning::Unknown),
        ("one", "198.18.0.0".parse().unwrap(), Meaning::Unknown),
        ("one", "198.19.255.255".parse().unwrap(), Meaning::Unknown),
        ("one", "fd65:7865:6174::1:0:1".parse().unwrap(), Meaning::Ordinary),
        ("one", "fd65:7865:6174::ffff:ffff".parse().unwrap(), Meaning::Unknown),
        ("one", "93.184.216.34".parse().unwrap(), Meaning::Ordinary),
    ] {
        assert_eq!(table.meaning(whose, ip, now), want, "{whose} {ip}");
    }
    assert_eq!(table.assigned(), 3);
}

#[test]
fn what_is_used_is_never_given_to_another_name() {
    let began = Instant::now();
    let table = VirtualNames::new(small(), began);
    let at = |after| began + after;
    let many: Vec<DnsName> = (0..14).map(|n| name(&format!("n{n}.example"))).collect();
    let given: Vec<Addresses> = many.iter().map(|name| table.assign("one", name, began).unwrap()).collect();
    let more = name("more.example");
    assert_eq!(table.assign("one", &more, at(HOLD / 2)), Err(Exhausted));
    // Another client is not short of any.
    assert!(table.assign("two", &more, at(HOLD / 2)).is_ok());
    // All but the first are connected to or asked for in between.
    for (name, addresses) in many.iter().zip(&given).skip(1).step_by(2) {
        assert_eq!(table.meaning("one", addresses.v4.into(), at(HOLD / 2)), Meaning::Name(name.clone()));
    }
    for name in many.iter().skip(2).step_by(2) {
        assert!(table.assign("one", name, at(HOLD / 2)).is_ok());
    }
    let late = at(HOLD + Duration::from_secs(1));
    assert_eq!(table.assign("one", &more, late), Ok(given[0]));
    assert_eq!(table.meaning("one", given[0].v6.into(), late), Meaning::Name(more));
    assert_eq!(table.assign("one", &many[0], late), Err(Exhausted));
    for (name, addresses) in many.iter().zip(&given).skip(1) {
        assert_eq!(table.meaning("one", addresses.v4.into(), late), Meaning::Name(name.clone()));
    }
    // Names that nobody has are not kept.
    let names = lock(&table.names);
    assert_eq!((names.numbers.len(), names.all.iter().flatten().count()), (14, 14));
}

#[test]
fn all_clients_together_are_bounded() {
    let now = Instant::now();
    let table = VirtualNames { assigned_max: 3, ..VirtualNames::new(Ranges::default(), now) };
    for (whose, host) in [("one", "a.example"), ("one", "b.example"), ("two", "a.example")] {
        assert!(table.assign(whose, &name(host), now).is_ok(), "{whose} {host}");
    }
    assert_eq!(table.assign("two", &name("b.example"), now), Err(Exhausted));
    assert_eq!(table.assign("three", &name("a.example"), now), Err(Exhausted));
    assert!(table.assign("two", &name("a.example"), now).is_ok());
}

#[test]
fn networks_must_hold_the_names() {
    let of = |v4: &str, v6: &str| Ranges::new(v4.parse().unwrap(), v6.parse().unwrap());
    assert_eq!(of("10.0.0.0/29", "fd00::/64").err(), Some(RangesError::Small));
    assert_eq!(of("10.0.0.0/16", "fd00::/113").err(), Some(RangesError::Narrow));
    assert_eq!(of("10.0.0.0/16", "fd00::/112").unwrap().names_per_client(), 65_534);
    // What is not part of the network does not count.
    assert_eq!(of("198.18.7.9/28", "fd00::7/64"), Ok(small()));
    assert_eq!(Ranges::default().names_per_client(), 131_070);
}

proptest! {
    #[test]
    fn no_address_ever_means_another_name(
        steps in prop::collection::vec((0u8..3, 0u8..40, 0u64..40_000), 1..200),
    ) {
        let began = Instant::now();
        let table = VirtualNames::new(small(), began);
        let mut now = began;
        let mut told: HashMap<(u8, IpAddr), (DnsName, Instant)> = HashMap::new();
        for (client, host, wait) in steps {
            now += Duration::from_secs(wait);
            let (whose, host) = (format!("c{client}"), name(&format!("n{host}.example")));
            if let Ok(addresses) = table.assign(&whose, &host, now) {
                for ip in [IpAddr::from(addresses.v4), addresses.v6.into()] {
                    // Whoever had it must have let it rest.
                    if let Some((before, last)) = told.insert((client, ip), (host.clone(), now)) {
                        prop_assert!(before == host || now - last >= HOLD - Duration::from_secs(1));
                    }
                    prop_assert_eq!(table.meaning(&whose, ip, now), Meaning::Name(host.clone()));
                }
            }
        }
    }
}
