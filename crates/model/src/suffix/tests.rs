use super::*;

#[test]
fn suffixes_are_of_the_section_that_lists_them() {
    let rows = [
        ("com", SuffixKind::Icann),
        ("co.uk", SuffixKind::Icann),
        ("gov", SuffixKind::Icann),
        ("github.io", SuffixKind::Private),
        ("s3.amazonaws.com", SuffixKind::Private),
        ("example.com", SuffixKind::NotASuffix),
        ("example.co.uk", SuffixKind::NotASuffix),
        ("someone.github.io", SuffixKind::NotASuffix),
        // Single labels, in the list or not.
        ("corp", SuffixKind::Icann),
        ("localhost", SuffixKind::Icann),
        // A wildcard of the list: what stands below it is a suffix, and so is a wildcard over it.
        ("kawasaki.jp", SuffixKind::Icann),
        ("any.kawasaki.jp", SuffixKind::Icann),
        ("city.kawasaki.jp", SuffixKind::NotASuffix),
        ("any.ck", SuffixKind::Icann),
        ("www.ck", SuffixKind::NotASuffix),
        // Below a top-level label that the list does not have.
        ("example.test", SuffixKind::NotASuffix),
        ("db.corp", SuffixKind::NotASuffix),
    ];
    for (name, want) in rows {
        assert_eq!(suffix_kind(&DnsName::parse(name).unwrap()), want, "{name}");
    }
}

#[test]
fn the_longest_name_has_a_kind() {
    let longest = format!("{}com", "a.".repeat(125));
    assert_eq!(longest.len(), 253);
    assert_eq!(suffix_kind(&DnsName::parse(&longest).unwrap()), SuffixKind::NotASuffix);
}

#[test]
fn closed_zones_hold_for_themselves_and_below() {
    for zone in CLOSED_ZONES {
        for name in [(*zone).to_owned(), format!("a.{zone}"), format!("a.b.{zone}")] {
            assert!(in_closed_zone(&DnsName::parse(&name).unwrap()), "{name}");
        }
        let beside = format!("{zone}.example.com");
        assert!(!in_closed_zone(&DnsName::parse(&beside).unwrap()), "{beside}");
    }
    let rows = [
        ("kubernetes", true),
        ("com", true),
        ("metadata.google.internal", true),
        ("kubernetes.default.svc", true),
        ("home.arpa", true),
        ("example.com", false),
        ("notlocal.example", false),
        ("e164.arpa", false),
        ("internal.example.com", false),
        ("db.notinternal", false),
    ];
    for (name, want) in rows {
        assert_eq!(in_closed_zone(&DnsName::parse(name).unwrap()), want, "{name}");
    }
}
