use std::time::Duration;

use exeat_policy::{Builder, Revision};

use super::*;

fn certificate(spiffe: &str, instance: Option<&str>) -> Certificate {
    let id = |text: &str| text.to_owned();
    Certificate {
        common_name: Some(id("i-1")),
        spiffe: Some(id(spiffe)).filter(|id| !id.is_empty()),
        dns: vec![id("job.example.org"), id("other.example.org")],
        addresses: vec![[10, 0, 0, 7].into()],
        instance: instance.map(|app| Instance {
            organization: id("o-1"),
            space: id("s-1"),
            app: id(app),
            instance: id("i-1"),
        }),
        not_after: 1000,
    }
}

fn presented(certificate: Certificate, is_good: bool) -> Presented {
    Presented { certificate: Some(certificate), still_good: Box::new(move || is_good) }
}

fn holder(name: &str, matches: Match) -> Holder {
    Holder {
        name: name.into(),
        matches,
        same_address: false,
        policies: Vec::new(),
        labels: Labels::default(),
        caps: Caps::default(),
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn shown(certificates: &Certificates, presented: &Presented, address: [u8; 4], now: u64) -> String {
    let policy = Builder::new().finish(Revision(1)).unwrap();
    let place = Place { address: Some(address.into()), ..Place::default() };
    match certificates.shows(Some(presented), &place, &policy, at(now)) {
        Shows::Nothing => "nothing".to_owned(),
        Shows::Bad => "bad".to_owned(),
        Shows::Elsewhere => "elsewhere".to_owned(),
        Shows::Holder(principal) => {
            let labels: Vec<String> = principal.labels.iter().map(|(l, v)| format!(" {l}={v}")).collect();
            format!("{}{}", principal.name, labels.concat())
        }
    }
}

fn known() -> Certificates {
    let policy = Builder::new().finish(Revision(1)).unwrap();
    let spiffe = |id: &str| Match { spiffe: Some(id.to_owned()), ..Match::default() };
    let dns = |name: &str| Match { dns: Some(name.to_owned()), ..Match::default() };
    let mut known = Certificates::new();
    for (name, matches) in [
        ("jobs", spiffe("spiffe://a.test/jobs/*")),
        ("job", spiffe("spiffe://a.test/jobs/1")),
        ("wide", spiffe("spiffe://a.test/*")),
        ("one", dns("job.example.org")),
        ("two", dns("other.example.org")),
        ("apps", Match { cloud_foundry: true, ..dns("job.example.org") }),
    ] {
        known.insert(holder(name, matches), &policy);
    }
    known
}

#[test]
fn the_closest_match_counts_and_two_alike_do_not() {
    let known = known();
    for (name, spiffe, app, want) in [
        ("exact", "spiffe://a.test/jobs/1", None, "job"),
        ("below", "spiffe://a.test/jobs/2", None, "jobs"),
        ("below something wider", "spiffe://a.test/x", None, "wide"),
        (
            "another domain, and two DNS names that are two holders'",
            "spiffe://b.test/jobs/1",
            None,
            "nothing",
        ),
        ("an app instance", "", Some("a-1"), "apps:a-1 organization=o-1 space=s-1 app=a-1 instance=i-1"),
    ] {
        let presented = presented(certificate(spiffe, app), true);
        assert_eq!(shown(&known, &presented, [10, 0, 0, 7], 999), want, "{name}");
    }
}

#[test]
fn a_certificate_is_good_until_it_ends_or_is_revoked_and_from_where_it_says() {
    let policy = Builder::new().finish(Revision(1)).unwrap();
    let matches = Match { common_name: Some("i-1".to_owned()), ..Match::default() };
    let mut known = Certificates::new();
    known.insert(Holder { same_address: true, ..holder("a", matches) }, &policy);
    for (name, is_good, address, now, want) in [
        ("good", true, [10, 0, 0, 7], 999, "a"),
        ("at its end", true, [10, 0, 0, 7], 1000, "a"),
        ("over", true, [10, 0, 0, 7], 1001, "bad"),
        ("revoked", false, [10, 0, 0, 7], 999, "bad"),
        ("from another address", true, [10, 0, 0, 8], 999, "elsewhere"),
    ] {
        let presented = presented(certificate("", None), is_good);
        assert_eq!(shown(&known, &presented, address, now), want, "{name}");
    }
    let nameless = Presented { certificate: None, still_good: Box::new(|| true) };
    assert_eq!(shown(&known, &nameless, [10, 0, 0, 7], 999), "nothing");
}
