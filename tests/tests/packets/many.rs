//! Much that names have opened is taken away at once: in a few steps, and nobody else has to wait for them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use exeat_tests::asker::Asker;
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::firewalled::{Stage, TWO, config};
use exeat_tests::scrape::scrape;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

const MAIL: &str = "93.184.216.35:25";
/// Names, and the addresses of each. With ports 80 and 443 that makes 2,400 elements of the kernel's set.
const NAMES: u8 = 40;
const ADDRESSES: u8 = 30;
const WIDE: &str = r#"allow = ["*.example.org", "mail.example.org:25"]"#;
const NARROW: &str = r#"allow = ["example.com"]"#;
/// Transactions that a change may take: some for the rules and for each set, and those of others who ask meanwhile. One for
/// each element were thousands.
const TRANSACTIONS_MAX: f64 = 100.0;

/// The first client asks for all of the names.
fn fill(stage: &Stage) -> Result<()> {
    for number in 0..NAMES {
        let addresses: Vec<String> =
            (0..ADDRESSES).map(|last| format!("93.184.{}.{last}", 120 + number)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        stage.world.dns.set(&format!("m{number}.example.org"), Entry::addresses(&addresses));
    }
    let client = stage.lan.clients.first().context("a client")?;
    client.run(|| {
        let asker = Asker::at("10.88.1.2")?.of("10.88.1.1:53")?;
        for number in 0..NAMES {
            let told = asker.ask(&format!("m{number}.example.org"), RecordType::A)?;
            ensure!(told.addresses().len() == usize::from(ADDRESSES), "{told:?}");
        }
        Ok(())
    })?;
    ensure!(stage.connect(1, "93.184.120.0:443")?.is_some(), "what was told is closed");
    Ok(())
}

/// Changes that the kernel was told to make, done or not.
fn transactions(stage: &Stage) -> Result<f64> {
    let numbers = stage.lan.router.run(scrape)?;
    let number = |result: &str| {
        let name = format!("exeat_firewall_commits_total{{result=\"{result}\"}}");
        numbers.get(&name).copied().with_context(|| format!("no {name}"))
    };
    Ok(number("done")? + number("failed")?)
}

/// Asks again and again as the second client until it is told to stop: each question is answered.
fn ask_on(stage: &Stage, answered: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
    let client = stage.lan.clients.get(1).context("a client")?;
    client.run(|| {
        let asker = Asker::at("10.88.2.2")?.of("10.88.2.1:53")?;
        while !stop.load(Ordering::Relaxed) {
            let told = asker.ask("mail.example.org", RecordType::A)?;
            ensure!(told.addresses().len() == 1, "{told:?}");
            answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
}

pub(crate) fn much_is_taken_away_at_once_and_nobody_else_waits() -> Result<()> {
    let stage = Stage::start(WIDE, TWO)?;
    fill(&stage)?;
    let one = stage.traffic(1, "mail.example.org", MAIL)?;
    let two = stage.traffic(2, "mail.example.org", MAIL)?;
    let before = transactions(&stage)?;
    let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_on(&stage, &answered, &stop));
        let result = (|| {
            let done = stage.ours(&["quarantine", "workload=one"])?;
            ensure!(done.code == 0, "{done:?}");
            one.cut().context("the first client's")?;
            two.goes_on().context("the other client's")
        })();
        stop.store(true, Ordering::Relaxed);
        result.and(asking.join().ok().context("who asks")?)
    });
    result.with_context(|| stage.exeat.stderr())?;
    // What is answered opens something each time.
    let asked = f64::from(u32::try_from(answered.load(Ordering::Relaxed))?);
    ensure!(stage.connect(1, "93.184.120.0:443")?.is_none(), "it can connect");
    // A second change, once the first is through or while it is not.
    let done = stage.ours(&["quarantine", "workload=two"])?;
    ensure!(done.code == 0, "{done:?}");
    two.cut().context("the second client's").with_context(|| stage.exeat.stderr())?;
    ensure!(stage.connect(2, MAIL)?.is_none(), "it can connect, too");
    let took = transactions(&stage)? - before - asked;
    ensure!(took <= TRANSACTIONS_MAX, "{took} transactions, besides {asked} answers");
    ensure!(stage.opened()? == BTreeSet::new(), "something is open");
    stage.exeat.stop()
}

pub(crate) fn the_next_process_takes_much_away_at_once() -> Result<()> {
    let mut stage = Stage::start(WIDE, TWO)?;
    fill(&stage)?;
    stage.exeat.signal(Signal::SIGKILL)?;
    stage.exeat.wait()?;
    Exeat::write_config(stage.world.directory(), &config(NARROW, TWO))?;
    stage.again()?;
    let took = transactions(&stage)?;
    ensure!(took <= TRANSACTIONS_MAX, "{took} transactions");
    ensure!(stage.connect(1, "93.184.120.0:443")?.is_none(), "it is still open");
    ensure!(stage.opened()? == BTreeSet::new(), "something is open");
    stage.exeat.stop()
}
