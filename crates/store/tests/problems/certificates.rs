//! Mistakes about which certificates are meant.

use super::*;

#[test]
fn holders_of_certificates() {
    let unused = "w 3:14 no listener asks for client certificates | add client_ca = \"ca.pem\" to the `tls` of a listener";
    let spiffe_help =
        "write \"spiffe://example.org/jobs/1\", or \"spiffe://example.org/jobs/*\" for all below";
    let bad_spiffe = |text: &str| format!("e 4:10 `{text}` is not a value of `spiffe` | {spiffe_help}");
    for (name, holder, want) in [
        ("a SPIFFE ID", "spiffe = \"spiffe://example.org/jobs/1\"", vec![unused.to_owned()]),
        ("all below", "spiffe = \"spiffe://example.org/jobs/*\"", vec![unused.to_owned()]),
        ("a whole trust domain", "spiffe = \"spiffe://example.org/*\"", vec![unused.to_owned()]),
        ("a common name", "cn = \"build-1\"", vec![unused.to_owned()]),
        ("a DNS name", "dns = \"Job.example.org\"", vec![unused.to_owned()]),
        ("app instances", "cloud_foundry = true\nsame_address = true", vec![unused.to_owned()]),
        (
            "nothing",
            "same_address = true",
            vec!["e 3:14 [certificate.h] does not say which certificates it means | write spiffe = \"spiffe://…\", dns = \"…\", cn = \"…\" or cloud_foundry = true".to_owned()],
        ),
        (
            "nothing, in other words",
            "cloud_foundry = false",
            vec!["e 3:14 [certificate.h] does not say which certificates it means | write spiffe = \"spiffe://…\", dns = \"…\", cn = \"…\" or cloud_foundry = true".to_owned()],
        ),
        ("no path", "spiffe = \"spiffe://example.org\"", vec![bad_spiffe("spiffe://example.org")]),
        ("part of a segment", "spiffe = \"spiffe://example.org/job*\"", vec![bad_spiffe("spiffe://example.org/job*")]),
        ("in the middle", "spiffe = \"spiffe://example.org/*/x\"", vec![bad_spiffe("spiffe://example.org/*/x")]),
        ("every domain", "spiffe = \"spiffe://*/x\"", vec![bad_spiffe("spiffe://*/x")]),
        ("another scheme", "spiffe = \"https://example.org/x\"", vec![bad_spiffe("https://example.org/x")]),
        (
            "a pattern of DNS names",
            "dns = \"*.example.org\"",
            vec!["e 4:7 `*.example.org` is not a value of `dns` | write a name that stands in the certificate, such as \"job.example.org\"".to_owned()],
        ),
        (
            "two of the same",
            "cn = \"a\"\n[certificate.i]\ncn = \"a\"",
            vec![
                "e 5:14 [certificate.h] means the same certificates | remove one of them".to_owned(),
                unused.to_owned(),
            ],
        ),
        (
            "the name of a client",
            "cn = \"a\"\n[certificate.c]\ncn = \"b\"",
            vec![
                unused.to_owned(),
                "e 5:14 there is a client or a workload `c`, too | records tell them by their names: rename one".to_owned(),
            ],
        ),
    ] {
        let text = format!("[policy.p]\nallow = [\"a.example.com\"]\n[certificate.h]\n{holder}{REST}");
        let mut want = want;
        if want.iter().any(|line| line.starts_with('e')) {
            want.retain(|line| line.starts_with('e'));
        }
        let mut got = problems(&text);
        got.retain(|line| line.starts_with('e') || !want.iter().any(|want| want.starts_with('e')));
        assert_eq!(got, want, "{name}:\n{text}");
    }
}
