use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, date_time_ymd};

use super::*;

/// A certificate with these parts of its subject and these names.
fn made(subject: &[(DnType, &str)], names: Vec<SanType>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
    }
    params.subject_alt_names = names;
    params.not_after = date_time_ymd(2049, 1, 2);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn the_names_of_a_certificate_are_read() {
    let der = made(
        &[(DnType::CommonName, "job-7")],
        vec![
            uri("spiffe://example.org/jobs/7"),
            SanType::DnsName("Job-7.Example.ORG".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 7].into()),
        ],
    );
    let want = Certificate {
        common_name: Some("job-7".to_owned()),
        spiffe: Some("spiffe://example.org/jobs/7".to_owned()),
        dns: vec!["job-7.example.org".to_owned()],
        addresses: vec![[10, 0, 0, 7].into()],
        instance: None,
        not_after: 2_493_158_400,
    };
    assert_eq!(Certificate::read(&der), Ok(want));
    let mut longer = der.clone();
    longer.push(0);
    assert_eq!(Certificate::read(&longer), Err(CertificateError::Syntax), "more than a certificate");
    assert_eq!(Certificate::read(&der[..der.len() - 1]), Err(CertificateError::Syntax), "less than one");
}

#[test]
fn what_names_two_names_nobody() {
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    for (name, subject, names, want) in [
        ("nothing", vec![], vec![], None),
        (
            "two SPIFFE IDs",
            vec![],
            vec![uri("spiffe://a.test/x"), uri("spiffe://a.test/y")],
            Some(CertificateError::Ambiguous),
        ),
        (
            "a SPIFFE ID beside another URI",
            vec![],
            vec![uri("spiffe://a.test/x"), uri("https://a.test/")],
            Some(CertificateError::Ambiguous),
        ),
        ("other URIs alone", vec![], vec![uri("https://a.test/"), uri("https://b.test/")], None),
        ("a long common name", vec![(DnType::CommonName, &*long)], vec![], Some(CertificateError::Unusable)),
        ("a control character", vec![(DnType::CommonName, "a\nb")], vec![], Some(CertificateError::Unusable)),
    ] {
        assert_eq!(Certificate::read(&made(&subject, names)).err(), want, "{name}");
    }
}

#[test]
fn spiffe_ids_are_exact_or_below() {
    let of = |id: &str| Certificate { spiffe: Some(id.to_owned()), ..Certificate::default() };
    for (id, pattern, want) in [
        ("spiffe://a.test/x", "spiffe://a.test/x", true),
        ("spiffe://a.test/xy", "spiffe://a.test/x", false),
        ("spiffe://a.test/x/y", "spiffe://a.test/x", false),
        ("spiffe://a.test/x/y", "spiffe://a.test/x/*", true),
        ("spiffe://a.test/x/y/z", "spiffe://a.test/x/*", true),
        ("spiffe://a.test/x/", "spiffe://a.test/x/*", false),
        ("spiffe://a.test/x", "spiffe://a.test/x/*", false),
        ("spiffe://a.test/xy/z", "spiffe://a.test/x/*", false),
        ("spiffe://a.test.evil.test/x", "spiffe://a.test/*", false),
    ] {
        assert_eq!(of(id).has_spiffe(pattern), want, "{id} {pattern}");
    }
    assert!(!Certificate::default().has_spiffe("spiffe://a.test/*"));
}
