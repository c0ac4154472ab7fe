//! What the proxy asks its name server, and what it believes of the answer; and what clients are told who ask it for names.

use anyhow::{Result, ensure};
use exeat_tests::asker::Asker;
use exeat_tests::dns::Entry;
use hickory_proto::rr::RecordType;

use crate::stage::{Case, Refusal, Stage, case, refusal, refused_address};

/// Names are asked for from here, under the policy of the case.
const NAMES: &str = "[dns]\nlisten = [\"10.99.0.1\"]\n[workload.names]\naddresses = [\"93.184.216.101/32\"]\npolicies = [\"app\"]\n";

/// Asks for a name, and asserts how it is answered: the code with the reason, and the addresses.
fn told(stage: &Stage, name: &str, code: &str, addresses: &[&str]) -> Result<()> {
    let told = Asker::at("93.184.216.101")?.ask(name, RecordType::A)?;
    ensure!(told.code() == code && told.data() == addresses, "{name}: {told:?}");
    ensure!(stage.world.accepts() == 0, "{:?}", stage.world.reached());
    Ok(())
}

/// No address is told of a name that may not be reached.
const ADDRESS: &str = "NXDOMAIN address_not_allowed";
const NAME: &str = "NXDOMAIN host_not_allowed";

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
    case("DNS-01-asked", |s| {
        s.resolves("example.com", &["93.184.216.34", "10.0.0.5"]);
        told(s, "example.com", ADDRESS, &[])?;
        s.record("the answer", |r| r["event"] == "dns" && r["reason"] == "address_not_allowed").map(drop)
    })
    .with(NAMES),
    case("DNS-04-asked", |s| {
        s.resolves("rebind.example.org", &["192.168.1.10"]);
        told(s, "rebind.example.org", ADDRESS, &[])
    })
    .with(NAMES),
    case("DNS-05-asked", |s| {
        s.resolves("sink.example.org", &["0.0.0.0"]);
        told(s, "sink.example.org", ADDRESS, &[])
    })
    .with(NAMES),
    case("DNS-06-asked", |s| {
        s.world.dns.set("www.example.org", Entry::alias("metadata.google.internal"));
        s.resolves("metadata.google.internal", &["169.254.169.254"]);
        told(s, "www.example.org", ADDRESS, &[])
    })
    .with(NAMES),
    case("DNS-07-asked", |s| {
        s.world.dns.set("evil.test", Entry::alias("example.com"));
        told(s, "evil.test", NAME, &[])?;
        ensure!(s.world.dns.queries().is_empty(), "{:?}", s.world.dns.names());
        Ok(())
    })
    .with(NAMES),
    case("DNS-08-asked", |s| {
        s.world.dns.set("a.example.org", Entry::alias("b.example.org"));
        s.world.dns.set("b.example.org", Entry::alias("a.example.org"));
        told(s, "a.example.org", "SERVFAIL dns_failed", &[])
    })
    .with(NAMES),
    case("DNS-09-asked", |s| {
        told(s, "73656372657420.evil.test", NAME, &[])?;
        ensure!(s.world.dns.queries().is_empty(), "{:?}", s.world.dns.names());
        Ok(())
    })
    .with(NAMES),
    case("DNS-17-asked", |s| {
        let poisoned = Entry::addresses(&["93.184.216.40"]).with_extra("example.com", "6.6.6.6");
        s.world.dns.set("a.example.org", poisoned);
        told(s, "a.example.org", "NOERROR", &["93.184.216.40"])?;
        told(s, "example.com", "NOERROR", &["93.184.216.34"])
    })
    .with(NAMES),
    case("DNS-22-asked", |s| {
        for name in [
            "metadata.google.internal",
            "kubernetes.default.svc",
            "printer.local",
            "nas.home.arpa",
            "abc.onion",
        ] {
            told(s, name, NAME, &[])?;
        }
        ensure!(s.world.dns.queries().is_empty(), "{:?}", s.world.dns.names());
        Ok(())
    })
    .policy(r#"allow = ["@any-public"]"#)
    .with(NAMES),
    case("DNS-24-asked", |s| {
        s.resolves("v6.example.org", &["64:ff9b::a00:1"]);
        told(s, "v6.example.org", ADDRESS, &[])
    })
    .with(NAMES),
    case("DNS-28", |s| {
        for n in 0..130 {
            s.gets(&format!("http://n{n}.example.org/"))?;
        }
        ensure!(s.world.dns.names().len() == 130);
        s.gets("http://example.com/").map(drop)
    }),
];
