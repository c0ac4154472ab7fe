//! Explanations: what each stage said, and an entry that really helps.

use exeat_policy::{Announce, Entry, Explanation, Outcome, explain};

use crate::support::*;

fn explained(world: &World, text: &str, addrs: Option<&[&str]>) -> Explanation {
    let addrs = addrs.map(ips);
    explain(&world.set, &world.request(&target(text)), addrs.as_deref())
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
  policies   payments, ceiling gsa
  deny       pass: no deny rule matches
  allow      pass: 1 rule matches  [api.stripe.example at test.toml:1:1, payments]
  ceiling gsa pass: 1 rule matches  [@any-public at test.toml:1:1, ceiling gsa]
  addresses  pass: 93.184.216.34:443  [api.stripe.example at test.toml:1:1, payments]
  opening    the connection must open with TLS for the asked name
",
        ),
        (
            "uploads.example.com:443",
            None,
            "deny   uploads.example.com:443  host_denied
  policies   payments, ceiling gsa
  deny       host_denied: a deny rule matches  [uploads.example.com at test.toml:1:1, payments]
  allow      host_not_allowed: no rule matches uploads.example.com
  ceiling gsa pass: 1 rule matches  [@any-public at test.toml:1:1, ceiling gsa]
",
        ),
        (
            "api.stripe.example:8443",
            None,
            "deny   api.stripe.example:8443  port_not_allowed
  policies   payments, ceiling gsa
  deny       pass: no deny rule matches
  allow      port_not_allowed: a rule matches api.stripe.example, but not port 8443  [api.stripe.example at test.toml:1:1, payments]
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
        ("example.com:443", &["93.184.216.34"][..], Some("\"example.com\"")),
        ("example.com:80", &["93.184.216.34"], Some("\"example.com\"")),
        ("example.com:8443", &["93.184.216.34"], Some("\"example.com:8443\"")),
        (
            "example.com:5432",
            &["10.1.2.3"],
            Some("{ host = \"example.com\", ports = [5432], addresses = [\"10.1.2.3\"] }"),
        ),
        ("db:5432", &["10.1.2.3"], Some("{ host = \"db\", ports = [5432], addresses = [\"10.1.2.3\"] }")),
        ("db.internal:443", &["93.184.216.34"], Some("\"db.internal\"")),
        ("93.184.216.34:443", &[], Some("\"93.184.216.34\"")),
        ("10.0.0.1:22", &[], Some("\"10.0.0.1:22\"")),
        ("[2606:2800:220::1]:443", &[], Some("\"2606:2800:220::1\"")),
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
