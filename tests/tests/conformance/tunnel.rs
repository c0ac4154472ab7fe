//! How long a tunnel lives.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::configuration;
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::{Origin, Service};
use exeat_tests::world::GREETING;
use nix::sys::signal::Signal;

use crate::stage::{Case, POLICY, Stage, case};

/// A policy with origins that speak first.
const OPEN: &str = r#"allow = ["example.com", "mail.example.org:25", "bulk.example.org:7000"]"#;

pub(crate) const CASES: &[Case] = &[
    case("TUN-05", |s| {
        let mut tunnel = s.opens("mail.example.org:25")?;
        ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
        tunnel.rest()?;
        s.record("the end of an idle tunnel", |r| r["event"] == "end" && r["end"] == "idle_timeout")?;
        Ok(())
    })
    .policy(OPEN)
    .with("[limits]\nidle_timeout = \"500ms\"\n"),
    case("TUN-07", half_close).policy(OPEN),
    case("TUN-09", slow_tunnel).policy(OPEN).with("[limits]\nidle_timeout = \"2s\"\nconnect_timeout = \"500ms\"\nopening_timeout = \"500ms\"\nhead_timeout = \"500ms\"\n"),
    case("TUN-10", reload_keeps_tunnels).policy(OPEN),
    case("TUN-10-stop", a_stop_drains_tunnels).policy(OPEN).with("[limits]\ndrain_timeout = \"2s\"\n"),
];

/// The client has said all it will say; the server goes on for 64 MiB more.
fn half_close(stage: &mut Stage) -> Result<()> {
    const BULK: usize = 64 << 20;
    let service: Service = Arc::new(|peer| {
        let mut request = Vec::new();
        peer.read_to_end(&mut request)?;
        let block = vec![b'x'; 1 << 20];
        (0..BULK / block.len()).try_for_each(|_| peer.write_all(&block))?;
        peer.finish()
    });
    let bulk = Origin::start("93.184.216.35:7000".parse()?, service)?;
    stage.resolves("bulk.example.org", &["93.184.216.35"]);
    let mut tunnel = stage.opens("bulk.example.org:7000")?;
    tunnel.send("all of it, please")?;
    tunnel.finish()?;
    let got = tunnel.rest()?;
    ensure!(got.len() == BULK, "{} bytes came", got.len());
    ensure!(bulk.seen().iter().all(|seen| seen.received == b"all of it, please"));
    let end = stage.record("the end", |r| r["event"] == "end")?;
    ensure!(end["bytes_down"] == BULK && end["bytes_up"] == 17, "{end}");
    Ok(())
}

/// Neither the connect, the opening nor the head timer bounds the life of a tunnel in use.
fn slow_tunnel(stage: &mut Stage) -> Result<()> {
    let service: Service = Arc::new(|peer| {
        for _ in 0..15 {
            peer.write_all(b"tick\n")?;
            std::thread::sleep(Duration::from_millis(200));
        }
        peer.finish()
    });
    let _bulk = Origin::start("93.184.216.35:7000".parse()?, service)?;
    stage.resolves("bulk.example.org", &["93.184.216.35"]);
    let mut tunnel = stage.opens("bulk.example.org:7000")?;
    let got = tunnel.rest()?;
    ensure!(got == b"tick\n".repeat(15), "{:?}", String::from_utf8_lossy(&got));
    Ok(())
}

/// A reload that still allows a tunnel does not touch it; a listener that stays is not closed meanwhile.
fn reload_keeps_tunnels(stage: &mut Stage) -> Result<()> {
    let mut tunnel = stage.opens("mail.example.org:25")?;
    tunnel.exactly(GREETING.len())?;
    let policy = r#"allow = ["example.com", "mail.example.org:25", "added.example.org"]"#;
    Exeat::write_config(stage.world.directory(), &configuration(policy, ""))?;
    stage.exeat.signal(Signal::SIGHUP)?;
    stage.exeat.wait_for_output("reloaded")?;
    tunnel.send("still here")?;
    ensure!(tunnel.exactly(10)? == b"still here");
    stage.reaches_tls("added.example.org:443")?;
    tunnel.send("and here")?;
    ensure!(tunnel.exactly(8)? == b"and here");
    ensure!(!POLICY.contains("added"));
    Ok(())
}

/// After SIGTERM nothing new is accepted, and what is open goes on until it ends or `drain_timeout` does.
fn a_stop_drains_tunnels(stage: &mut Stage) -> Result<()> {
    let mut one = stage.opens("mail.example.org:25")?;
    let mut other = stage.opens("mail.example.org:25")?;
    one.exactly(GREETING.len())?;
    other.exactly(GREETING.len())?;
    stage.exeat.signal(Signal::SIGTERM)?;
    stage.exeat.wait_until_closed(PROXY.parse()?)?;
    for tunnel in [&mut one, &mut other] {
        tunnel.send("still here")?;
        ensure!(tunnel.exactly(10)? == b"still here");
    }
    one.finish()?;
    one.closed()?;
    stage.record("the first end", |r| r["event"] == "end" && r["end"] == "finished")?;
    other.closed()?;
    stage.record("the second end", |r| r["event"] == "end" && r["end"] == "draining")?;
    Ok(())
}
