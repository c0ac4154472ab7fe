//! HAProxy in front of the proxy and behind it, with the PROXY protocol: who the client is, where that is told, and that
//! nobody else can say so.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, configuration, request};
use exeat_tests::haproxy::Haproxy;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        the_client_behind_a_balancer_is_the_real_one,
        limits_behind_a_balancer_are_for_the_real_client,
        a_header_from_anybody_else_is_refused,
        a_header_that_does_not_come_is_late_and_one_that_is_none_malformed,
        a_balancer_behind_learns_the_client,
        nobody_else_learns_the_client,
    ])
}

/// Where HAProxy listens, and where its connections to the proxy come from.
const BALANCER: &str = "10.99.0.1:3140";
const BALANCER_SOURCE: &str = "93.184.216.9";
/// Two clients.
const ONE: &str = "93.184.216.101:0";
const TWO: &str = "93.184.216.102:0";

/// HAProxy in front of the proxy, whose connections come from `source`.
fn in_front(world: &World, source: &str) -> Result<Haproxy> {
    let sections = format!(
        "listen proxies
    bind {BALANCER}
    source {source}
    server exeat {PROXY} send-proxy-v2
"
    );
    Haproxy::start(world.directory(), "front", &sections, BALANCER)
}

/// The product, behind HAProxy.
fn behind(world: &World, extra: &str) -> Result<Exeat> {
    let policy = "allow = [\"example.com\", \"*.example.org:22\"]";
    let trusting = format!("[proxy]\nproxy_protocol_from = [\"{BALANCER_SOURCE}\"]");
    let text = configuration(policy, extra).replace("[proxy]", &trusting);
    Exeat::serve(world.directory(), &text, PROXY)
}

/// A connection of this client to HAProxy.
fn client(source: &str) -> Result<(Raw, SocketAddr)> {
    let source: SocketAddr = source.parse()?;
    Ok((Raw::from(source, BALANCER.parse()?)?, source))
}

fn the_client_behind_a_balancer_is_the_real_one() -> Result<()> {
    let world = World::new()?;
    let mut exeat = behind(&world, "")?;
    let _haproxy = in_front(&world, BALANCER_SOURCE)?;
    let (mut client, source) = client(ONE)?;
    let reply = client.ask(request("GET http://example.com/"))?;
    ensure!(reply.status == 200, "{reply:?}");
    let reply = client.ask(request("CONNECT www.example.org:22"))?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(client.exactly(GREETING.len())? == GREETING.as_bytes());
    drop(client);
    let records = exeat.audit_until("three records", |records| records.len() >= 3)?;
    for record in &records {
        let from: SocketAddr = record["source"].as_str().unwrap_or_default().parse()?;
        ensure!(from.ip() == source.ip() && record["principal"]["name"] == CLIENT, "{record}");
    }
    ensure!(world.accepts() == 2, "{:?}", world.reached());
    exeat.stop()
}

fn limits_behind_a_balancer_are_for_the_real_client() -> Result<()> {
    let world = World::new()?;
    let exeat = behind(&world, "[limits]\nconnections_per_source = 1\n")?;
    let _haproxy = in_front(&world, BALANCER_SOURCE)?;
    let get = || request("GET http://example.com/");
    let (mut held, _) = client(ONE)?;
    ensure!(held.ask(get())?.status == 200);
    let (mut second, _) = client(ONE)?;
    let reply = second.ask(get())?;
    ensure!(reply.status == 429 && reply.head.field("x-deny-reason") == Some("rate_limited"), "{reply:?}");
    let (mut other, _) = client(TWO)?;
    let reply = other.ask(get())?;
    ensure!(reply.status == 200, "another client of the same balancer: {reply:?}");
    ensure!(held.ask(get())?.status == 200, "the first goes on");
    exeat.stop()
}

fn a_header_from_anybody_else_is_refused() -> Result<()> {
    let world = World::new()?;
    let mut exeat = behind(&world, "")?;
    let _haproxy = in_front(&world, "93.184.216.10")?;
    let (mut client, source) = client(ONE)?;
    let reply = client.ask(request("GET http://example.com/"))?;
    let reason = reply.head.field("x-deny-reason");
    ensure!(reply.status == 400 && reason == Some("request_malformed"), "{reply:?}");
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    let records = exeat.audit_until("its record", |records| !records.is_empty())?;
    let shown = format!("{records:?}");
    ensure!(shown.contains("93.184.216.10:") && !shown.contains(&source.ip().to_string()), "{shown}");
    exeat.stop()
}

fn a_header_that_does_not_come_is_late_and_one_that_is_none_malformed() -> Result<()> {
    let world = World::new()?;
    let mut exeat = behind(&world, "[limits]\nhead_timeout = \"200ms\"\n")?;
    for (begun, status, reason) in [
        ("", 408, "head_timeout"),
        ("\r\n\r\n\0\r\n", 408, "head_timeout"),
        ("GET http://example.com/ HTTP/1.1\r\n", 400, "request_malformed"),
    ] {
        let mut balancer = Raw::from(format!("{BALANCER_SOURCE}:0").parse()?, PROXY.parse()?)?;
        balancer.send(begun)?;
        let reply = balancer.reply("GET").with_context(|| format!("{begun:?}"))?;
        let told = reply.head.field("x-deny-reason");
        ensure!(reply.status == status && told == Some(reason), "{begun:?}: {reply:?}");
    }
    let of = |records: &[Value], reason: &str| records.iter().filter(|r| r["reason"] == reason).count();
    let records = exeat.audit_until("their records", |records| records.len() >= 3)?;
    let counts = (of(&records, "head_timeout"), of(&records, "request_malformed"));
    ensure!(counts == (2, 1) && records.iter().all(|r| r["verdict"] == "deny"), "{records:#?}");
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    exeat.stop()
}

/// Where HAProxy listens for those who tell it of their clients, and the name that leads there.
const LEARNING: &str = "93.184.216.35:8081";
const LEARNING_NAME: &str = "lb.example.org";

/// HAProxy in front of the origin of `example.org`. It takes a PROXY header, and writes down what that says.
fn learning(world: &World) -> Result<Haproxy> {
    let sections = format!(
        "frontend in
    bind {LEARNING} accept-proxy
    log-format \"client %ci:%cp id %[fc_pp_unique_id]\"
    default_backend origin
backend origin
    server origin 93.184.216.36:80
"
    );
    Haproxy::start(world.directory(), "back", &sections, LEARNING)
}

fn a_balancer_behind_learns_the_client() -> Result<()> {
    let world = World::new()?;
    let haproxy = learning(&world)?;
    let policy =
        format!("allow = [{{ host = \"{LEARNING_NAME}\", ports = [8081], proxy_protocol = \"v2\" }}]");
    let mut exeat = Exeat::serve(world.directory(), &configuration(&policy, ""), PROXY)?;
    for line in [format!("GET http://{LEARNING_NAME}:8081/"), format!("CONNECT {LEARNING_NAME}:8081")] {
        let source: SocketAddr = ONE.parse()?;
        let mut client = Raw::from(source, PROXY.parse()?)?;
        let mut reply = client.ask(request(&line))?;
        if line.starts_with("CONNECT") {
            reply = client.ask("GET / HTTP/1.1\r\nHost: lb.example.org:8081\r\nConnection: close\r\n\r\n")?;
        }
        ensure!(reply.status == 200, "{line}: {reply:?}");
        drop(client);
    }
    let records = exeat.audit_until("both", |records| records.len() >= 3)?;
    // Idle connections are closed with the proxy, and HAProxy writes a line at the end of each.
    exeat.stop()?;
    for record in &records {
        let field = |name: &str| record[name].as_str().unwrap_or_default();
        ensure!(field("source").starts_with("93.184.216.101:"), "{record}");
        let line = format!("client {} id {}", field("source"), field("request_id"));
        haproxy.wait_for_line(|logged| logged == line)?;
    }
    Ok(())
}

/// The nearest twin: without the setting HAProxy, which insists, gets no header and the request comes to nothing.
fn nobody_else_learns_the_client() -> Result<()> {
    let world = World::new()?;
    let _haproxy = learning(&world)?;
    let policy = format!("allow = [\"{LEARNING_NAME}:8081\"]");
    let exeat = Exeat::serve(world.directory(), &configuration(&policy, ""), PROXY)?;
    let mut client = Raw::proxy()?;
    let reply = client.ask(request(&format!("GET http://{LEARNING_NAME}:8081/")))?;
    let reason = reply.head.field("x-deny-reason");
    ensure!(reply.status == 502 && reason == Some("connect_failed"), "{reply:?}");
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    exeat.stop()
}
