//! Connections that the kernel redirects to the proxy: clients that know of no proxy.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_tests::container::Container;
use exeat_tests::exeat::Exeat;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        a_redirected_client_reaches_what_its_policy_names_and_nothing_else,
        what_nobody_redirected_is_refused,
    ])
}

const CONFIG: &str = r#"
[proxy]
listen = ["10.99.0.1:3128", { address = "0.0.0.0:3141", redirected = true }, { address = "[::]:3142", redirected = true }]
[audit]
file = "AUDIT"
[policy.servers]
allow = ["93.184.216.0/26:25,80,443", "[2606:2800:220::/48]:80"]
deny = ["93.184.216.40"]
[workload.one]
addresses = ["10.97.1.2", "fd97:1::2"]
policies = ["servers"]
"#;

/// Has the kernel redirect what comes in by any cable.
fn redirect() -> Result<()> {
    // Every address is local in this world, so what is ours is told by its network.
    let rules = "table inet world {
        chain redirected { type nat hook prerouting priority dstnat;
            iifname \"cable*\" ip daddr != 10.97.0.0/16 meta l4proto tcp redirect to :3141
            iifname \"cable*\" ip6 daddr != fd97::/16 meta l4proto tcp redirect to :3142
        }
    }";
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    nft.stdin.take().context("stdin of nft")?.write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft (package nftables)");
    Ok(())
}

/// A container with addresses of both families that sends everything to us.
fn container(number: u8) -> Result<Container> {
    let device = format!("cable{number}");
    let at = |host: u8| [format!("10.97.{number}.{host}/24"), format!("fd97:{number}::{host}/64")];
    let (ours, theirs) = (at(1), at(2));
    let container = Container::with_cable(&device, &[&ours[0], &ours[1]], &[&theirs[0], &theirs[1]])?;
    container.route_by(&format!("10.97.{number}.1"))?;
    container.route_by(&format!("fd97:{number}::1"))?;
    Ok(container)
}

fn decision(exeat: &mut Exeat, target: &str) -> Result<Value> {
    let is_it = |record: &Value| record["event"] == "decision" && record["target"] == target;
    let records =
        exeat.audit_until(&format!("a decision on {target}"), |records| records.iter().any(is_it))?;
    records.into_iter().find(is_it).context("a record")
}

fn a_redirected_client_reaches_what_its_policy_names_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let (one, two) = (container(1)?, container(2)?);
    let mut exeat = Exeat::serve(world.directory(), CONFIG, PROXY)?;
    let home = world.directory();
    let web = one.curl(home, &["http://93.184.216.34/"])?;
    ensure!(web.code == 0 && web.out == "hello from 93.184.216.34\n", "{web:?}");
    let web = one.curl(home, &["http://[2606:2800:220:1::34]/"])?;
    ensure!(web.code == 0 && web.out.starts_with("hello from"), "{web:?}");
    let secure = one.curl(home, &["-k", "https://93.184.216.34/"])?;
    ensure!(secure.code == 0, "{secure:?}");
    // A server that speaks first is not waited for by its client.
    let script = "import socket; s = socket.create_connection(('93.184.216.35', 25), 10); print(s.recv(99))";
    let mail = one.client("python3", home).args(["-c", script]).run()?;
    ensure!(mail.out.contains(GREETING.trim_end()), "{mail:?}");
    ensure!(world.accepts() == 4, "{:?}", world.reached());
    let record = decision(&mut exeat, "93.184.216.35:25")?;
    ensure!(record["verdict"] == "allow" && record["method"] == "REDIRECT", "{record}");
    ensure!(record["principal"]["name"] == "one" && record["workload"] == "one", "{record}");
    ensure!(record["source"].as_str().is_some_and(|source| source.starts_with("10.97.1.2:")), "{record}");

    for (client, target, reason) in [
        (&one, "93.184.216.66:80", "ip_literal_not_allowed"),
        (&one, "93.184.216.40:80", "host_denied"),
        (&one, "93.184.216.34:8080", "port_not_allowed"),
        (&one, "[2606:2800:221::1]:80", "ip_literal_not_allowed"),
        (&two, "93.184.216.38:80", "auth_required"),
    ] {
        let refused = client.curl(home, &["-D", "-", &format!("http://{target}/")])?;
        let record = decision(&mut exeat, target);
        let record = record.with_context(|| format!("{refused:?}"))?;
        ensure!(record["verdict"] == "deny" && record["reason"] == reason, "{target}: {record}");
        // Told in the answer of a proxy, but never asked for credentials: the client knows of none.
        ensure!(refused.out.starts_with("HTTP/1.1 403 "), "{target}: {refused:?}");
        ensure!(refused.out.contains(&format!("x-deny-reason: {reason}")), "{target}: {refused:?}");
        ensure!(!refused.out.contains("authenticate"), "{target}: {refused:?}");
    }
    for port in [443, 25] {
        let script = format!(
            "import socket\ns = socket.create_connection(('93.184.216.67', {port}), 10)\n\
             try: print('got', s.recv(99))\nexcept ConnectionResetError: print('reset')"
        );
        let refused = one.client("python3", home).args(["-c", &script]).run()?;
        ensure!(refused.out == "reset\n", "port {port}: {refused:?}");
    }
    // An HTTP server that is told another name is another server.
    let fronted = one.curl(home, &["-D", "-", "-H", "Host: evil.test", "http://93.184.216.34/"])?;
    ensure!(fronted.out.contains("x-deny-reason: host_mismatch"), "{fronted:?}");
    ensure!(world.accepts() <= 5, "the tunnel may be open by then, and is not used: {:?}", world.reached());
    ensure!(world.dns.queries().is_empty(), "nothing was resolved");
    exeat.stop()
}

fn what_nobody_redirected_is_refused() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), CONFIG, PROXY)?;
    // The place that it was meant for is the listener itself, whoever asks.
    let mut client = Raw::connect("127.0.0.1:3141".parse()?)?;
    let reply = client.ask("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")?;
    ensure!(reply.status == 403, "{reply:?}");
    decision(&mut exeat, "127.0.0.1:3141")?;
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    exeat.stop()
}
