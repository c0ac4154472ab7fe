//! What clients are told.

use anyhow::{Context, Result, ensure};
use exeat_tests::asker::{Asker, Told};
use exeat_tests::dns::Entry;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, HTTPS, MX, NULL, SVCB, TXT};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::setup::{APP, OTHER, Setup};

pub(crate) fn what_is_denied_is_told_as_configured() -> Result<()> {
    let policy =
        "allow = [\"example.com\", \"*.example.org\", \"a.b.example.net\"]\ndeny = [\"no.example.org\"]";
    let setting = |word: &str| format!("denied = \"{word}\"");
    let mut setup = Setup::new(policy, "", "")?;
    for (word, code, addresses) in [
        ("nxdomain", "NXDOMAIN", [None, None]),
        ("refused", "REFUSED", [None, None]),
        ("sinkhole", "NOERROR", [Some("0.0.0.0"), Some("::")]),
    ] {
        setup = setup.again(policy, &setting(word), "")?;
        for (kind, address) in [RecordType::A, RecordType::AAAA].into_iter().zip(addresses) {
            for (name, reason) in [
                ("evil.test", "host_not_allowed"),
                ("no.example.org", "host_denied"),
                ("localhost", "host_not_allowed"),
            ] {
                let told = Asker::at(APP)?.ask(name, kind)?;
                ensure!(told.code() == format!("{code} {reason}"), "{word} {name}: {told:?}");
                ensure!(told.why().is_some_and(|(number, _)| number == 15), "{word} {name}: {told:?}");
                let want: Vec<String> = address.into_iter().map(str::to_owned).collect();
                ensure!(told.data() == want, "{word} {name}: {told:?}");
            }
        }
        let told = Asker::at(APP)?.ask("evil.test", RecordType::HTTPS)?;
        ensure!(told.code() == format!("{code} host_not_allowed") && told.data().is_empty(), "{told:?}");
        setup.asked_for(&[])?;
    }
    // A name that an allowed one lies below must not be said not to exist: a cache would believe it of both.
    let setup = setup.again(policy, "", "")?;
    for (name, want) in [
        ("example.org", "NOERROR host_not_allowed"),
        ("b.example.net", "NOERROR host_not_allowed"),
        ("example.net", "NOERROR host_not_allowed"),
        ("c.example.net", "NXDOMAIN host_not_allowed"),
        ("www.example.com", "NXDOMAIN host_not_allowed"),
        ("ab.example.net", "NXDOMAIN host_not_allowed"),
    ] {
        let told = setup.ask(name)?;
        ensure!(told.code() == want && told.data().is_empty(), "{name}: {told:?}");
    }
    setup.asked_for(&[])?;
    setup.exeat.stop()
}

pub(crate) fn addresses_are_one_decision_for_both_families() -> Result<()> {
    let policy = "allow = [\"*.example.org\", { host = \"filter.example.net\", answers = \"filter\" }, \
                  { host = \"db.example.net\", ports = [5432], addresses = [\"10.20.0.0/16\"] }]";
    let mut setup = Setup::new(policy, "", "")?;
    let both = |name: &str| -> Result<[Told; 2]> {
        let client = Asker::at(APP)?;
        Ok([client.ask(name, RecordType::A)?, client.ask(name, RecordType::AAAA)?])
    };
    let refused = "NXDOMAIN address_not_allowed";
    for (name, addresses, code, v4, v6) in [
        ("ok.example.org", &["93.184.216.1", "2606:2800::1"][..], "NOERROR", "93.184.216.1", "2606:2800::1"),
        ("v4.example.org", &["93.184.216.1"], "NOERROR", "93.184.216.1", ""),
        ("mixed.example.org", &["93.184.216.1", "10.0.0.5"], refused, "", ""),
        // The forbidden one is of the family that is asked for second.
        ("other.example.org", &["93.184.216.1", "fd00::1"], refused, "", ""),
        ("loop.example.org", &["127.0.0.1"], refused, "", ""),
        ("any.example.org", &["0.0.0.0"], refused, "", ""),
        ("any6.example.org", &["::"], refused, "", ""),
        ("meta.example.org", &["169.254.169.254"], refused, "", ""),
        ("mapped.example.org", &["::ffff:10.0.0.5"], refused, "", ""),
        ("nat64.example.org", &["64:ff9b::a00:5"], refused, "", ""),
        // The address is fine, but packets to it are of IPv4.
        ("public.example.org", &["::ffff:93.184.216.1"], "NOERROR", "", ""),
        ("filter.example.net", &["93.184.216.1", "10.0.0.5", "fd00::1"], "NOERROR", "93.184.216.1", ""),
        ("db.example.net", &["10.20.3.4"], "NOERROR", "10.20.3.4", ""),
    ] {
        setup.world.dns.set(name, Entry::addresses(addresses));
        let told = both(name)?;
        for (told, want) in told.iter().zip([v4, v6]) {
            ensure!(told.code() == code && told.data().join(" ") == want, "{name}: {told:?}");
        }
        if code != "NOERROR" {
            let record = setup.record(name, |record| record["method"] == "A")?;
            ensure!(record["reason"] == "address_not_allowed" && record["answers"].is_null(), "{record}");
        }
    }
    setup.world.dns.set("db.example.net", Entry::addresses(&["93.184.216.1"]));
    setup.exeat.stop()
}

pub(crate) fn aliases_belong_to_the_asked_name() -> Result<()> {
    let mut setup = Setup::new("allow = [\"*.example.org\"]", "", "")?;
    let dns = &setup.world.dns;
    dns.set("www.example.org", Entry::alias("a.cdn.test"));
    dns.set("a.cdn.test", Entry::alias("b.cdn.test"));
    dns.set("b.cdn.test", Entry::addresses(&["93.184.216.9"]));
    dns.set("evil.test", Entry::alias("ok.example.org"));
    dns.set("looped.example.org", Entry::alias("looped2.example.org"));
    dns.set("looped2.example.org", Entry::alias("looped.example.org"));
    for n in 0..30 {
        dns.set(&format!("c{n}.example.org"), Entry::alias(&format!("c{}.example.org", n + 1)));
    }
    dns.set("inside.example.org", Entry::alias("intranet.corp"));
    dns.set("intranet.corp", Entry::addresses(&["10.20.30.40"]));
    dns.set("nothing.example.org", Entry::alias("gone.test"));
    dns.set(
        "poisoned.example.org",
        Entry::addresses(&["93.184.216.8"]).with_extra("ok.example.org", "6.6.6.6"),
    );
    let many: Vec<String> = (0..65).map(|n| format!("93.184.216.{n}")).collect();
    dns.set("many.example.org", Entry::addresses(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    dns.set("broken.example.org", Entry::failure(ResponseCode::Refused));
    dns.set("gone.example.org", Entry::failure(ResponseCode::NXDomain));
    for (name, want, data) in [
        // The answer is the asked name's own: what it is an alias of is not told.
        ("www.example.org", "NOERROR", "93.184.216.9"),
        ("evil.test", "NXDOMAIN host_not_allowed", ""),
        ("looped.example.org", "SERVFAIL dns_failed", ""),
        ("c0.example.org", "SERVFAIL dns_failed", ""),
        ("inside.example.org", "NXDOMAIN address_not_allowed", ""),
        ("nothing.example.org", "NXDOMAIN", ""),
        ("poisoned.example.org", "NOERROR", "93.184.216.8"),
        ("ok.example.org", "NOERROR", "93.184.216.35"),
        ("many.example.org", "SERVFAIL dns_failed", ""),
        ("broken.example.org", "SERVFAIL dns_failed", ""),
        ("gone.example.org", "NXDOMAIN", ""),
    ] {
        let told = setup.ask(name)?;
        ensure!(told.code() == want && told.data().join(" ") == data, "{name}: {told:?}");
        for record in &told.message.answers {
            ensure!(record.name.to_ascii() == format!("{name}."), "{name}: {told:?}");
        }
    }
    let record = setup.record("looped.example.org", |_| true)?;
    ensure!(record["verdict"] == "allow" && record["reason"] == "dns_failed", "{record}");
    ensure!(record["rcode"] == "SERVFAIL", "{record}");
    setup.exeat.stop()
}

pub(crate) fn how_to_connect_is_told_without_ways_past_the_policy() -> Result<()> {
    let setup = Setup::new("allow = [\"example.com\", \"*.example.org\"]", "", "")?;
    let alpn = SvcParamValue::Alpn(Alpn(vec!["h3".to_owned(), "h2".to_owned()]));
    let full = vec![
        (SvcParamKey::Alpn, alpn),
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A::new(10, 0, 0, 5)]))),
        (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
    ];
    let elsewhere = Name::from_ascii("evil.test.")?;
    let record = |priority, target, params| RData::HTTPS(HTTPS(SVCB::new(priority, target, params)));
    setup.world.dns.set(
        "example.com",
        Entry::records(vec![
            record(1, Name::root(), full.clone()),
            record(2, elsewhere.clone(), full),
            record(0, elsewhere, Vec::new()),
        ]),
    );
    let client = Asker::at(APP)?;
    let told = client.ask("example.com", RecordType::HTTPS)?;
    let kept = vec![(SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()])))];
    let want = record(1, Name::root(), kept);
    ensure!(told.code() == "NOERROR" && told.records().eq([&want]), "{told:?}");
    for name in ["www.example.org", "evil.test"] {
        let told = client.ask(name, RecordType::HTTPS)?;
        ensure!(told.data().is_empty(), "{name}: {told:?}");
    }
    setup.asked_for(&["example.com", "www.example.org"])?;
    setup.exeat.stop()
}

pub(crate) fn other_types_are_passed_on_where_told() -> Result<()> {
    let policy = "allow = [\"example.com\"]";
    let text = RData::TXT(TXT::new(vec!["v=spf1 -all".to_owned()]));
    let mail = RData::MX(MX::new(10, Name::from_ascii("mail.example.com.")?));
    let secret = RData::NULL(NULL::with(b"anything".to_vec()));
    let entry = Entry::records(vec![text.clone(), mail.clone(), secret]);
    let never = [
        RecordType::ANY,
        RecordType::AXFR,
        RecordType::IXFR,
        RecordType::NULL,
        RecordType::HINFO,
        RecordType::NS,
        RecordType::SOA,
        RecordType::DNSKEY,
        RecordType::Unknown(65_280),
    ];
    let mut setup = Setup::new(policy, "", "")?;
    setup.world.dns.set("example.com", entry);
    for (types, passed) in
        [("", &[][..]), ("types = [\"TXT\"]", &[&text]), ("types = [\"TXT\", \"MX\"]", &[&text, &mail])]
    {
        setup = setup.again(policy, types, "")?;
        let client = Asker::at(APP)?;
        let mut told = Vec::new();
        for kind in [RecordType::TXT, RecordType::MX].into_iter().chain(never) {
            let answer = client.ask("example.com", kind)?;
            match answer.code().as_str() {
                "NOERROR" => told.extend(answer.records().cloned()),
                code => ensure!(code == "REFUSED method_not_allowed", "{types:?} {kind}: {answer:?}"),
            }
        }
        ensure!(told.iter().eq(passed.iter().copied()), "{types:?}: {told:?}");
        // The name decides, too.
        let other = client.ask("evil.test", RecordType::TXT)?;
        let want = if passed.is_empty() { "REFUSED method_not_allowed" } else { "NXDOMAIN host_not_allowed" };
        ensure!(other.code() == want, "{types:?}: {other:?}");
        let kinds: Vec<RecordType> = setup.world.dns.queries().iter().map(|query| query.kind).collect();
        ensure!(kinds.len() == passed.len(), "{types:?}: {kinds:?}");
        let record = setup.exeat.audit_until("NULL", |records| {
            records.iter().any(|r| r["method"] == "NULL" && r["reason"] == "method_not_allowed")
        });
        record.context(types)?;
    }
    setup.exeat.stop()
}

pub(crate) fn names_of_addresses_are_those_that_were_told() -> Result<()> {
    let extra = format!("[workload.other]\naddresses = [\"{OTHER}/32\"]\npolicies = [\"app\"]\n");
    let setup = Setup::new("allow = [\"example.com\", \"*.example.org\"]", "", &extra)?;
    let v4 = "34.216.184.93.in-addr.arpa";
    let v6 = "4.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.2.2.0.0.0.8.2.6.0.6.2.ip6.arpa";
    let client = Asker::at(APP)?;
    for name in [v4, v6, "1.0.0.127.in-addr.arpa"] {
        let told = client.ask(name, RecordType::PTR)?;
        ensure!(told.code() == "NXDOMAIN host_not_allowed", "{name}: {told:?}");
    }
    client.ask("example.com", RecordType::A)?;
    client.ask("example.com", RecordType::AAAA)?;
    for name in [v4, v6] {
        let told = client.ask(name, RecordType::PTR)?;
        ensure!(told.code() == "NOERROR" && told.data() == ["example.com."], "{name}: {told:?}");
        // Another client was not told.
        let told = Asker::at(OTHER)?.ask(name, RecordType::PTR)?;
        ensure!(told.code() == "NXDOMAIN host_not_allowed", "{name}: {told:?}");
    }
    for name in ["example.com", "216.184.93.in-addr.arpa"] {
        let told = client.ask(name, RecordType::PTR)?;
        // There are names below the one and other records of the other.
        ensure!(told.code() == "NOERROR host_not_allowed" && told.data().is_empty(), "{name}: {told:?}");
    }
    setup.asked_for(&["example.com"])?;
    setup.exeat.stop()
}

pub(crate) fn times_to_live_are_short() -> Result<()> {
    let setup = Setup::new("allow = [\"*.example.org\"]", "", "")?;
    for (name, ttl, most) in [
        ("zero.example.org", 0, 1),
        ("one.example.org", 1, 1),
        ("short.example.org", 30, 30),
        ("week.example.org", 604_800, 60),
    ] {
        setup.world.dns.set(name, Entry::addresses(&["93.184.216.1"]).kept_for(ttl));
        for _ in 0..2 {
            let told = setup.ask(name)?;
            let record = told.message.answers.first().with_context(|| format!("{name}: {told:?}"))?;
            ensure!(record.ttl <= most, "{name}: {told:?}");
            ensure!(most < 60 || record.ttl == 60, "{name}: {told:?}");
        }
    }
    setup.exeat.stop()
}
