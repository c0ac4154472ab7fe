//! The configurations of `docs/migrating.md`: each loads, and allows what its page says.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use exeat_model::{Authority, Transport};
use exeat_policy::{Bound, EgressRequest, Reason, Revision, explain};
use exeat_store::{Loaded, Options, Problem, load_text};

/// The sections of the page, and what is said of their configuration when it is loaded.
const SECTIONS: [(&str, &[&str]); 6] = [
    ("Squid", &[]),
    (
        "Smokescreen",
        &["no certificate of a client can be revoked without `crl`", "policy `reports` does not enforce"],
    ),
    ("Envoy as a forward proxy", &[]),
    ("Caddy's forwardproxy", &[]),
    ("Cilium's policies by name", &[]),
    ("iptables and ipset", &[]),
];

/// Section, who asks, target, transport, and why it is refused.
type Case = (usize, &'static str, &'static str, Transport, Option<Reason>);

const CASES: [Case; 30] = [
    (0, "alice", "example.com:443", Transport::Tcp, None),
    (0, "alice", "a.b.example.com:80", Transport::Tcp, None),
    (0, "alice", "ads.example.com:443", Transport::Tcp, Some(Reason::HostDenied)),
    (0, "alice", "db.example.org:5432", Transport::Tcp, None),
    (0, "alice", "db.example.org:443", Transport::Tcp, Some(Reason::PortNotAllowed)),
    (0, "alice", "notexample.com:443", Transport::Tcp, Some(Reason::HostNotAllowed)),
    (1, "payments", "api.example.com:443", Transport::Tcp, None),
    (1, "payments", "status.example.com:443", Transport::Tcp, None),
    (1, "payments", "metrics.example.com:443", Transport::Tcp, Some(Reason::HostNotAllowed)),
    (1, "reports", "elsewhere.example.com:443", Transport::Tcp, None),
    (1, "reports", "evil.example.org:443", Transport::Tcp, Some(Reason::HostDenied)),
    (1, "crawler", "elsewhere.example.com:443", Transport::Tcp, None),
    (1, "crawler", "evil.example.org:443", Transport::Tcp, Some(Reason::HostDenied)),
    (2, "shop", "api.example.com:443", Transport::Tcp, None),
    (2, "shop", "api.example.com:80", Transport::Tcp, Some(Reason::PortNotAllowed)),
    (2, "shop", "old.example.org:443", Transport::Tcp, Some(Reason::HostDenied)),
    (3, "user1", "www.example.com:443", Transport::Tcp, None),
    (3, "user1", "www.example.com:80", Transport::Tcp, Some(Reason::PortNotAllowed)),
    (3, "user1", "code.example.org:22", Transport::Tcp, None),
    (3, "user1", "192.0.2.7:443", Transport::Tcp, Some(Reason::HostDenied)),
    (4, "frontend", "api.example.com:443", Transport::Tcp, None),
    (4, "frontend", "time.example.com:123", Transport::Udp, None),
    (4, "frontend", "time.example.com:123", Transport::Tcp, Some(Reason::PortNotAllowed)),
    (4, "frontend", "10.30.1.1:5432", Transport::Tcp, None),
    (4, "frontend", "10.30.7.1:5432", Transport::Tcp, Some(Reason::HostDenied)),
    (4, "frontend", "10.31.1.1:5432", Transport::Tcp, Some(Reason::IpLiteralNotAllowed)),
    (5, "builder", "packages.example.org:443", Transport::Tcp, None),
    (5, "builder", "192.0.2.7:443", Transport::Tcp, None),
    (5, "builder", "192.0.2.7:80", Transport::Tcp, Some(Reason::PortNotAllowed)),
    (5, "builder", "www.example.org:443", Transport::Tcp, Some(Reason::HostNotAllowed)),
];

/// The one configuration below each title.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let page = include_str!("../../../docs/migrating.md");
    let sections = page.split("\n## ").skip(1);
    let block = |section: &'static str| {
        let (title, text) = section.split_once('\n').unwrap();
        let mut blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let block = blocks.next().unwrap_or_else(|| panic!("no configuration below {title}"));
        assert_eq!(blocks.next(), None, "{title} has one");
        (title, block)
    };
    sections.map(block).collect()
}

fn loaded(title: &str, text: &str) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["proxy.example.com".to_owned()]).unwrap();
    for (name, text) in [
        ("proxy.pem", made.cert.pem()),
        ("ca.pem", made.cert.pem()),
        ("proxy.key", made.signing_key.serialize_pem()),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    let options = Options::new(Revision(1));
    load_text("exeat.toml", text, folder.path(), &options)
        .unwrap_or_else(|report| panic!("{title}: {report}"))
}

fn bound(loaded: &Loaded, name: &str) -> Bound {
    let workload = || loaded.workloads.get(name).map(|workload| workload.principal().clone());
    let holder = || loaded.certificates.principals().find(|holder| &*holder.name == name).cloned();
    let principal = loaded.clients.principal(name).or_else(workload).or_else(holder);
    principal.unwrap_or_else(|| panic!("nobody is {name}")).bound.clone()
}

#[test]
fn every_configuration_of_the_page_loads() {
    let blocks = blocks();
    assert_eq!(blocks.len(), SECTIONS.len());
    for ((title, text), (want, warnings)) in blocks.into_iter().zip(SECTIONS) {
        assert_eq!(title, want);
        let loaded = loaded(title, text);
        let told: Vec<&str> = loaded.warnings.problems().iter().map(Problem::message).collect();
        assert_eq!(told, warnings, "{title}");
    }
}

#[test]
fn every_configuration_of_the_page_allows_what_it_says() {
    let configurations: Vec<Loaded> = blocks().into_iter().map(|(title, text)| loaded(title, text)).collect();
    for (section, name, target, transport, want) in CASES {
        let loaded = &configurations[section];
        let bound = bound(loaded, name);
        let target = Authority::parse(target, None).unwrap();
        let request = EgressRequest { bound: &bound, target: &target, transport };
        let explanation = explain(&loaded.policy, &request, None, None);
        assert_eq!(explanation.refused, want, "{section} {name} {target}: {explanation}");
    }
}
