//! Open tunnels and responses when the policy changes, and what a restart must not forget.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, PASSWORD, ask, configuration, echoes, get, tunnel};
use exeat_tests::http::Reply;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;

/// Where the metrics are.
const API: &str = "127.0.0.1:9128";

/// Ten times the second within which a flow that is no longer allowed ends.
const BOUND: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    harness::main(scenarios![
        a_reload_ends_what_it_no_longer_allows_and_nothing_else,
        curl_takes_no_part_for_the_whole,
        report_mode_that_is_enforced_keeps_what_the_rules_allow,
        a_quarantine_outlives_the_process,
        a_damaged_quarantine_lets_nobody_out,
    ])
}

/// Reads the configuration again and waits until the proxy has.
fn reload(exeat: &mut Exeat, world: &World, policy: &str) -> Result<()> {
    Exeat::write_config(world.directory(), &configuration(policy, ""))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    exeat.wait_for_output("open flows decided on again").map(drop)
}

/// Reads until the tunnel is reset.
fn until_reset(tunnel: &mut impl Read) -> Result<()> {
    let mut bytes = vec![0; 65_536];
    loop {
        match tunnel.read(&mut bytes) {
            Ok(0) => anyhow::bail!("a clean end"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("the tunnel"),
        }
    }
}

/// Bytes that no loss or repetition leaves the same.
fn pattern(length: usize) -> Vec<u8> {
    let words = (0_u64..).flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    words.take(length).collect()
}

/// Sends to everybody who connects for as long as they take it.
fn flood(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || while stream.write_all(&vec![7; 1 << 20]).is_ok() {});
        }
    });
    Ok(())
}

/// Bytes of tunnels so far: those that the kernel moved, and those that were copied.
fn relayed() -> Result<[f64; 2]> {
    let asked = format!("GET /metrics HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    let text = String::from_utf8(Raw::connect(API.parse()?)?.ask(asked)?.body)?;
    let number = |path: &str| -> Result<f64> {
        let name = format!("exeat_relay_bytes_total{{path=\"{path}\"}} ");
        Ok(text.lines().find_map(|line| line.strip_prefix(&name)).context(name.clone())?.parse()?)
    };
    Ok([number("splice")?, number("copy")?])
}

/// Reads what a flood sends until the tunnel is reset, at full speed.
fn drain(mut tunnel: Raw) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || until_reset(&mut tunnel))
}

/// Waits until the one tunnel that moves anything is in the hands of the kernel: of 64 MiB few are copied.
fn wait_for_full_speed(exeat: &mut Exeat) -> Result<()> {
    const BULK: f64 = (64 << 20) as f64;
    let mut before = relayed()?;
    exeat.until("the kernel to relay", |_| {
        let now = relayed()?;
        let [spliced, copied] = [now[0] - before[0], now[1] - before[1]];
        if spliced < BULK {
            return Ok(None);
        }
        before = now;
        Ok((copied < spliced / 4.0).then_some(()))
    })
}

fn a_reload_ends_what_it_no_longer_allows_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    world.dns.set("flood.example.org", Entry::addresses(&["93.184.216.99"]));
    flood("93.184.216.99:8000")?;
    let before = r#"allow = ["mail.example.org:25", "flood.example.org:8000", "a.example.org:25"]"#;
    let api = format!("[api]\nlisten = \"{API}\"\n");
    let mut exeat = Exeat::serve(world.directory(), &configuration(before, &api), PROXY)?;
    let mut idle = tunnel("mail.example.org")?;
    let (busy, reply) = ask("CONNECT flood.example.org:8000")?;
    ensure!(reply.status == 200, "{reply:?}");
    let draining = drain(busy);
    wait_for_full_speed(&mut exeat)?;

    let mut allowed = tunnel("a.example.org")?;
    let sent = pattern(64 << 20);
    let mut sends = allowed.writer()?;
    let sending = thread::spawn({
        let sent = sent.clone();
        move || sends.write_all(&sent)
    });
    // All that should move is moving.
    let mut received = allowed.exactly(1 << 20)?;

    let after = configuration(r#"allow = ["a.example.org:25"]"#, &api);
    Exeat::write_config(world.directory(), &after)?;
    let changed = Instant::now();
    exeat.signal(Signal::SIGHUP)?;
    until_reset(&mut idle).context("the idle one")?;
    draining.join().ok().context("the reader")?.context("the one at full speed in the kernel")?;
    ensure!(changed.elapsed() < BOUND, "{:?}", changed.elapsed());
    received.extend(allowed.exactly(sent.len() - received.len())?);
    ensure!(received == sent, "the one that stays carries every byte");
    sending.join().ok().context("the sender")??;
    allowed.finish()?;
    allowed.closed()?;

    let ended = |records: &[serde_json::Value]| {
        let ends = records.iter().filter(|record| record["event"] == "end");
        ends.map(|record| (record["name"].to_string(), record.clone())).collect::<BTreeMap<_, _>>()
    };
    let records = exeat.audit_until("three ends", |records| ended(records).len() == 3)?;
    for (name, end, verdict) in [
        ("mail.example.org", "policy_changed", "deny"),
        ("flood.example.org", "policy_changed", "deny"),
        ("a.example.org", "finished", "allow"),
    ] {
        let record = &ended(&records)[&format!("\"{name}\"")];
        ensure!(record["end"] == end && record["verdict"] == verdict && record["revision"] == 2, "{record}");
    }
    let kept = &ended(&records)["\"a.example.org\""];
    ensure!(kept["rule"]["text"] == "a.example.org:25" && kept["bytes_up"] == sent.len(), "{kept}");
    exeat.stop()
}

/// A download that is cut by a reload fails, through a tunnel and as a forwarded request.
fn curl_takes_no_part_for_the_whole() -> Result<()> {
    let page = Arc::new(vec![b'x'; 64 << 20]);
    let world = World::serving(Arc::new(move |_| Reply::new(200, page.as_slice())))?;
    for scheme in ["https", "http"] {
        let before = configuration(r#"allow = ["example.com"]"#, "");
        let mut exeat = Exeat::serve(world.directory(), &before, PROXY)?;
        let curl = Client::new("curl", world.directory())
            .args(["-sS", "--limit-rate", "1M", "-o", "part", "--cacert", &world.ca_file()])
            .args(["-x", PROXY, "-U", &format!("{CLIENT}:{PASSWORD}")])
            .args([&format!("{scheme}://example.com/")]);
        let running = thread::spawn(move || curl.run());
        let part = world.directory().join("part");
        let end = Instant::now() + BOUND;
        while fs::metadata(&part).map_or(0, |metadata| metadata.len()) == 0 {
            ensure!(Instant::now() < end, "curl gets nothing");
            thread::sleep(Duration::from_millis(10));
        }
        Exeat::write_config(world.directory(), &configuration(r#"allow = ["example.org"]"#, ""))?;
        exeat.signal(Signal::SIGHUP)?;
        let done = running.join().ok().context("curl")??;
        ensure!(done.code == 56, "{scheme}: {done:?}");
        exeat.audit_record("its end", |(_, record)| record["end"] == "policy_changed")?;
        exeat.stop()?;
        fs::remove_file(part)?;
        fs::remove_file(world.directory().join("audit.jsonl"))?;
    }
    Ok(())
}

/// What report mode let through without asking for its opening has been seen all the same.
fn report_mode_that_is_enforced_keeps_what_the_rules_allow() -> Result<()> {
    let world = World::new()?;
    let report = r#"mode = "report""#;
    let mut exeat = Exeat::serve(world.directory(), &configuration(report, ""), PROXY)?;
    let tls = |host: &str| -> Result<_> {
        let (tunnel, reply) = ask(&format!("CONNECT {host}:443"))?;
        ensure!(reply.status == 200, "{host}: {reply:?}");
        world.authority.connect(host, tunnel)
    };
    let mut allowed = tls("a.example.org")?;
    let mut refused = tls("example.com")?;
    let mut not_tls = ask("CONNECT b.example.org:25")?.0;
    ensure!(not_tls.exactly(GREETING.len())? == GREETING.as_bytes());
    // The same again: nobody notices.
    reload(&mut exeat, &world, report)?;
    echoes(&mut not_tls)?;

    let enforce = configuration(
        r#"allow = ["a.example.org", { host = "b.example.org", ports = [25], expect = "tls" }]"#,
        "",
    );
    Exeat::write_config(world.directory(), &enforce)?;
    exeat.signal(Signal::SIGHUP)?;
    until_reset(&mut refused.sock).context("not in the rules")?;
    until_reset(&mut not_tls).context("not what the rule expects")?;
    allowed.write_all(b"GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n")?;
    let mut page = String::new();
    while !page.ends_with("hello from a.example.org\n") {
        let mut bytes = [0; 1024];
        let count = allowed.read(&mut bytes)?;
        ensure!(count > 0, "{page}");
        page += &String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
    }
    drop(allowed);
    exeat.stop()
}

/// A configuration with a state directory.
fn with_state() -> String {
    configuration(r#"allow = ["example.com"]"#, "[state]\ndirectory = \"state\"\n")
}

fn a_quarantine_outlives_the_process() -> Result<()> {
    let world = World::new()?;
    let state = world.directory().join("state");
    fs::create_dir(&state)?;
    fs::write(state.join("quarantine"), "exeat quarantine 1\nclient app\n")?;
    let exeat = Exeat::serve(world.directory(), &with_state(), PROXY)?;
    let refused = get("example.com/")?;
    ensure!(refused == (403, Some("policy_changed".to_owned())), "{refused:?}");
    ensure!(world.accepts() == 0 && world.dns.names().is_empty(), "{:?}", world.reached());
    exeat.stop()?;

    fs::write(state.join("quarantine"), "exeat quarantine 1\nclient another\nlabel space=dev\n")?;
    let exeat = Exeat::serve(world.directory(), &with_state(), PROXY)?;
    ensure!(get("example.com/")?.0 == 200);
    exeat.stop()
}

fn a_damaged_quarantine_lets_nobody_out() -> Result<()> {
    let world = World::new()?;
    let state = world.directory().join("state");
    fs::create_dir(&state)?;
    fs::write(state.join("quarantine"), "exeat quarantine 1\nclient app\nclient ano")?;
    let path = Exeat::write_config(world.directory(), &with_state())?;
    let mut exeat = Exeat::spawn(world.directory(), &["serve", "--config", &path.to_string_lossy()])?;
    let status = exeat.wait()?;
    let printed = exeat.stderr();
    ensure!(status.code() == Some(1), "{status}: {printed}");
    ensure!(printed.contains("quarantine:3: not a quarantined principal"), "{printed}");
    Ok(())
}
