//! Other people's name servers, whose dnstap opens the firewall: unbound and BIND as Debian builds them.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod servers;
mod stage;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use exeat_tests::dns::Entry;
use exeat_tests::namespace::NAME_SERVER;
use exeat_tests::origin::PATIENCE;
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;
use serde_json::Value;

use servers::{NameServer, Program};
use stage::Stage;

fn main() -> ExitCode {
    harness::main(scenarios![
        unbound_opens_the_way,
        bind_opens_the_way,
        unbound_is_heard_again_after_a_restart_of_either,
        bind_is_heard_again_after_a_restart_of_either,
        a_stream_of_another_user_is_not_read,
        strangers_do_not_fill_the_log,
        a_name_server_elsewhere_is_asked_and_nothing_else_there,
    ])
}

fn unbound_opens_the_way() -> Result<()> {
    what_is_heard_is_decided_on(Program::Unbound)
}

fn bind_opens_the_way() -> Result<()> {
    what_is_heard_is_decided_on(Program::Named)
}

fn what_is_heard_is_decided_on(program: Program) -> Result<()> {
    let mut stage = Stage::start()?;
    let dns = &stage.world.dns;
    dns.set("round.example.org", Entry::addresses(&["93.184.216.80", "93.184.216.81", "93.184.216.82"]));
    dns.set("alias.example.org", Entry::alias("cdn.example.net"));
    // Its last alias is a name that the policy allows; it is itself none.
    dns.set("alias.evil.test", Entry::alias("www.example.org"));
    dns.set("private.example.org", Entry::addresses(&["10.20.0.9"]));
    let server = NameServer::start(program, &stage)?;
    for (what, client, name, kind, told, opened) in [
        ("a name", 1, "example.com", "A", &["93.184.216.34"][..], true),
        ("the other family", 1, "example.com", "AAAA", &["2606:2800:220:1::34"], true),
        (
            "every address",
            1,
            "round.example.org",
            "A",
            &["93.184.216.80", "93.184.216.81", "93.184.216.82"],
            true,
        ),
        ("an alias", 1, "alias.example.org", "A", &["93.184.216.37"], true),
        ("letters and the final dot", 1, "WwW.eXample.ORG.", "A", &["93.184.216.35"], true),
        ("by TCP", 1, "tcp.example.org", "A", &["93.184.216.35"], true),
        ("another name", 1, "evil.test", "A", &["93.184.216.66"], false),
        ("another name that leads to one", 2, "alias.evil.test", "A", &["93.184.216.35"], false),
        ("a private address", 1, "private.example.org", "A", &["10.20.0.9"], false),
        ("another client's name", 2, "cdn.example.net", "A", &["93.184.216.37"], true),
    ] {
        let by = if what == "by TCP" { "+tcp" } else { "+notcp" };
        let answers = stage.dig(client, &[by, name, kind])?;
        for address in told {
            ensure!(answers.contains(&(*address).to_owned()), "{what}: {answers:?}");
        }
        let record = stage.heard(client, name, kind)?;
        let verdict = if opened { "allow" } else { "deny" };
        ensure!(record["learned"] == "dnstap" && record["verdict"] == verdict, "{what}: {record}");
        for address in told {
            let target = stage::target(address, 443)?;
            // The record is there just before the way is open.
            let is_open =
                if opened { stage.until_open(client, target)? } else { stage.is_open(client, target)? };
            ensure!(is_open == opened, "{what}: {address}: open is {is_open}");
        }
    }
    for (what, client, target) in [
        ("a name of another client", 2, "93.184.216.34"),
        ("what the alias of another leads to", 2, "93.184.216.35"),
        ("an address that was not told", 1, "93.184.216.83"),
    ] {
        ensure!(!stage.is_open(client, stage::target(target, 443)?)?, "{what}");
    }
    ensure!(!stage.is_open(1, stage::target("93.184.216.34", 5432)?)?, "another port");
    for (name, reason) in [
        ("evil.test", "host_not_allowed"),
        ("alias.evil.test", "host_not_allowed"),
        ("private.example.org", "address_not_allowed"),
    ] {
        let is_it = |record: &Value| record["name"] == name && record["reason"] == reason;
        ensure!(stage.exeat.audit()?.iter().any(is_it), "{name} is not on record with {reason}");
    }
    // The end that the protocol has: the server says that it stops, and waits to be told that all was read.
    server.stop()?;
    stage.exeat.until_logged("a stream of dnstap has ended")?;
    ensure!(!stage.exeat.stderr().contains("before its end"), "{}", stage.exeat.stderr());
    stage.exeat.stop()
}

fn unbound_is_heard_again_after_a_restart_of_either() -> Result<()> {
    restarts(Program::Unbound)
}

fn bind_is_heard_again_after_a_restart_of_either() -> Result<()> {
    restarts(Program::Named)
}

fn restarts(program: Program) -> Result<()> {
    let mut stage = Stage::start()?;
    let first = NameServer::start(program, &stage)?;
    stage.learns("n1.example.org")?;
    first.kill()?;
    let _second = NameServer::start(program, &stage)?;
    stage.learns("n2.example.org")?;
    stage.exeat.signal(Signal::SIGKILL)?;
    stage.exeat.wait()?;
    stage.start_again()?;
    // The server has to find the new socket first, and its messages are lost until then.
    stage.learns("n3.example.org")
}

fn a_stream_of_another_user_is_not_read() -> Result<()> {
    let mut stage = Stage::start_for_user(4242)?;
    let _server = NameServer::start(Program::Unbound, &stage)?;
    stage.dig(1, &["example.com", "A"])?;
    stage.exeat.until_logged("a stream of dnstap from a user who may not write")?;
    ensure!(!stage.is_open(1, stage::target("93.184.216.34", 443)?)?, "it is open");
    ensure!(stage.exeat.audit()?.iter().all(|record| record["event"] != "dns"), "something was heard");
    Ok(())
}

fn strangers_do_not_fill_the_log() -> Result<()> {
    let stage = Stage::start_for_user(4242)?;
    let line = "a stream of dnstap from a user who may not write";
    let knocks = 1000;
    let knock = || -> Result<()> {
        let mut stream = UnixStream::connect(stage.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // It is closed once it was looked at.
        ensure!(stream.read(&mut [0])? == 0, "something was said");
        Ok(())
    };
    (0..knocks).try_for_each(|_| knock())?;
    // The next line, a second after the last, tells of the others.
    let end = Instant::now() + PATIENCE;
    while !stage.exeat.stderr().lines().any(|told| told.contains(line) && !told.contains("left_out=0")) {
        ensure!(Instant::now() < end, "the others are not told of: {}", stage.exeat.stderr());
        knock()?;
    }
    let lines = stage.exeat.stderr().matches(line).count();
    // One a second: as many as these only on a machine that takes a second for ten.
    ensure!(lines < knocks / 10, "{lines} lines");
    stage.exeat.stop()
}

fn a_name_server_elsewhere_is_asked_and_nothing_else_there() -> Result<()> {
    let address = NAME_SERVER.split(':').next().unwrap_or_default();
    let stage = Stage::start_with(0, &format!("{address:?}"))?;
    // Whomever the question was sent to.
    for by in ["+notcp", "+tcp"] {
        let answers = stage.dig(2, &[by, "evil.test", "A"])?;
        ensure!(answers == ["93.184.216.66"], "{by}: {answers:?}");
    }
    for (what, target) in
        [("another port", stage::target(address, 80)?), ("a name", stage::target("93.184.216.66", 80)?)]
    {
        ensure!(!stage.is_open(2, target)?, "{what}");
    }
    ensure!(stage.world.accepts() == 0, "something was reached");
    stage.exeat.stop()
}
