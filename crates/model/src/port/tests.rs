use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

#[test]
fn a_port_has_one_spelling() {
    let rows = [
        ("lowest", "1", Ok(1)),
        ("https", "443", Ok(443)),
        ("highest", "65535", Ok(65535)),
        ("empty", "", Err(PortError::Empty)),
        ("zero", "0", Err(PortError::Zero)),
        ("leading zero", "0443", Err(PortError::LeadingZero)),
        ("two zeros", "00", Err(PortError::LeadingZero)),
        ("plus sign", "+443", Err(PortError::NotDigits)),
        ("minus sign", "-1", Err(PortError::NotDigits)),
        ("space", " 443", Err(PortError::NotDigits)),
        ("hexadecimal", "0x1bb", Err(PortError::NotDigits)),
        ("twice", "443:443", Err(PortError::NotDigits)),
        ("full-width digits", "４４３", Err(PortError::NotDigits)),
        ("one too many", "65536", Err(PortError::TooLarge)),
        ("443 modulo 65536", "65979", Err(PortError::TooLarge)),
        ("443 modulo 2 to the 64", "18446744073709552059", Err(PortError::TooLarge)),
    ];
    for (name, input, want) in rows {
        assert_eq!(Port::parse(input).map(Port::get), want, "{name}");
    }
    assert_eq!(Port::new(0), None);
    assert_eq!((Port::HTTP.get(), Port::HTTPS.get()), (80, 443));
}

#[test]
fn a_range_is_one_port_or_runs_upwards() {
    let rows = [
        ("one", "443", Ok("443")),
        ("several", "8000-8010", Ok("8000-8010")),
        ("one as a range", "443-443", Ok("443")),
        ("all", "1-65535", Ok("1-65535")),
        ("backwards", "8010-8000", Err(PortError::Reversed { first: port(8010), last: port(8000) })),
        ("from zero", "0-80", Err(PortError::Zero)),
        ("open end", "8000-", Err(PortError::Empty)),
        ("three", "1-2-3", Err(PortError::NotDigits)),
        ("spaces", "1 - 2", Err(PortError::NotDigits)),
    ];
    for (name, input, want) in rows {
        assert_eq!(PortRange::parse(input).map(|r| r.to_string()), want.map(str::to_owned), "{name}");
    }
    assert_eq!(PortRange::ALL.to_string(), "1-65535");
}

#[test]
fn a_set_is_sorted_and_merged() {
    let rows = [
        ("in order", "80,443,8000-8010", Ok("80,443,8000-8010")),
        ("out of order", "8000-8010,443,80", Ok("80,443,8000-8010")),
        ("touching", "80,81,82-90", Ok("80-90")),
        ("overlapping", "1-100,50-60,90-200", Ok("1-200")),
        ("repeated", "443,443", Ok("443")),
        ("to the top", "65535,65534,1-65535", Ok("1-65535")),
        ("empty", "", Err(PortError::Empty)),
        ("trailing comma", "80,", Err(PortError::Empty)),
        ("space", "80, 443", Err(PortError::NotDigits)),
    ];
    for (name, input, want) in rows {
        assert_eq!(PortSet::parse(input).map(|s| s.to_string()), want.map(str::to_owned), "{name}");
    }
    let nothing = PortSet::from_ranges([]);
    assert!(nothing.is_empty() && !nothing.contains(Port::HTTPS));
}

fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
    // A small space, so that draws touch and overlap; and its top end, where additions could wrap.
    let end = prop_oneof![1_u16..40, (u16::MAX - 20)..=u16::MAX];
    prop::collection::vec((end.clone(), end), 0..8)
}

proptest! {
    #[test]
    fn a_set_contains_what_its_ranges_contain(ends in ranges()) {
        let ranges: Vec<PortRange> =
            ends.iter().map(|&(a, b)| PortRange::new(port(a.min(b)), port(a.max(b))).unwrap()).collect();
        let members: BTreeSet<u16> = ends.iter().flat_map(|&(a, b)| a.min(b)..=a.max(b)).collect();
        let set = PortSet::from_ranges(ranges);
        for number in (1..60).chain(u16::MAX - 40..=u16::MAX) {
            prop_assert_eq!(set.contains(port(number)), members.contains(&number), "{}", number);
        }
        prop_assert!(set.iter().zip(set.iter().skip(1)).all(|(a, b)| a.last().get() + 1 < b.first().get()));
        if !set.is_empty() {
            prop_assert_eq!(PortSet::parse(&set.to_string()), Ok(set));
        }
    }

    #[test]
    fn every_number_but_zero_prints_and_parses(number in 1..=u16::MAX) {
        prop_assert_eq!(Port::parse(&number.to_string()), Ok(port(number)));
    }
}
