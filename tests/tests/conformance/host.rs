//! Names, ports and patterns.

use anyhow::{Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{configuration, request};
use exeat_tests::hello::Hello;
use exeat_tests::raw::Raw;

use crate::stage::{Case, Stage, case, refusal};

const INVALID: crate::stage::Refusal = refusal(400, "host_invalid");
const MALFORMED: crate::stage::Refusal = refusal(400, "request_malformed");
const NOT_ALLOWED: crate::stage::Refusal = refusal(403, "host_not_allowed");
const PORT: crate::stage::Refusal = refusal(403, "port_not_allowed");

pub(crate) const CASES: &[Case] = &[
    case("HOST-01", |s| {
        s.reaches_tls("EXAMPLE.COM:443")?;
        ensure!(s.exeat.audit()?.iter().all(|r| r["name"] == "example.com"), "{:?}", s.exeat.audit());
        Ok(())
    }),
    case("HOST-07", |s| s.refuses_connect("example.com.evil.test:443", NOT_ALLOWED)),
    case("HOST-08", |s| s.refuses_connect("example.org:443", NOT_ALLOWED)),
    case("HOST-09", |s| s.reaches_tls("a.b.example.org:443")),
    case("HOST-12", |s| s.refuses_connect("evil.test%00.example.org:443", INVALID)),
    case("HOST-13", |s| {
        let mut client = Raw::proxy()?;
        s.refuses_on(&mut client, request("CONNECT evil.test\0.example.org:443"), MALFORMED)?;
        client.closed()
    }),
    case("HOST-15", |s| {
        s.refuses_connect("example.com evil.test:443", MALFORMED)?;
        s.refuses_connect("example.com\tevil.test:443", MALFORMED)
    }),
    case("HOST-16", |s| s.refuses_connect("example.com@evil.test:443", INVALID)),
    case("HOST-17", |s| s.refuses("GET http://example.com@evil.test/", MALFORMED)),
    case("HOST-19", |s| {
        s.refuses("GET http://evil.test\\.example.org/", MALFORMED)?;
        s.refuses("GET http://example.com\\@evil.test/", MALFORMED)
    }),
    case("HOST-20", |s| {
        s.refuses("GET http://evil.test#.example.org/", MALFORMED)?;
        s.refuses("GET http://evil.test/#.example.org/", MALFORMED)?;
        s.refuses("GET http://evil.test?.example.org/", NOT_ALLOWED)
    }),
    case("HOST-22", |s| s.refuses_each(&["ｅxample.com:443", "example。com:443", "exam\u{ad}ple.com:443"], INVALID)),
    case("HOST-24", |s| {
        let label = format!("{}.example.org:443", "a".repeat(64));
        let long = format!("{}.example.org:443", vec!["a".repeat(49); 5].join(".").split_at(242).0);
        s.refuses_each(&[&label, &long], INVALID)
    }),
    case("HOST-25", |s| {
        s.carries("a_b.example.org:443", &Hello::to("a_b.example.org").record())?;
        s.refuses_each(&["-a.example.org:443", "a-.example.org:443"], INVALID)
    }),
    case("HOST-26", |s| {
        for port in ["0443", "+443", "443:443", "65979", "0x1bb", "４４３", "", "0", "-443", " 443"] {
            let want = if port.starts_with(' ') { MALFORMED } else { INVALID };
            s.refuses_connect(&format!("example.com:{port}"), want)?;
        }
        Ok(())
    }),
    case("HOST-27", |s| s.refuses_connect("example.com", INVALID)),
    case("HOST-28", |s| {
        s.refuses_each(
            &["example.com:22", "example.com:25", "example.com:53", "example.com:6379", "example.com:8443"],
            PORT,
        )
    }),
    case("HOST-29", |s| {
        s.refuses_connect("cdn.example.net:443", PORT)?;
        s.reaches_tls("cdn.example.net:8443")
    }),
    case("HOST-33", broad_rules_do_not_load).differs(
        "10.0.0.0/8 is a network rule (it matches literal targets inside its block and makes no name resolvable), so it loads",
    ),
    case("HOST-34", |s| s.refuses_connect("203.0.113.7:443", refusal(403, "ip_literal_not_allowed"))),
    case("HOST-35", |s| {
        s.reaches_tls("example.com:443")?;
        ensure!(s.world.dns.names() == ["example.com"], "{:?}", s.world.dns.queries());
        Ok(())
    }),
    case("HOST-36", |s| {
        s.refuses_each(&["metadata:80", "kubernetes:443", "wpad:80"], NOT_ALLOWED)?;
        does_not_load(s, "intranet")
    }),
];

/// `exeat check` refuses the entry with the status for configurations and an error that shows it and its place.
fn does_not_load(stage: &Stage, entry: &str) -> Result<()> {
    let directory = stage.world.directory().join("check");
    std::fs::create_dir_all(&directory)?;
    let config = Exeat::write_config(&directory, &configuration(&format!("allow = [\"{entry}\"]"), ""))?;
    let check = Client::new(binary()?, &directory).args(["check".as_ref(), config.as_os_str()]).run()?;
    ensure!(check.code == 78, "{entry} loads: {check:?}");
    ensure!(check.err.contains(entry) && check.err.contains("exeat.toml:7:10"), "{entry}: {check:?}");
    Ok(())
}

fn broad_rules_do_not_load(stage: &mut Stage) -> Result<()> {
    for entry in [
        "*",
        "*.com",
        "*.co.uk",
        "example.*",
        "ex*ample.com",
        "*example.com",
        "éxample.com",
        "http://example.com/",
    ] {
        does_not_load(stage, entry)?;
    }
    Ok(())
}
