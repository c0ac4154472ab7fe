//! A client that comes after the lifetime of what a name had opened for it: refused, and told from one that never asked.

use anyhow::{Context, Result, ensure};
use exeat_tests::firewalled::{ONE, Stage, TWO};
use exeat_tests::scrape::scrape;
use nix::sys::signal::Signal;

const FOUR: &str = "93.184.216.70:5432";
const MAIL_ELSEWHERE: &str = "93.184.216.35:26";
/// What the kernel has of [`FOUR`], as `nft` writes it.
const ELEMENT: &str = "10.88.1.2 . 93.184.216.70 . tcp . 5432";

/// Runs `nft` in the router. Returns whether it worked.
fn nft(stage: &Stage, order: &str) -> Result<bool> {
    Ok(stage.lan.router.command("nft").arg(order).output()?.status.success())
}

/// No lifetime is shorter than ten minutes, so that the kernel's is shortened while nobody looks: the next process takes
/// over what it finds with the time that it has left.
pub(crate) fn who_comes_too_late_is_on_record_as_that() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    stage.traffic(1, "four.example.com", FOUR)?.end()?;
    ensure!(stage.told(1, "mail.example.org", "A")? == ["93.184.216.35"]);
    stage.exeat.signal(Signal::SIGKILL)?;
    stage.exeat.wait()?;
    let shorten = format!(
        "delete element inet exeat names4 {{ {ELEMENT} }}; add element inet exeat names4 \
         {{ {ELEMENT} timeout 600s expires 10s comment \"four.example.com\" }}"
    );
    ensure!(
        nft(&stage, &shorten)?,
        "it is not open: {:?}",
        stage.lan.router.command("nft").arg(shorten).output()?
    );
    stage.again()?;
    let row = ("10.88.1.2".to_owned(), "four.example.com".to_owned(), "93.184.216.70".to_owned());
    ensure!(stage.opened()?.contains(&row), "it has not been taken over: {:?}", stage.opened()?);

    // A connection would renew it.
    let get = format!("get element inet exeat names4 {{ {ELEMENT} }}");
    let router = &stage.lan.router;
    stage.exeat.until("its time to end", |_| {
        Ok((!router.command("nft").arg(&get).output()?.status.success()).then_some(()))
    })?;
    ensure!(stage.connect(1, FOUR)?.is_none(), "it is still open");
    stage.packet(1, FOUR, "ip_literal_not_allowed", &["four.example.com"])?;
    // Neither who asked and still has time, nor who never asked.
    ensure!(stage.connect(1, MAIL_ELSEWHERE)?.is_none(), "the port is open");
    stage.packet(1, MAIL_ELSEWHERE, "port_not_allowed", &["mail.example.org"])?;
    ensure!(stage.connect(2, FOUR)?.is_none(), "it is open to another client");
    stage.packet(2, FOUR, "ip_literal_not_allowed", &["four.example.com"])?;

    let records = stage.exeat.audit()?;
    let packets = records.iter().filter(|record| record["event"] == "packet");
    let packets: Vec<_> =
        packets.map(|record| (&record["principal"]["name"], &record["target"], &record["end"])).collect();
    for (client, target, end) in &packets {
        let is_late = **client == "one" && **target == FOUR;
        ensure!(
            **end == if is_late { "name_expired".into() } else { serde_json::Value::Null },
            "{packets:?}"
        );
    }
    ensure!(packets.len() == 3, "{packets:?}");
    let numbers = stage.lan.router.run(scrape)?;
    let number = numbers.get("exeat_firewall_names_expired_total").context("a number")?;
    ensure!(*number == 1.0, "{number}");

    // Asked for again, it is open again.
    stage.traffic(1, "four.example.com", FOUR)?.end()?;
    stage.end(&[FOUR, MAIL_ELSEWHERE])
}
