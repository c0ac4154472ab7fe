//! Who asks, with programs that people use.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use exeat_tests::asker::Asker;
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::namespace::PROXY;
use exeat_tests::world::World;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

use crate::setup::{APP, NOWHERE, OTHER, Setup, config};

fn dig(setup: &Setup, args: &[&str]) -> Result<Outcome> {
    let standard = ["@10.99.0.1", "-b", APP, "+tries=1", "+time=20"];
    Client::new("dig", setup.world.directory()).args(standard).args(args).run()
}

pub(crate) fn dig_by_udp_and_tcp() -> Result<()> {
    let mut setup = Setup::new("allow = [\"example.com\"]", "", "")?;
    for carrier in ["+notcp", "+tcp"] {
        let told = dig(&setup, &[carrier, "+short", "example.com", "A", "example.com", "AAAA"])?;
        ensure!(told.out == "93.184.216.34\n2606:2800:220:1::34\n", "{carrier}: {told:?}");
        let told = dig(&setup, &[carrier, "secret.evil.test"])?;
        ensure!(told.out.contains("status: NXDOMAIN"), "{carrier}: {told:?}");
        ensure!(told.out.contains("EDE: 15 (Blocked): (host_not_allowed)"), "{carrier}: {told:?}");
    }
    setup.asked_for(&["example.com"])?;
    let by_a = |record: &serde_json::Value| record["method"] == "A";
    let records = setup.exeat.audit_until("all questions", |records| records.len() == 6)?;
    let allowed = records.iter().find(|record| record["name"] == "example.com" && by_a(record));
    let allowed = allowed.context("the first question")?;
    for (field, want) in [
        ("event", "dns"),
        ("verdict", "allow"),
        ("rcode", "NOERROR"),
        ("workload", "app"),
        ("target", "example.com."),
        ("mode", "enforce"),
    ] {
        ensure!(allowed[field] == want, "{field} in {allowed}");
    }
    ensure!(allowed["principal"]["name"] == "app" && allowed["principal"]["proof"] == "origin", "{allowed}");
    ensure!(allowed["rule"]["text"] == "example.com" && allowed["revision"] == 1, "{allowed}");
    ensure!(allowed["answers"] == serde_json::json!(["93.184.216.34"]), "{allowed}");
    ensure!(allowed["source"].as_str().is_some_and(|source| source.starts_with(APP)), "{allowed}");
    let denied = records.iter().find(|record| record["name"] == "secret.evil.test").context("denied")?;
    ensure!(denied["verdict"] == "deny" && denied["reason"] == "host_not_allowed", "{denied}");
    ensure!(denied["rcode"] == "NXDOMAIN" && denied["answers"].is_null(), "{denied}");
    setup.exeat.stop()
}

/// `[::]` alone takes IPv4 too; beside `0.0.0.0` each takes its own, and answers come from the address that was asked.
pub(crate) fn every_address_of_both_families_is_served() -> Result<()> {
    let listening = |dns: &str, proxy: &str| {
        let local = "[workload.local]\naddresses = [\"127.0.0.0/8\", \"::1/128\", \"10.99.0.1/32\"]\npolicies = [\"app\"]\n";
        config("allow = [\"example.com\"]", "", local)
            .replace("listen = [\"10.99.0.1\"]", &format!("listen = [{dns}]"))
            .replace(&format!("listen = [\"{PROXY}\"]"), &format!("listen = [{proxy}]"))
    };
    let mut setup = Setup::new("allow = [\"example.com\"]", "", "")?;
    for (dns, proxy) in [
        ("\"[::]:5300\"", "\"[::]:3128\""),
        ("\"0.0.0.0:5300\", \"[::]:5300\"", "\"0.0.0.0:3128\", \"[::]:3128\""),
        ("\"[::]:5300\", \"0.0.0.0:5300\"", "\"[::]:3128\", \"0.0.0.0:3128\""),
    ] {
        setup = setup.serve(&listening(dns, proxy))?;
        for server in ["127.0.0.1", "127.0.0.9", "10.99.0.1", "::1"] {
            for carrier in ["+notcp", "+tcp"] {
                let asked = [&format!("@{server}"), "-p", "5300", carrier, "+tries=1", "+time=20", "+short"];
                let told =
                    Client::new("dig", setup.world.directory()).args(asked).args(["example.com"]).run()?;
                ensure!(told.out == "93.184.216.34\n", "{dns}: {server} {carrier}: {told:?}");
            }
            let host = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
            let proxy_url = format!("http://{host}:3128");
            let curl = ["-sS", "--max-time", "20", "-x", &proxy_url, "http://example.com/"];
            let told = Client::new("curl", setup.world.directory()).args(curl).run()?;
            ensure!(told.out == "hello from example.com\n", "{proxy}: {server}: {told:?}");
        }
    }
    setup.exeat.stop()
}

pub(crate) fn each_client_has_its_own_policy() -> Result<()> {
    let extra = format!(
        "[policy.other]\nallow = [\"*.example.org\"]\n[workload.other]\naddresses = [\"{OTHER}/32\"]\npolicies = [\"other\"]\n"
    );
    let setup = Setup::new("allow = [\"example.com\"]", "", &extra)?;
    for (client, name, want) in [
        (APP, "example.com", "NOERROR"),
        (APP, "www.example.org", "NXDOMAIN host_not_allowed"),
        (OTHER, "example.com", "NXDOMAIN host_not_allowed"),
        (OTHER, "www.example.org", "NOERROR"),
        (NOWHERE, "example.com", "REFUSED auth_required"),
        (NOWHERE, "www.example.org", "REFUSED auth_required"),
    ] {
        let told = Asker::at(client)?.ask(name, RecordType::A)?;
        ensure!(told.code() == want, "{client} {name}: {told:?}");
        ensure!((told.addresses().len() == 1) == (want == "NOERROR"), "{client} {name}: {told:?}");
    }
    setup.asked_for(&["example.com", "www.example.org"])?;

    // Who is not known has the policy of the anonymous, where there is one.
    let listen = format!("listen = [\"{PROXY}\"]");
    let config = config("allow = [\"example.com\"]", "", "")
        .replace(&listen, &format!("{listen}\nanonymous = \"app\""));
    let setup = setup.serve(&config)?;
    let told = Asker::at(NOWHERE)?.ask("example.com", RecordType::A)?;
    ensure!(told.code() == "NOERROR" && told.addresses().len() == 1, "{told:?}");
    let told = Asker::at(NOWHERE)?.ask("example.org", RecordType::A)?;
    ensure!(told.code() == "NXDOMAIN host_not_allowed", "{told:?}");
    setup.exeat.stop()
}

fn exeat_says(world: &World, args: &[&str]) -> Result<String> {
    let done = Command::new(binary()?).args(args).current_dir(world.directory()).output()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    Ok(said)
}

pub(crate) fn what_decides_changes_at_once() -> Result<()> {
    let mut setup = Setup::new("allow = [\"example.com\"]", "", "")?;
    ensure!(setup.ask("example.com")?.code() == "NOERROR");
    let directory = setup.world.directory().to_owned();
    Exeat::write_config(&directory, &config("allow = [\"example.org\"]", "", ""))?;
    exeat_says(&setup.world, &["reload", "--socket", "admin.sock"])?;
    // Though it is in the cache.
    ensure!(setup.ask("example.com")?.code() == "NXDOMAIN host_not_allowed");
    ensure!(setup.ask("example.org")?.code() == "NOERROR");
    exeat_says(&setup.world, &["quarantine", "--socket", "admin.sock", "workload=app"])?;
    ensure!(setup.ask("example.org")?.code() == "NXDOMAIN policy_changed");
    exeat_says(&setup.world, &["quarantine", "--socket", "admin.sock", "--release", "workload=app"])?;
    ensure!(setup.ask("example.org")?.code() == "NOERROR");
    // A file that cannot be used changes nothing.
    fs::write(directory.join("exeat.toml"), "[dns\n")?;
    setup.exeat.signal(Signal::SIGHUP)?;
    setup.exeat.until_logged("reload refused")?;
    ensure!(setup.ask("example.org")?.code() == "NOERROR");
    setup.exeat.stop()
}

/// Runs a command whose `/etc/resolv.conf` names the product alone.
fn resolving(setup: &Setup, command: &str) -> Result<Outcome> {
    let home = setup.world.directory();
    fs::write(home.join("resolv.conf"), "nameserver 10.99.0.1\noptions timeout:20 attempts:1\n")?;
    let script = format!("umount /etc/resolv.conf && mount --bind resolv.conf /etc/resolv.conf && {command}");
    Client::new("unshare", home).args(["-m", "sh", "-c", &script]).run()
}

pub(crate) fn curl_and_getent_use_it_as_their_resolver() -> Result<()> {
    // What asks on this host comes from the address that it asks at.
    let extra = "[workload.host]\naddresses = [\"10.99.0.1/32\"]\npolicies = [\"app\"]\n";
    let setup = Setup::new("allow = [\"example.com\", \"*.example.org\"]", "", extra)?;
    let told = resolving(&setup, "curl -sS http://example.com/ && curl -sS -6 http://www.example.org/")?;
    ensure!(told.out == "hello from example.com\nhello from www.example.org\n", "{told:?}");
    let told = resolving(&setup, "curl -sS http://evil.test/")?;
    ensure!(told.code == 6 && told.err.contains("Could not resolve host: evil.test"), "{told:?}");
    let told = resolving(&setup, "getent ahosts example.com")?;
    ensure!(told.out.contains("93.184.216.34") && told.out.contains("2606:2800:220:1::34"), "{told:?}");
    let told = resolving(&setup, "getent hosts evil.test")?;
    ensure!(told.code == 2 && told.out.is_empty(), "{told:?}");
    setup.asked_for(&["example.com", "www.example.org"])?;
    ensure!(setup.world.accepts() == 2, "{:?}", setup.world.reached());
    setup.exeat.stop()
}

pub(crate) fn report_mode_lets_names_through_and_says_so() -> Result<()> {
    let mut setup = Setup::new("allow = [\"example.com\"]\nmode = \"report\"", "", "")?;
    ensure!(setup.ask("example.com")?.code() == "NOERROR");
    ensure!(setup.ask("example.org")?.code() == "NOERROR");
    let record = setup.record("example.com", |_| true)?;
    ensure!(record["mode"] == "report" && record["would_deny"].is_null(), "{record}");
    let record = setup.record("example.org", |_| true)?;
    ensure!(record["verdict"] == "allow" && record["would_deny"] == "host_not_allowed", "{record}");
    // What is not public stays closed.
    setup.world.dns.set("inside.example.org", exeat_tests::dns::Entry::addresses(&["10.0.0.5"]));
    ensure!(setup.ask("inside.example.org")?.code() == "NXDOMAIN address_not_allowed");
    ensure!(setup.ask("printer.local")?.code() == "NXDOMAIN host_not_allowed");
    setup.exeat.stop()
}

pub(crate) fn no_answer_without_its_record() -> Result<()> {
    let world = World::new()?;
    let full = config("allow = [\"example.com\"]", "", "")
        .replace("file = \"AUDIT\"", "file = \"/dev/full\"\nrequired = true");
    let exeat = Exeat::serve(world.directory(), &full, PROXY)?;
    let told = Asker::at(APP)?.ask("example.com", RecordType::A)?;
    ensure!(told.code() == "SERVFAIL audit_unavailable" && told.addresses().is_empty(), "{told:?}");
    let told = Asker::at(APP)?.ask("evil.test", RecordType::A)?;
    ensure!(told.code() == "NXDOMAIN host_not_allowed", "{told:?}");
    exeat.stop()
}
