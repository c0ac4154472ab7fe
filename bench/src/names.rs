//! The names that lists, requests and the name server agree on without sharing a table.

use std::net::Ipv4Addr;

/// Origins have this many addresses, so that connections to one of them do not use up the ephemeral ports.
const ADDRESSES: u64 = 64;

/// Mixes the bits of a number (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The name that rule number `rule` allows, about 26 characters: `api-3fa2c1.site17.test`.
pub(crate) fn listed(rule: u64) -> String {
    format!("api-{:06x}.site{rule}.test", mix(rule) & 0xff_ffff)
}

/// A name like the others that no rule allows.
pub(crate) fn unlisted(number: u64) -> String {
    format!("api-{:06x}.other{number}.test", mix(number) & 0xff_ffff)
}

/// `count` listed names, spread evenly over a list of `rules`; all of them if it has no more.
pub(crate) fn spread(rules: u64, count: u64) -> Vec<String> {
    let count = count.min(rules).max(1);
    (0..count).map(|n| listed(n * (rules / count))).collect()
}

/// A name of another kind, each of which has an address of its own that a rule need not say anything of.
pub(crate) fn distant(number: u16) -> String {
    format!("n{number}.lan.test")
}

/// Where a name lives: one of 127.1.0.1 to 127.1.0.64, or for a distant one somewhere below 93.184.0.0.
pub(crate) fn address(name: &str) -> Ipv4Addr {
    let distant =
        name.strip_suffix(".lan.test").and_then(|label| label.strip_prefix('n')?.parse::<u16>().ok());
    if let Some(number) = distant {
        let [high, low] = number.to_be_bytes();
        return Ipv4Addr::new(93, 184, high, low);
    }
    let number = name.split('.').find_map(|label| label.strip_prefix("site")?.parse().ok());
    let last = 1 + mix(number.unwrap_or(0)) % ADDRESSES;
    Ipv4Addr::new(127, 1, 0, u8::try_from(last).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_one_loopback_address() {
        for rule in [0, 1, 63, 64, 999_999] {
            let found = address(&listed(rule));
            assert!(found.is_loopback(), "{found}");
            assert_eq!(found, address(&listed(rule).to_ascii_lowercase()));
        }
        let distinct: std::collections::BTreeSet<_> =
            (0..10_000).map(|rule| address(&listed(rule))).collect();
        assert_eq!(distinct.len(), 64);
    }

    #[test]
    fn a_spread_stays_inside_the_list() {
        assert_eq!(spread(10, 1000).len(), 10);
        let names = spread(1_000_000, 1000);
        assert_eq!(names.len(), 1000);
        assert_eq!(names[999], listed(999_000));
    }

    #[test]
    fn nothing_unlisted_is_listed() {
        let listed: std::collections::HashSet<_> = (0..1000).map(listed).collect();
        assert!((0..1000).all(|number| !listed.contains(&unlisted(number))));
    }
}
