//! What the proxy asks its name server, and what it believes of the answer.

use anyhow::ensure;
use exeat_tests::dns::Entry;

use crate::stage::{Case, Refusal, case, refusal, refused_address};

const NOT_ALLOWED: Refusal = refusal(403, "host_not_allowed");

/// An allowed name cannot be resolved.
const fn dns_failed(names: &'static [&'static str]) -> Refusal {
    Refusal { status: 502, reason: "dns_failed", names }
}

pub(crate) const CASES: &[Case] = &[
    case("DNS-01", |s| {
        s.resolves("example.com", &["93.184.216.34", "10.0.0.5"]);
        s.refuses_connect("example.com:443", refused_address(&["example.com"]))
    }),
    case("DNS-01-filter", |s| {
        s.resolves("example.com", &["93.184.216.34", "10.0.0.5"]);
        s.reaches_tls("example.com:443")?;
        ensure!(s.world.accepts() == 1, "{:?}", s.world.reached());
        Ok(())
    })
    .policy(r#"allow = [{ host = "example.com", answers = "filter" }]"#),
    case("DNS-04", |s| {
        s.resolves("rebind.example.org", &["192.168.1.10"]);
        s.refuses_connect("rebind.example.org:443", refused_address(&["rebind.example.org"]))
    }),
    case("DNS-05", |s| {
        s.resolves("sink.example.org", &["0.0.0.0"]);
        s.resolves("sink6.example.org", &["::"]);
        s.refuses_connect("sink.example.org:443", refused_address(&["sink.example.org"]))?;
        s.refuses_connect("sink6.example.org:443", refused_address(&["sink6.example.org"]))
    }),
    case("DNS-06", |s| {
        s.world.dns.set("www.example.org", Entry::alias("metadata.google.internal"));
        s.resolves("metadata.google.internal", &["169.254.169.254"]);
        s.world.dns.set("wiki.example.org", Entry::alias("intranet.corp"));
        s.resolves("intranet.corp", &["10.20.30.40"]);
        // An alias of an allowed name is followed, and what it leads to is judged by its address.
        s.refuses_connect(
            "www.example.org:443",
            refused_address(&["www.example.org", "metadata.google.internal"]),
        )?;
        s.refuses_connect("wiki.example.org:443", refused_address(&["wiki.example.org", "intranet.corp"]))
    }),
    case("DNS-07", |s| {
        s.world.dns.set("evil.test", Entry::alias("example.com"));
        s.refuses_connect("evil.test:443", NOT_ALLOWED)
    }),
    case("DNS-08", |s| {
        s.world.dns.set("a.example.org", Entry::alias("b.example.org"));
        s.world.dns.set("b.example.org", Entry::alias("a.example.org"));
        for n in 0..50 {
            s.world.dns.set(&format!("n{n}.example.org"), Entry::alias(&format!("n{}.example.org", n + 1)));
        }
        let many: Vec<String> =
            (0..500).map(|n| format!("93.184.{}.{}", 200 + n / 250, 1 + n % 250)).collect();
        s.resolves("many.example.org", &many.iter().map(String::as_str).collect::<Vec<_>>());
        s.refuses_connect("many.example.org:443", dns_failed(&["many.example.org"]))?;
        // How a resolver walks a chain of aliases decides which of its names it asks for; none may lead out of the zone.
        for looped in ["a.example.org:443", "n0.example.org:443"] {
            let mut client = exeat_tests::raw::Raw::proxy()?;
            let reply = client.ask(exeat_tests::fixture::request(&format!("CONNECT {looped}")))?;
            s.check_refusal(&reply, dns_failed(&[]))?;
        }
        ensure!(s.world.accepts() == 0, "{:?}", s.world.reached());
        ensure!(s.world.dns.names().iter().all(|n| n.ends_with(".example.org")), "{:?}", s.world.dns.names());
        ensure!(s.world.dns.queries().len() < 100, "{} questions", s.world.dns.queries().len());
        Ok(())
    })
    .differs("the cap on a chain is 16 names"),
    case("DNS-09", |s| {
        s.refuses_connect("73656372657420.evil.test:443", NOT_ALLOWED)?;
        s.refuses("GET http://73656372657420.evil.test/", NOT_ALLOWED)?;
        ensure!(s.world.dns.queries().is_empty());
        Ok(())
    }),
    case("DNS-17", |s| {
        let poisoned = Entry::addresses(&["93.184.216.40"]).with_extra("example.com", "6.6.6.6");
        s.world.dns.set("a.example.org", poisoned);
        s.reaches_tls("a.example.org:443")?;
        s.reaches_tls("example.com:443")?;
        ensure!(s.world.reached().iter().all(|a| a.ip().to_string() != "6.6.6.6"), "{:?}", s.world.reached());
        Ok(())
    }),
    case("DNS-22", |s| {
        s.refuses_each(
            &[
                "metadata.google.internal:80",
                "kubernetes.default.svc:443",
                "printer.local:443",
                "nas.home.arpa:443",
                "abc.onion:443",
                "service.test:443",
                "localhost:443",
            ],
            NOT_ALLOWED,
        )
    })
    .policy(r#"allow = ["@any-public"]"#),
    case("DNS-24", |s| {
        s.resolves("v6.example.org", &["64:ff9b::a00:1"]);
        s.refuses_connect("v6.example.org:443", refused_address(&["v6.example.org"]))
    }),
    case("DNS-26", |s| {
        s.refuses_connect("example.com&type=TXT:443", refusal(400, "host_invalid"))?;
        s.refuses_connect("example.com?type=TXT:443", refusal(400, "host_invalid"))
    }),
    case("DNS-28", |s| {
        for n in 0..130 {
            s.gets(&format!("http://n{n}.example.org/"))?;
        }
        ensure!(s.world.dns.names().len() == 130);
        s.gets("http://example.com/").map(drop)
    }),
];
