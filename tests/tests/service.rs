//! Under a service manager: what it is told, listeners that it passes in, and an upgrade that nobody notices.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::client::Client;
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{ask, configuration, get, request};
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::PATIENCE;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    harness::main(scenarios![
        the_service_manager_is_told,
        a_manager_that_is_gone_stops_nothing,
        a_passed_listener_serves_and_outlives_the_process,
        a_passed_listener_must_be_the_configured_one,
        what_is_passed_must_listen,
        an_upgrade_drops_nothing,
        a_connection_accepted_before_a_drain_may_still_ask,
        a_difference_is_an_exit_code,
    ])
}

const SERVE: [&str; 3] = ["serve", "--config", "exeat.toml"];

fn config() -> String {
    configuration(r#"allow = ["example.com", "mail.example.org:25"]"#, "")
}

/// Receives messages until one has this line, and returns it.
fn told(socket: &UnixDatagram, line: &str) -> Result<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length =
            socket.recv(&mut buffer).with_context(|| format!("waiting for {line}; heard {heard:?}"))?;
        let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        if message.lines().any(|l| l == line) {
            return Ok(message);
        }
        heard.push(message);
    }
}

fn the_service_manager_is_told() -> Result<()> {
    let world = World::new()?;
    let directory = world.directory();
    Exeat::write_config(directory, &config())?;
    let path = directory.join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let path = path.to_string_lossy();
    let variables = [("NOTIFY_SOCKET", path.as_ref()), ("WATCHDOG_USEC", "20000")];
    let mut exeat = Exeat::spawn_service(directory, &SERVE, &variables, None)?;
    let ready = told(&socket, "READY=1")?;
    ensure!(ready.contains("STATUS=revision 1"), "{ready}");
    ensure!(get("example.com/")?.0 == 200, "it is ready when it says so");
    told(&socket, "WATCHDOG=1")?;
    told(&socket, "WATCHDOG=1")?;
    Exeat::write_config(directory, &format!("{}# Another one.\n", config()))?;
    exeat.signal(Signal::SIGHUP)?;
    let reloading = told(&socket, "RELOADING=1")?;
    ensure!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let ready = told(&socket, "READY=1")?;
    ensure!(ready.contains("STATUS=revision 2"), "{ready}");
    Exeat::write_config(directory, "nonsense")?;
    exeat.signal(Signal::SIGHUP)?;
    told(&socket, "RELOADING=1")?;
    let ready = told(&socket, "READY=1")?;
    ensure!(ready.contains("STATUS=revision 2"), "a refused reload leaves the old policy: {ready}");
    exeat.signal(Signal::SIGTERM)?;
    told(&socket, "STOPPING=1")?;
    let status = exeat.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn a_manager_that_is_gone_stops_nothing() -> Result<()> {
    let world = World::new()?;
    Exeat::write_config(world.directory(), &config())?;
    let nobody = [("NOTIFY_SOCKET", "/nonexistent/notify")];
    let mut exeat = Exeat::spawn_service(world.directory(), &SERVE, &nobody, None)?;
    exeat.wait_for_output("cannot tell the service manager")?;
    ensure!(get("example.com/")?.0 == 200);
    exeat.stop()
}

fn a_passed_listener_serves_and_outlives_the_process() -> Result<()> {
    let world = World::new()?;
    Exeat::write_config(world.directory(), &config())?;
    let listener = TcpListener::bind(PROXY)?;
    let passed = listener.try_clone()?.into();
    let mut exeat = Exeat::spawn_service(world.directory(), &SERVE, &[], Some(passed))?;
    // Whoever connects before it is ready waits instead of being refused.
    ensure!(get("example.com/")?.0 == 200);
    exeat.wait_until_ready()?;
    exeat.stop()?;
    let proxy: SocketAddr = PROXY.parse()?;
    ensure!(TcpStream::connect(proxy).is_ok(), "the socket went with the process");
    Ok(())
}

fn a_passed_listener_must_be_the_configured_one() -> Result<()> {
    let world = World::new()?;
    Exeat::write_config(world.directory(), &config())?;
    let other = TcpListener::bind("10.99.0.1:3129")?;
    let mut exeat = Exeat::spawn_service(world.directory(), &SERVE, &[], Some(other.into()))?;
    let status = exeat.wait()?;
    ensure!(status.code() == Some(1), "{status}");
    let printed = exeat.stderr();
    ensure!(printed.contains("10.99.0.1:3129") && printed.contains(PROXY), "{printed}");
    ensure!(printed.contains("ListenStream="), "{printed}");
    Ok(())
}

fn what_is_passed_must_listen() -> Result<()> {
    let world = World::new()?;
    Exeat::write_config(world.directory(), &config())?;
    let connected = TcpStream::connect("93.184.216.34:80")?;
    let datagrams = UdpSocket::bind(PROXY)?;
    for (passed, why) in [(connected.into(), "does not listen"), (datagrams.into(), "cannot be used")] {
        let mut exeat = Exeat::spawn_service(world.directory(), &SERVE, &[], Some(passed))?;
        let status = exeat.wait()?;
        let printed = exeat.stderr();
        ensure!(status.code() == Some(1) && printed.contains(why), "{status}: {printed}");
    }
    Ok(())
}

/// Requests that clients make at the same time, each on a connection of its own.
const CLIENTS: usize = 4;
const REQUESTS_OF_A_CLIENT: usize = 100;

/// Two processes share a listener; the old one drains while clients go on.
fn an_upgrade_drops_nothing() -> Result<()> {
    let world = World::new()?;
    let [old_home, new_home] = ["old", "new"].map(|name| world.directory().join(name));
    for home in [&old_home, &new_home] {
        fs::create_dir(home)?;
        Exeat::write_config(home, &config())?;
    }
    let listener = TcpListener::bind(PROXY)?;
    let mut old = Exeat::spawn_service(&old_home, &SERVE, &[], Some(listener.try_clone()?.into()))?;
    old.wait_until_ready()?;
    let (mut tunnel, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());

    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let done = Arc::clone(&done);
            thread::spawn(move || -> Result<()> {
                for number in 0..REQUESTS_OF_A_CLIENT {
                    let (status, reason) =
                        get("example.com/").with_context(|| format!("request {number}"))?;
                    ensure!(status == 200, "request {number}: {status} {reason:?}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let wait_for = |count: usize| {
        while done.load(Ordering::Relaxed) < count && !clients.iter().all(thread::JoinHandle::is_finished) {
            thread::yield_now();
        }
    };
    wait_for(CLIENTS * REQUESTS_OF_A_CLIENT / 8);
    let mut new = Exeat::spawn_service(&new_home, &SERVE, &[], Some(listener.into()))?;
    new.wait_until_ready()?;
    old.signal(Signal::SIGTERM)?;
    for client in clients {
        match client.join() {
            Ok(result) => result?,
            Err(_) => bail!("a client panicked"),
        }
    }
    let by_new = new.audit_until("some requests", |records| !records.is_empty())?.len();
    let by_old = old.audit()?.len();
    ensure!(by_old > 1 && by_new > 0, "{by_old} records of the old process, {by_new} of the new one");

    tunnel.send("are you there")?;
    ensure!(tunnel.exactly(13)? == b"are you there");
    tunnel.finish()?;
    tunnel.closed()?;
    let status = old.wait()?;
    ensure!(status.success(), "{status}");
    ensure!(get("example.com/")?.0 == 200);
    new.stop()
}

fn a_connection_accepted_before_a_drain_may_still_ask() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(), PROXY)?;
    let mut early = Raw::proxy()?;
    // Connections are accepted in order, so the early one has been by now.
    ensure!(get("example.com/")?.0 == 200);
    exeat.signal(Signal::SIGTERM)?;
    exeat.wait_for_output("draining")?;
    let reply = early.ask(request("GET http://example.com/"))?;
    ensure!(reply.status == 200, "{reply:?}");
    early.closed()?;
    let status = exeat.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn a_difference_is_an_exit_code() -> Result<()> {
    let world = World::new()?;
    let write = |name: &str, policy: &str| fs::write(world.directory().join(name), configuration(policy, ""));
    write("old.toml", r#"allow = ["example.com"]"#)?;
    write("same.toml", r#"allow = ["example.com:443", "example.com:80"]"#)?;
    write("new.toml", r#"allow = ["example.com", "*.example.org"]"#)?;
    write("bad.toml", r#"allow = ["*.com"]"#)?;
    let diff =
        |args: &[&str]| Client::new(binary()?, world.directory()).args([&["diff"], args].concat()).run();
    let same = diff(&["old.toml", "same.toml"])?;
    ensure!(same.code == 0 && same.out.is_empty(), "{same:?}");
    let different = diff(&["old.toml", "new.toml"])?;
    ensure!(different.code == 1, "{different:?}");
    ensure!(different.out.contains("+ *.example.org:80,443  new.toml:7:25"), "{different:?}");
    let machine = diff(&["--format", "json", "old.toml", "new.toml"])?;
    let line: serde_json::Value = serde_json::from_str(machine.out.trim())?;
    ensure!(machine.code == 1 && line.pointer("/client").is_some_and(|c| c == "app"), "{machine:?}");
    for files in [["old.toml", "bad.toml"], ["bad.toml", "old.toml"], ["old.toml", "missing.toml"]] {
        let unusable = diff(&files)?;
        ensure!(unusable.code == 78 && unusable.out.is_empty(), "{files:?}: {unusable:?}");
    }
    Ok(())
}
