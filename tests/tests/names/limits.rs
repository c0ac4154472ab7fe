//! How much one source may ask.

use std::io::Read;

use anyhow::{Result, ensure};
use exeat_tests::asker::{Asker, Told, question, read_framed, receive, write_framed};
use exeat_tests::dns::Entry;
use exeat_tests::namespace::PROXY;
use exeat_tests::scrape::scrape;
use hickory_proto::rr::RecordType;

use crate::setup::{APP, OTHER, Setup, config};

fn other() -> String {
    format!("[workload.other]\naddresses = [\"{OTHER}/32\"]\npolicies = [\"app\"]\n")
}

fn limit_hits(limit: &str) -> Result<f64> {
    let name = format!("exeat_dns_limit_hits_total{{limit=\"{limit}\"}}");
    Ok(scrape()?.get(&name).copied().unwrap_or(-1.0))
}

pub(crate) fn names_under_a_wildcard_are_bounded() -> Result<()> {
    let policy = "allow = [\"*.example.org\", \"example.com\"]";
    let mut setup = Setup::new(policy, "names_per_minute = 50\nqueries_per_second = 0", &other())?;
    let client = Asker::at(APP)?;
    let label = |n: usize| format!("{n:060}.t.example.org");
    let mut allowed = 0;
    for n in 0..500 {
        let told = client.ask(&label(n), RecordType::A)?;
        match told.code().as_str() {
            "NOERROR" => allowed += 1,
            code => ensure!(code == "REFUSED rate_limited", "{n}: {told:?}"),
        }
    }
    ensure!(allowed == 50, "{allowed} names");
    // Only what was answered has left, with a question for each family.
    ensure!(setup.world.dns.names().len() == 50, "{}", setup.world.dns.names().len());
    ensure!(limit_hits("names_per_minute")? >= 450.0);
    for (who, name, want) in [
        (APP, label(3), "NOERROR"),
        (APP, "example.com".to_owned(), "NOERROR"),
        (OTHER, label(400), "NOERROR"),
        (APP, label(401), "REFUSED rate_limited"),
    ] {
        let told = Asker::at(who)?.ask(&name, RecordType::AAAA)?;
        ensure!(told.code() == want, "{who} {name}: {told:?}");
    }
    let record = setup.record(&label(499), |_| true)?;
    ensure!(record["verdict"] == "deny" && record["reason"] == "rate_limited", "{record}");
    setup.exeat.stop()
}

pub(crate) fn a_source_may_ask_so_often() -> Result<()> {
    let mut setup = Setup::new("allow = [\"example.com\"]", "queries_per_second = 5", &other())?;
    let client = Asker::at(APP)?;
    let (mut answered, mut refused) = (0, 0);
    while refused < 100 {
        let told = client.ask("example.com", RecordType::A)?;
        match told.code().as_str() {
            "NOERROR" => answered += 1,
            "REFUSED rate_limited" => refused += 1,
            _ => ensure!(false, "{told:?}"),
        }
    }
    ensure!(answered >= 10, "{answered} answers at once");
    ensure!(Asker::at(OTHER)?.ask("example.com", RecordType::A)?.code() == "NOERROR");
    ensure!(limit_hits("queries_per_second")? >= 100.0);
    // Not each of them is on record, but that it happened is.
    let is_refusal = |record: &serde_json::Value| record["reason"] == "rate_limited";
    let records = setup.exeat.audit_until("a refusal", |records| records.iter().any(is_refusal))?;
    let recorded = records.iter().filter(|record| is_refusal(record)).count();
    ensure!(recorded < 100, "{recorded} records");
    setup.exeat.stop()
}

/// What nobody can answer takes from the rate of its source as a question does, and its records with it.
pub(crate) fn what_asks_nothing_counts_too() -> Result<()> {
    let mut setup = Setup::new("allow = [\"example.com\"]", "queries_per_second = 5", &other())?;
    let client = Asker::at(APP)?;
    let mut message = question("example.com", RecordType::A)?;
    message.queries.extend(message.queries.clone());
    let (mut answered, mut refused) = (0, 0);
    while refused < 100 {
        let told = client.send(&message)?;
        match told.code().as_str() {
            "FORMERR" => answered += 1,
            "REFUSED" => refused += 1,
            _ => ensure!(false, "{told:?}"),
        }
    }
    ensure!(answered >= 10, "{answered} answers at once");
    ensure!(Asker::at(OTHER)?.send(&message)?.code() == "FORMERR");
    ensure!(limit_hits("queries_per_second")? >= 100.0);
    let of = |records: &[serde_json::Value], reason: &str| {
        records.iter().filter(|record| record["reason"] == reason).count()
    };
    let records = setup.exeat.audit_until("its records", |records| {
        of(records, "request_malformed") > answered && of(records, "rate_limited") > 0
    })?;
    let (malformed, limited) = (of(&records, "request_malformed"), of(&records, "rate_limited"));
    ensure!(malformed == answered + 1 && limited < 100, "{answered} answered, {malformed} and {limited}");
    setup.exeat.stop()
}

pub(crate) fn questions_that_wait_are_bounded() -> Result<()> {
    let dns = "names_per_minute = 0\nqueries_per_second = 0";
    let setup = Setup::new("allow = [\"*.example.org\"]", dns, &other())?;
    setup.world.dns.set("*.silent.example.org", Entry::silence());
    let socket = Asker::at(APP)?.udp()?;
    for n in 0..300 {
        socket.send(&question(&format!("n{n}.silent.example.org"), RecordType::A)?.to_vec()?)?;
        if n % 50 == 49 {
            // They have been taken from the queue, which has not room for all.
            ensure!(Asker::at(OTHER)?.ask("evil.test", RecordType::A)?.code() == "NXDOMAIN host_not_allowed");
        }
    }
    for _ in 0..44 {
        let told = Told::read(&receive(&socket)?)?;
        ensure!(told.code() == "REFUSED connection_limit", "{told:?}");
    }
    // Others, and what is known, are answered meanwhile.
    ensure!(Asker::at(OTHER)?.ask("www.example.org", RecordType::A)?.code() == "NOERROR");
    ensure!(Asker::at(APP)?.ask("www.example.org", RecordType::A)?.code() == "NOERROR");
    ensure!(limit_hits("waiting")? == 44.0);
    for _ in 0..256 {
        let told = Told::read(&receive(&socket)?)?;
        ensure!(told.code() == "SERVFAIL dns_failed", "{told:?}");
    }
    ensure!(Asker::at(APP)?.ask("ftp.example.org", RecordType::A)?.code() == "NOERROR");
    setup.exeat.stop()
}

pub(crate) fn connections_are_bounded() -> Result<()> {
    let setup = Setup::new("allow = [\"example.com\"]", "connections = 70", &other())?;
    let ask = |stream: &mut std::net::TcpStream| -> Result<String> {
        write_framed(stream, &question("example.com", RecordType::A)?.to_vec()?)?;
        Ok(read_framed(stream)?.code())
    };
    let mut open = Vec::new();
    // 64 of one source, and 70 in all.
    for (who, count) in [(APP, 64), (OTHER, 6)] {
        for _ in 0..count {
            let mut stream = Asker::at(who)?.tcp()?;
            ensure!(ask(&mut stream)? == "NOERROR", "{who}");
            open.push(stream);
        }
        let mut more = Asker::at(who)?.tcp()?;
        ensure!(matches!(more.read(&mut [0; 1]), Ok(0) | Err(_)), "{who}");
    }
    ensure!(limit_hits("connections")? == 2.0);
    open.clear();
    let reopened =
        || -> Result<bool> { Ok(ask(&mut Asker::at(APP)?.tcp()?).is_ok_and(|code| code == "NOERROR")) };
    let end = std::time::Instant::now() + exeat_tests::origin::PATIENCE;
    while !reopened()? {
        ensure!(std::time::Instant::now() < end, "no place came back");
    }
    setup.exeat.stop()
}

/// A client has as many virtual addresses as the network has. Who asks for one more has no answer, rather than the address of
/// a name that is in use.
pub(crate) fn virtual_addresses_run_out() -> Result<()> {
    let setup = Setup::new("allow = []", "", "")?;
    let dns =
        "mode = \"virtual\"\nvirtual = [\"198.18.0.0/28\", \"fd65:7865:6174::/96\"]\nqueries_per_second = 0";
    let of_other = format!(
        "[policy.other]\nallow = [\"*.example.org\"]\n[workload.other]\naddresses = [\"{OTHER}/32\"]\npolicies = [\"other\"]\n"
    );
    let listen = format!("\"{PROXY}\", {{ address = \"0.0.0.0:3141\", redirected = true }}");
    let config =
        config("allow = [\"*.example.org\"]", dns, &of_other).replace(&format!("\"{PROXY}\""), &listen);
    let mut setup = setup.serve(&config)?;
    let label = |n: usize| format!("n{n}.example.org");
    let mut told = Vec::new();
    for n in 0..14 {
        let answer = setup.ask(&label(n))?;
        ensure!(answer.code() == "NOERROR" && answer.addresses().len() == 1, "{n}: {answer:?}");
        told.extend(answer.addresses());
    }
    for (who, n, kind, want) in [
        (APP, 14, RecordType::A, "SERVFAIL"),
        (APP, 15, RecordType::AAAA, "SERVFAIL"),
        (APP, 3, RecordType::A, "NOERROR"),
        (APP, 3, RecordType::AAAA, "NOERROR"),
        (OTHER, 14, RecordType::A, "NOERROR"),
    ] {
        let answer = Asker::at(who)?.ask(&label(n), kind)?;
        ensure!(answer.code().starts_with(want), "{who} {n} {kind}: {answer:?}");
        ensure!(answer.addresses().is_empty() == (want == "SERVFAIL"), "{who} {n} {kind}: {answer:?}");
    }
    ensure!(setup.ask(&label(3))?.addresses() == told[3..4], "it has kept its address");
    told.sort_unstable();
    told.dedup();
    ensure!(told.len() == 14, "{told:?}");
    ensure!(limit_hits("virtual")? == 2.0);
    let record = setup.record(&label(15), |_| true)?;
    ensure!(record["reason"] == "dns_failed" && record["principal"]["name"] == "app", "{record}");
    setup.exeat.stop()
}
