//! Explanations: what each stage said, and an entry that really helps.

use std::net::IpAddr;

use exeat_policy::{Announce, Entry, Expect, Explanation, OpensWith, Outcome, explain};

use crate::support::*;

fn explained(world: &World, text: &str, addrs: Option<&[&str]>) -> Explanation {
    let addrs = addrs.map(ips);
    explain(&world.set, &world.request(&target(text)), addrs.as_deref(), None)
}

#[test]
fn an_explanation_reads_like_this() {
    let policy = rules("payments", &["api.stripe.example"], &["uploads.example.com"]);
    let ceiling = rules("gsa", &["@any-public"], &[]);
    let world = world(&[], &[policy], &[ceiling]);
    let cases: [(&str, Option<&[&str]>, &str); 3] = [
        (
            "API.stripe.example:443",
            Some(&["93.184.216.34"]),
            "allow  api.stripe.example:443
  policies    payments, ceiling gsa
  deny        pass: no deny rule matches
  allow       pass: 1 rule matches  [api.stripe.example at test.toml:1:1, payments]
  ceiling gsa pass: 1 rule matches  [@any-public at test.toml:1:1, ceiling gsa]
  addresses   pass: 93.184.216.34:443  [api.stripe.example at test.toml:1:1, payments]
  opening     the connection must open with TLS for the asked name
",
        ),
        (
            "uploads.example.com:443",
            None,
            "deny   uploads.example.com:443  host_denied
  policies    payments, ceiling gsa
  deny        host_denied: a deny rule matches  [uploads.example.com at test.toml:1:1, payments]
  allow       host_not_allowed: no rule matches uploads.example.com
  ceiling gsa pass: 1 rule matches  [@any-public at test.toml:1:1, ceiling gsa]
",
        ),
        (
            "api.stripe.example:8443",
            None,
            "deny   api.stripe.example:8443  port_not_allowed
  policies    payments, ceiling gsa
  deny        pass: no deny rule matches
  allow       port_not_allowed: a rule matches api.stripe.example, but not port 8443  [api.stripe.example at test.toml:1:1, payments]
  ceiling gsa port_not_allowed: a rule matches api.stripe.example, but not port 8443  [@any-public at test.toml:1:1, ceiling gsa]
  to allow it, add \"api.stripe.example:8443\" to payments and ceiling gsa
",
        ),
    ];
    for (target, addrs, want) in cases {
        assert_eq!(explained(&world, target, addrs).to_string(), want);
    }
}

/// Feeding the suggested entry back makes the request pass.
#[test]
fn the_smallest_entry_helps() {
    let world_with = |entries: &[Entry]| {
        let policy = Rules { name: "p", allow: entries.to_vec(), ..Rules::default() };
        world(&[], &[policy], &[])
    };
    for (text, addrs, want) in [
        ("example.com:443", &["93.184.216.34"][..], Some("\"example.com:443\"")),
        ("example.com:80", &["93.184.216.34"], Some("\"example.com:80\"")),
        ("example.com:8443", &["93.184.216.34"], Some("\"example.com:8443\"")),
        (
            "example.com:5432",
            &["10.1.2.3"],
            Some("{ host = \"example.com\", ports = [5432], addresses = [\"10.1.2.3\"] }"),
        ),
        ("db:5432", &["10.1.2.3"], Some("{ host = \"db\", ports = [5432], addresses = [\"10.1.2.3\"] }")),
        ("db.internal:443", &["93.184.216.34"], Some("\"db.internal:443\"")),
        ("93.184.216.34:443", &[], Some("\"93.184.216.34:443\"")),
        ("10.0.0.1:22", &[], Some("\"10.0.0.1:22\"")),
        ("[2606:2800:220::1]:443", &[], Some("\"[2606:2800:220::1]:443\"")),
        ("[2606:2800:220::1]:22", &[], Some("\"[2606:2800:220::1]:22\"")),
        ("169.254.169.254:80", &[], None),
        ("0.0.0.0:80", &[], None),
        ("224.0.0.1:80", &[], None),
        ("[::]:80", &[], None),
        ("example.com:443", &["169.254.169.254"], None),
    ] {
        let refused = explained(&world_with(&[]), text, Some(addrs));
        assert_eq!(refused.entry.as_ref().map(Entry::toml).as_deref(), want, "{text}");
        let Some(entry) = refused.entry else { continue };
        let again = explained(&world_with(&[entry]), text, Some(addrs));
        assert_eq!(again.refused, None, "{text}");
        assert!(again.stages.iter().all(|s| !matches!(s.outcome, Outcome::Refuse(_))), "{text}");
    }
}

#[test]
fn a_deny_has_no_entry_that_helps() {
    let world = world(&[], &[rules("p", &["example.com"], &["example.com"])], &[]);
    let explanation = explained(&world, "example.com:443", None);
    assert_eq!(explanation.refused.map(|r| r.token()), Some("host_denied"));
    assert_eq!(explanation.entry, None);
}

#[test]
fn what_is_closed_below_every_rule_has_no_entry_that_helps() {
    let policy = rules("p", &["example.com", "10.0.0.0/8:3128"], &["93.184.216.0/24"]);
    let floor = exeat_policy::Floor { listeners: vec!["10.0.0.1:3128".parse().unwrap()] };
    let world = world_with_floor(&[], &[policy], &[], floor);
    for (case, text, addrs, want) in [
        ("a denied address", "example.com:443", &["93.184.216.34"][..], None),
        ("and one as NAT64", "example.com:443", &["64:ff9b::5db8:d822"], None),
        ("our own listener", "10.0.0.1:3128", &[], None),
        ("a name of it", "example.org:3128", &["10.0.0.1"], None),
        (
            "its neighbour",
            "example.org:3128",
            &["10.0.0.2"],
            Some("{ host = \"example.org\", ports = [3128], addresses = [\"10.0.0.2\"] }"),
        ),
    ] {
        let explanation = explained(&world, text, Some(addrs));
        assert!(explanation.refused.is_some(), "{case}");
        assert_eq!(explanation.entry.map(|entry| entry.toml()).as_deref(), want, "{case}");
    }
}

/// An entry that is already there for other addresses, and a ceiling that lacks the name.
#[test]
fn the_entry_goes_where_it_is_missing() {
    let mut db = entry("db.example.com:5432");
    db.settings.addresses = Some(vec![exeat_model::IpBlock::parse("10.0.0.0/8").unwrap()]);
    let policy = Rules { name: "p", allow: vec![db, entry("example.org")], ..Rules::default() };
    let ceiling = rules("c", &["db.example.com:5432", "example.net"], &[]);
    let world = world(&[], &[policy], &[ceiling]);
    for (text, addrs, want) in [
        ("db.example.com:5432", "93.184.216.34", vec!["p"]),
        ("db.example.com:5432", "10.0.0.1", vec!["ceiling c"]),
        ("example.org:443", "93.184.216.34", vec!["ceiling c"]),
        ("example.net:443", "93.184.216.34", vec!["p"]),
        ("example.com:443", "93.184.216.34", vec!["p", "ceiling c"]),
    ] {
        assert_eq!(explained(&world, text, Some(&[addrs])).entry_goes_to, want, "{text} at {addrs}");
    }
}

#[test]
fn what_an_upstream_is_told_is_a_stage() {
    for (announce, want) in [
        (None, None),
        (Some(Announce::Nothing), None),
        (Some(Announce::Client), Some("the upstream is told the client's address")),
        (
            Some(Announce::ClientAndPrincipal),
            Some("the upstream is told the client's address and its principal"),
        ),
    ] {
        let mut entry = entry("lb.example.com");
        entry.settings.announce = announce;
        let world = world(&[], &[Rules { allow: vec![entry], ..rules("p", &[], &[]) }], &[]);
        let explained = explained(&world, "lb.example.com:443", Some(&["93.184.216.34"]));
        let stage = explained.stages.iter().find(|stage| stage.name == "PROXY header");
        assert_eq!(stage.map(|stage| stage.detail.as_str()), want, "{announce:?}");
    }
}

const TLS: Option<OpensWith> = Some(OpensWith::Tls);
const HTTP: Option<OpensWith> = Some(OpensWith::Http);

/// An entry with an `expect`, for these ports.
fn expecting(text: &str, expect: Expect) -> Entry {
    let mut entry = entry(text);
    entry.settings.expect = Some(expect);
    entry
}

#[test]
fn what_opens_the_connection_is_judged_where_a_scheme_tells() {
    let db = {
        let mut entry = expecting("db.example.com:443", Expect::Any);
        entry.settings.addresses = Some(vec![exeat_model::IpBlock::parse("10.0.0.0/8").unwrap()]);
        entry
    };
    let allow = [
        entry("plain.example.com"),
        entry("93.184.216.34"),
        expecting("free.example.com:80,443", Expect::Any),
        expecting("tls.example.com:80,8080", Expect::Tls),
        expecting("http.example.com:443", Expect::Http),
        db,
        entry("db.example.com:443"),
    ];
    let policy = Rules { name: "p", allow: allow.to_vec(), ..Rules::default() };
    let free = world(&[], std::slice::from_ref(&policy), &[]);
    let only_tls = [expecting("*.example.com:80,443,8080", Expect::Tls)];
    let ceiling = Rules { name: "c", allow: only_tls.to_vec(), ..Rules::default() };
    let below = world(&[], &[policy], &[ceiling]);
    let (tls, http) = (Some("tls_required"), Some("http_required"));
    for (world, text, opens, want) in [
        (&free, "plain.example.com:443", None, None),
        (&free, "plain.example.com:443", TLS, None),
        (&free, "plain.example.com:443", HTTP, tls),
        (&free, "plain.example.com:80", HTTP, None),
        (&free, "plain.example.com:80", TLS, http),
        (&free, "93.184.216.34:80", TLS, http),
        (&free, "93.184.216.34:443", TLS, None),
        (&free, "free.example.com:443", HTTP, None),
        (&free, "free.example.com:80", TLS, None),
        (&free, "tls.example.com:80", HTTP, tls),
        (&free, "tls.example.com:8080", TLS, None),
        (&free, "http.example.com:443", TLS, http),
        (&free, "other.example.com:80", TLS, Some("host_not_allowed")),
        (&below, "plain.example.com:443", TLS, None),
        (&below, "free.example.com:80", HTTP, tls),
        (&below, "free.example.com:80", TLS, None),
        // A rule and a ceiling that contradict each other.
        (&below, "plain.example.com:80", HTTP, tls),
        (&below, "plain.example.com:80", TLS, tls),
        (&below, "plain.example.com:80", None, tls),
    ] {
        let ask = |addrs: Option<&[IpAddr]>| explain(&world.set, &world.request(&target(text)), addrs, opens);
        // The same without the addresses, where they make no difference.
        for addrs in [None, Some(&ips(&["93.184.216.34"])[..])] {
            let told = ask(addrs);
            assert_eq!(told.refused.map(|reason| reason.token()), want, "{text} {opens:?} {addrs:?}: {told}");
            assert_eq!(
                told.refusing().next().is_some(),
                want.is_some(),
                "{text} {opens:?} {addrs:?}: {told}"
            );
        }
    }
    // Which rule permits it depends on the address.
    let open = |addrs: Option<&[IpAddr]>| {
        explain(&free.set, &free.request(&target("db.example.com:443")), addrs, HTTP)
    };
    let of = |addr| open(Some(&ips(&[addr])[..])).refused.map(|reason| reason.token());
    assert_eq!((of("10.0.0.1"), of("93.184.216.34")), (None, tls));
    let told = open(None).to_string();
    assert!(told.starts_with("allow ") && told.contains("depends on the address"), "{told}");
}

/// What is advised for a URL makes it pass, and there is no advice where nothing does.
#[test]
fn the_entry_for_a_url_helps() {
    let strict = || Rules { name: "c", allow: vec![entry("*.example.com")], ..Rules::default() };
    for (case, allow, ceilings, text, opens, want, goes_to) in [
        (
            "TLS on 80",
            &["example.com"][..],
            vec![],
            "example.com:80",
            TLS,
            "{ host = \"example.com\", ports = [80], expect = \"any\" }",
            &["p"][..],
        ),
        (
            "HTTP on 443, of an address",
            &["93.184.216.34"],
            vec![],
            "93.184.216.34:443",
            HTTP,
            "{ network = \"93.184.216.34\", ports = [443], expect = \"any\" }",
            &["p"],
        ),
        (
            "not listed at all",
            &[],
            vec![],
            "example.com:80",
            TLS,
            "{ host = \"example.com\", ports = [80], expect = \"any\" }",
            &["p"],
        ),
        (
            "not listed, and as the port has it",
            &[],
            vec![],
            "example.com:80",
            HTTP,
            "\"example.com:80\"",
            &["p"],
        ),
        (
            "a ceiling is in the way, too",
            &["a.example.com"],
            vec![strict()],
            "a.example.com:443",
            HTTP,
            "{ host = \"a.example.com\", ports = [443], expect = \"any\" }",
            &["p", "ceiling c"],
        ),
    ] {
        let told = |allow: Vec<Entry>, ceilings: &[Rules]| {
            let policy = Rules { name: "p", allow, ..Rules::default() };
            let world = world(&[], &[policy], ceilings);
            explain(&world.set, &world.request(&target(text)), Some(&ips(&["93.184.216.34"])), opens)
        };
        let refused = told(entries(allow), &ceilings);
        let advice = refused.entry.clone().unwrap_or_else(|| panic!("{case}: {refused}"));
        assert_eq!(advice.toml(), want, "{case}");
        assert_eq!(refused.entry_goes_to, goes_to, "{case}");
        let with = |mut entries: Vec<Entry>| {
            entries.push(advice.clone());
            entries
        };
        let ceilings: Vec<Rules> =
            ceilings.into_iter().map(|c| Rules { allow: with(c.allow.clone()), ..c }).collect();
        let again = told(with(entries(allow)), &ceilings);
        assert_eq!(again.refused, None, "{case}: {again}");
    }
}
