//! Literal addresses in every spelling, and what an allowed name may resolve to.

use crate::stage::{Case, case, refusal, refused_address};

const LITERAL: crate::stage::Refusal = refusal(403, "ip_literal_not_allowed");
const INVALID: crate::stage::Refusal = refusal(400, "host_invalid");

/// Addresses at which clouds hand out credentials.
const METADATA: [&str; 7] = [
    "169.254.169.254:80",
    "[fd00:ec2::254]:80",
    "168.63.129.16:80",
    "100.100.100.200:80",
    "192.0.0.192:80",
    "169.254.170.2:80",
    "169.254.170.23:80",
];

/// Rules as wide as rules get: the floor must hold under them.
const WIDE: &str = r#"
allow = ["@any-public", "169.254.0.0/16:80", "168.63.129.16:80", "100.100.100.0/24:80", "192.0.0.0/24:80", "[fd00::/8]:80", "[2001::/32]:443"]
"#;

pub(crate) const CASES: &[Case] = &[
    case("ADDR-01", |s| s.refuses_connect("127.0.0.1:443", LITERAL)),
    case("ADDR-02", |s| s.refuses_connect("0x7f.1:443", INVALID)),
    case("ADDR-03", |s| s.refuses_connect("2130706433:443", INVALID)),
    case("ADDR-04", |s| s.refuses_connect("0177.0.0.1:443", INVALID)),
    case("ADDR-05", |s| s.refuses_connect("127.1:443", INVALID)),
    case("ADDR-06", |s| s.refuses_connect("010.0.0.1:443", INVALID)),
    case("ADDR-08", |s| s.refuses_connect("0.0.0.0:8443", LITERAL)),
    case("ADDR-12", |s| s.refuses_connect("[::ffff:10.0.0.1]:443", LITERAL)),
    case("ADDR-13", |s| s.refuses_connect("[::ffff:a9fe:a9fe]:80", LITERAL)),
    case("ADDR-14", |s| s.refuses_connect("[::10.0.0.1]:443", LITERAL)),
    case("ADDR-18", |s| s.refuses_connect("[2001:0:7f00:1::1]:443", LITERAL)),
    case("ADDR-18-literals-permitted", |s| s.refuses_connect("[2001:0:7f00:1::1]:443", refused_address(&[])))
        .policy(r#"allow = ["@any-public"]"#),
    case("ADDR-20", |s| s.refuses_each(&["[fe80::1%eth0]:443", "[fe80::1%25eth0]:443"], INVALID)),
    case("ADDR-21", |s| s.refuses("GET http://169.254.169.254/latest/meta-data/", LITERAL)),
    case("ADDR-21-under-wide-rules", |s| {
        s.refuses("GET http://169.254.169.254/latest/meta-data/", refused_address(&[]))?;
        s.refuses_each(&METADATA, refused_address(&[]))?;
        s.refuses_connect("[::ffff:a9fe:a9fe]:80", refused_address(&[]))
    })
    .policy(WIDE),
    case("ADDR-22", |s| s.refuses_connect("[fd00:ec2::254]:80", LITERAL)),
    case("ADDR-23", |s| s.refuses_each(&METADATA, LITERAL)),
    case("ADDR-26", |s| s.refuses_connect("93.184.216.34:443", LITERAL)),
    case("ADDR-27", |s| s.refuses_connect("[127.0.0.1]:443", INVALID)),
    case("ADDR-28", |s| s.refuses_connect("[example.com]:443", INVALID)),
    case("ADDR-29", |s| s.refuses_connect("１２７.０.０.１:443", INVALID)),
    case("ADDR-30", |s| s.refuses_connect("127。0。0。1:443", INVALID)),
    case("ADDR-34", |s| s.refuses_each(&["256.256.256.256:443", "1.2.3.4.5:443"], INVALID)),
    case("ADDR-35", |s| {
        s.resolves("self.example.org", &["10.99.0.1"]);
        s.refuses_each(&["10.99.0.1:3128", "127.0.0.1:3128", "10.99.0.53:3128", "[::1]:3128"], LITERAL)?;
        s.refuses_connect("proxy.test:3128", refusal(403, "host_not_allowed"))?;
        s.refuses_connect("self.example.org:3128", refused_address(&["self.example.org"]))
    })
    .policy(r#"allow = [{ host = "self.example.org", ports = [3128], addresses = ["10.99.0.0/24"] }]"#),
    case("ADDR-36", |s| {
        s.resolves("admin.example.com", &["127.0.0.1"]);
        s.resolves("opened.example.com", &["127.0.0.1"]);
        s.refuses("GET http://admin.example.com:9901/", refusal(403, "port_not_allowed"))?;
        s.refuses("GET http://opened.example.com:9901/", refused_address(&["opened.example.com"]))
    })
    .policy(r#"allow = ["admin.example.com", "opened.example.com:9901"]"#),
    case("ADDR-37", |s| {
        s.resolves("registry.corp.test", &["10.1.2.3"]);
        s.resolves("elsewhere.corp.test", &["10.9.9.9"]);
        s.resolves("metadata.corp.test", &["169.254.169.254"]);
        s.reaches_tls("registry.corp.test:443")?;
        s.refuses_connect("elsewhere.corp.test:443", refused_address(&["elsewhere.corp.test"]))?;
        s.refuses_connect("metadata.corp.test:443", refused_address(&["metadata.corp.test"]))
    })
    .policy(
        r#"
allow = ["registry.corp.test", "elsewhere.corp.test", "metadata.corp.test"]
addresses = ["10.1.0.0/16"]
"#,
    ),
    case("ADDR-38", |s| {
        s.resolves("printer.example.org", &["192.168.1.4"]);
        s.resolves("safe.example.org", &["192.168.1.5"]);
        s.reaches_tls("printer.example.org:443")?;
        s.refuses_connect("safe.example.org:443", refused_address(&["safe.example.org"]))
    })
    .policy(
        r#"
allow = [{ host = "*.example.org", addresses = ["192.168.0.0/16"] }]
deny = ["192.168.1.5"]
"#,
    ),
];
