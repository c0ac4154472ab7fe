//! What decides changes while packets flow: what is no longer allowed is cut, and nothing else notices.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::scrape::scrape;
use exeat_tests::servers::{EVERYWHERE, Sshd, USER};
use nix::sys::signal::Signal;

use exeat_tests::firewalled::{ONE, Stage, TWO, config};

use crate::clients::SSH_PORT;

/// Nothing new begins to `to`, and why.
fn closed(stage: &mut Stage, client: usize, to: &str) -> Result<()> {
    ensure!(stage.connect(client, to)?.is_none(), "{to} is still open");
    stage.packet(client, to, "ip_literal_not_allowed", &[])
}

fn took(what: &str, began: Instant, at: Instant) {
    eprintln!("[{what}: cut after {:?}]", at.saturating_duration_since(began));
}

const FOUR: &str = "93.184.216.70:5432";
const SIX: &str = "[2606:2800:220:1::70]:5432";
const MAIL: &str = "93.184.216.35:25";

pub(crate) fn a_reload_cuts_what_it_no_longer_allows() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    let sshd = Sshd::start(stage.world.directory(), EVERYWHERE, SSH_PORT)?;
    let four = stage.traffic(1, "four.example.com", FOUR)?;
    let six = stage.traffic(1, "six.example.com", SIX)?;
    let kept = stage.traffic(1, "mail.example.org", MAIL)?;
    let others = stage.traffic(2, "mail.example.org", MAIL)?;
    // A session of a real client, which prints without end.
    let endless = "while sleep 0.02; do echo still here; done";
    let session = stage.client(1, "ssh")?.args(sshd.options());
    let session = session.args([&format!("{USER}@ssh.example.com"), endless]);
    let session = std::thread::spawn(move || session.run_quietly());

    // A file that was changed, and a signal.
    let allow = |entries: &str| config(&format!("allow = [{entries}]"), TWO);
    let without_four = r#""ssh.example.com:2222", "mail.example.org:25", "six.example.com:5432""#;
    Exeat::write_config(stage.world.directory(), &allow(without_four))?;
    let began = Instant::now();
    stage.exeat.signal(Signal::SIGHUP)?;
    took("SIGHUP", began, four.cut().with_context(|| stage.exeat.stderr())?);
    closed(&mut stage, 1, FOUR)?;
    six.goes_on()?;

    // The same by the command.
    let without_six = r#""ssh.example.com:2222", "mail.example.org:25""#;
    Exeat::write_config(stage.world.directory(), &allow(without_six))?;
    let began = Instant::now();
    let done = stage.ours(&["reload"])?;
    ensure!(done.code == 0, "{done:?}");
    took("reload", began, six.cut().with_context(|| stage.exeat.stderr())?);
    closed(&mut stage, 1, SIX)?;

    // A document by the admin API.
    ensure!(!session.is_finished(), "the session goes on until it is not allowed");
    let only_mail = stage.world.directory().join("only-mail.toml");
    std::fs::write(
        &only_mail,
        std::fs::read_to_string(stage.world.directory().join("exeat.toml"))?
            .replace(r#""ssh.example.com:2222", "#, ""),
    )?;
    let began = Instant::now();
    let done = stage.ours(&["policy", "put", "only-mail.toml"])?;
    ensure!(done.code == 0, "{done:?}");
    let done = session
        .join()
        .ok()
        .context("the session")?
        .map_err(|_| anyhow::anyhow!("{}", stage.exeat.stderr()))?;
    took("policy put", began, Instant::now());
    ensure!(done.code == 255, "a broken connection: {}", done.err);
    ensure!(done.out.starts_with("still here\n"), "{:?}", done.out.get(..80));
    closed(&mut stage, 1, "93.184.216.71:2222")?;
    let numbers = stage.lan.router.run(scrape)?;
    let number = |name: &str| numbers.get(name).copied().with_context(|| format!("no {name}"));
    ensure!(number("exeat_firewall_in_force")? == 1.0, "{numbers:?}");
    ensure!(number("exeat_firewall_flows_cut_total")? == 3.0, "{numbers:?}");
    ensure!(number("exeat_firewall_packets_recorded_total{fate=\"refused\"}")? >= 3.0, "{numbers:?}");
    ensure!(number("exeat_firewall_commits_total{result=\"done\"}")? >= 5.0, "{numbers:?}");
    ensure!(number("exeat_firewall_openings")? == 4.0, "mail, in both families, for both: {numbers:?}");
    kept.end().context("what is allowed throughout")?;
    others.end().context("the other client's")?;
    stage.end(&[FOUR, SIX, "93.184.216.71:2222"])
}

pub(crate) fn a_quarantine_cuts_one_client() -> Result<()> {
    let stage = Stage::start(ONE, TWO)?;
    let one = stage.traffic(1, "mail.example.org", MAIL)?;
    let two = stage.traffic(2, "mail.example.org", MAIL)?;
    let began = Instant::now();
    let done = stage.ours(&["quarantine", "workload=one"])?;
    ensure!(done.code == 0, "{done:?}");
    took("quarantine", began, one.cut().with_context(|| stage.exeat.stderr())?);
    two.goes_on()?;
    ensure!(stage.connect(1, MAIL)?.is_none(), "it can connect");
    let told = stage.client(1, "dig")?.args(["+tries=1", "+time=10", "mail.example.org"]).run()?;
    ensure!(told.out.contains("status: NXDOMAIN") && told.out.contains("(policy_changed)"), "{told:?}");
    ensure!(stage.connect(2, MAIL)?.is_some(), "the other client cannot connect");
    let done = stage.ours(&["quarantine", "workload=one", "--release"])?;
    ensure!(done.code == 0, "{done:?}");
    // It asks again.
    let again = stage.traffic(1, "mail.example.org", MAIL)?;
    again.end()?;
    two.end()?;
    stage.end(&[MAIL])
}

pub(crate) fn bad_reloads_change_nothing() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    let traffic = stage.traffic(1, "mail.example.org", MAIL)?;
    for wrong in ["allow = [\"*\"]", "alow = []", "allow = ["] {
        Exeat::write_config(stage.world.directory(), &config(wrong, TWO))?;
        let done = stage.ours(&["reload"])?;
        ensure!(done.code != 0, "{wrong}: {done:?}");
        traffic.goes_on()?;
        ensure!(stage.connect(1, MAIL)?.is_some(), "{wrong}: what was open is closed");
        ensure!(stage.connect(1, "93.184.216.66:443")?.is_none(), "{wrong}: what was closed is open");
        stage.packet(1, "93.184.216.66:443", "ip_literal_not_allowed", &[])?;
    }
    let opened = stage.traffic(1, "four.example.com", FOUR)?;
    opened.end()?;
    traffic.end()?;
    stage.end(&["93.184.216.66:443"])
}
