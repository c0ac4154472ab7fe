//! Containers: by their cable, or by the one socket that they have.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::container::Container;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{PASSWORD, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::World;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::setup::{config, record_of};

/// A process of this host that sends a request to the address of a device and is gone before the proxy looks: what it sent is
/// read still, and a socket that was reset is not found.
pub(crate) fn who_has_gone_before_anybody_looked_did_not_come_by_a_device() -> Result<()> {
    let world = World::new()?;
    let one = Container::with_cable("cable1", &["10.97.1.1/24"], &["10.97.1.2/24"])?;
    let proxy = format!("listen = [\"{PROXY}\", {{ address = \"0.0.0.0:3140\", interface = \"cable1\" }}]");
    let rest = "[workload.one]\ninterface = \"cable1\"\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    let outcome = one.curl(world.directory(), &["-x", "http://10.97.1.1:3140", "http://example.com/"])?;
    ensure!(outcome.code == 0, "who is there is known: {outcome:?}");
    let second = ["address", "add", "10.97.1.3/24", "dev", "cable1"];
    ensure!(Command::new("ip").args(second).status()?.success(), "a second address");
    exeat.freeze()?;
    for source in ["10.97.1.1:0", "10.97.1.3:0"] {
        let mut gone = Raw::from(source.parse()?, "10.97.1.1:3140".parse()?)?.ends_with_reset()?;
        gone.send(request_with("GET http://example.com/", ""))?;
        drop(gone);
    }
    exeat.signal(Signal::SIGCONT)?;
    let refused = |record: &&Value| record["reason"] == "auth_required";
    let both = |records: &[Value]| records.iter().filter(refused).count() == 2;
    let records = exeat.audit_until("two that came by no device", both)?;
    for record in records.iter().filter(refused) {
        ensure!(record["principal"].is_null() && record["workload"].is_null(), "{record}");
    }
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    exeat.stop()
}

pub(crate) fn a_container_without_a_network_goes_out_by_its_socket() -> Result<()> {
    let world = World::new()?;
    let proxy = format!("listen = [\"{PROXY}\", \"unix:box.sock\", \"unix:other.sock\"]");
    let rest = "[workload.box]\nsocket = \"box.sock\"\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    // curl in a network namespace that has not even loopback up.
    let curl = |socket: &str, url: &str| {
        let proxy = format!("socks5h://localhost{}", world.directory().join(socket).display());
        let args = ["--net", "curl", "-sS", "--max-time", "20", "--proxy", &proxy, url];
        Client::new("unshare", world.directory()).args(args).run()
    };
    let outcome = curl("box.sock", "http://example.com/")?;
    ensure!(outcome.code == 0 && outcome.out == "hello from example.com\n", "{outcome:?}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    for (name, socket, url) in [
        ("another host", "box.sock", "http://evil.test/"),
        ("a socket that is nobody's", "other.sock", "http://example.com/"),
    ] {
        let outcome = curl(socket, url)?;
        // "Can't complete SOCKS5 connection", or no acceptable method.
        ensure!(outcome.code == 97, "{name}: {outcome:?}");
    }
    let straight = ["--net", "curl", "-sS", "--max-time", "5", "http://93.184.216.34/"];
    let outcome = Client::new("unshare", world.directory()).args(straight).run()?;
    ensure!(outcome.code == 7, "there is no other way out: {outcome:?}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    let record = record_of(&mut exeat, "of the box", |record| record["principal"]["name"] == "box")?;
    ensure!(record["source"].is_null() && record["user"] == 0 && record["workload"] == "box", "{record}");
    // An HTTP proxy by the same socket, with a password: who asks is then the client.
    let mut plain = UnixStream::connect(world.directory().join("other.sock"))?;
    plain.set_read_timeout(Some(Duration::from_secs(10)))?;
    plain.write_all(
        request_with(
            "GET http://example.com/",
            &format!("{}Connection: close\r\n", authorization("app", PASSWORD)),
        )
        .as_bytes(),
    )?;
    let mut text = String::new();
    plain.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200") && text.ends_with("hello from example.com\n"), "{text}");
    exeat.stop()?;
    ensure!(!world.directory().join("box.sock").exists(), "its file goes with it");
    Ok(())
}

pub(crate) fn a_container_with_one_cable_is_known_by_the_cable() -> Result<()> {
    let world = World::new()?;
    let one = Container::with_cable("cable1", &["10.97.1.1/24"], &["10.97.1.2/24"])?;
    let two = Container::with_cable("cable2", &["10.97.2.1/24"], &["10.97.2.2/24"])?;
    let proxy = format!(
        "listen = [\"{PROXY}\", {{ address = \"0.0.0.0:3140\", interface = \"cable1\" }}, \
         {{ address = \"0.0.0.0:3140\", interface = \"cable2\", demand = [\"origin\"] }}]\n\
         proxy_protocol_from = [\"10.97.1.3\"]"
    );
    let rest = "[workload.one]\ninterface = \"cable1\"\npolicies = [\"web\"]\n\
                [workload.two]\ninterface = \"cable2\"\naddresses = [\"10.97.2.9\"]\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    let outcome = one.curl(world.directory(), &["-x", "http://10.97.1.1:3140", "http://example.com/"])?;
    ensure!(outcome.code == 0 && outcome.out == "hello from example.com\n", "{outcome:?}");
    let outcome =
        one.curl(world.directory(), &["-x", "http://10.97.1.1:3140", "-D", "-", "http://evil.test/"])?;
    ensure!(outcome.out.contains("x-deny-reason: host_not_allowed"), "{outcome:?}");
    let outcome =
        two.curl(world.directory(), &["-x", "http://10.97.2.1:3140", "-D", "-", "http://example.com/"])?;
    ensure!(
        outcome.out.contains("x-deny-reason: container_mismatch"),
        "the device and another address: {outcome:?}"
    );
    let outcome = one.curl(world.directory(), &["http://93.184.216.34/"])?;
    ensure!(outcome.code == 7, "there is no other way out: {outcome:?}");
    // The kernel lets a connection of this host to the device's own address count as one that came in by it.
    let reply = Raw::connect("10.97.1.1:3140".parse()?)?.ask(request_with("GET http://example.com/", ""))?;
    ensure!(reply.status == 407, "a process of this host is not the container: {reply:?}");
    let second = ["address", "add", "10.97.1.3/24", "dev", "cable1"];
    ensure!(Command::new("ip").args(second).status()?.success(), "a second address");
    let mut sender = Raw::from("10.97.1.3:0".parse()?, "10.97.1.1:3140".parse()?)?;
    sender.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")?;
    let reply = sender.ask(request_with("GET http://example.com/", ""))?;
    ensure!(reply.status == 407, "nor is one that sends PROXY headers and speaks for itself: {reply:?}");
    ensure!(Raw::connect("127.0.0.1:3140".parse()?).is_err(), "nobody is let in by another device");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    let record = record_of(&mut exeat, "of the container", |record| record["workload"] == "one")?;
    ensure!(record["principal"]["name"] == "one", "{record}");
    exeat.stop()
}
