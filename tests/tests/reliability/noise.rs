//! One client that does too much of everything, and another one beside it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{password_entry, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::noise::{self, Noise, Told};
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::{GREETING, World};
use serde_json::Value;

use crate::{at_once, echo};

const API: &str = "127.0.0.1:9128";
/// Quiet clients. None of them has been seen before, so the password of each has to be hashed.
const QUIET: usize = 12;
const PASSWORD: &str = "one that a person thought of";
/// What each of them does: requests on connections of their own, requests on one connection, and round trips of a
/// tunnel. All of them at once are within the rates of its client and of its source.
const REQUESTS: usize = 10;
/// Threads of each kind of noise: more tunnels at a time than one client may have.
const THREADS: [(Noise, usize); 6] = [
    (Noise::Crowd, 1),
    (Noise::Knocks, 1),
    (Noise::Requests, 2),
    (Noise::Denied, 1),
    (Noise::Guesses, 16),
    (Noise::Bulk, 8),
];
/// Guesses at a time: more than there are places for all whose passwords are to be hashed.
const GUESSES: usize = 100;
const LIMITS: &str = r#"[limits]
connections_per_source = 100
connection_rate_per_source = 120
request_rate_per_source = 40
request_rate_per_client = 30
rate_burst = "1s"
tunnels_per_client = 4
"#;
/// What the noise has run into when it is as loud as it gets.
const HIT: [&str; 5] = [
    "connections_per_source",
    "connection_rate_per_source",
    "request_rate_per_source",
    "request_rate_per_client",
    "tunnels_per_client",
];

fn configuration(limits: &str) -> Result<String> {
    let hash = argon2id(PASSWORD)?;
    let mut text = format!(
        "[proxy]\nlisten = [\"{PROXY}\"]\n[api]\nlisten = \"{API}\"\n[audit]\nfile = \"AUDIT\"\n{limits}
[policy.p]\nallow = [\"example.com\", \"*.example.org\", \"mail.example.org:25\", \"{}\"]
[client.{}]\npasswords = [\"{}\"]\npolicies = [\"p\"]\n",
        noise::FIREHOSE,
        noise::NAME,
        password_entry(noise::PASSWORD),
    );
    for number in 0..QUIET {
        text += &format!("[client.quiet{number}]\npasswords = [\"{hash}\"]\npolicies = [\"p\"]\n");
    }
    Ok(text)
}

/// The hash of a password as the product makes it.
fn argon2id(password: &str) -> Result<String> {
    let mut command = Command::new(binary()?);
    let mut child = command.args(["client", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("its input")?.write_all(password.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// A number of `/metrics`.
fn metric(name: &str) -> Result<usize> {
    let api: SocketAddr = API.parse()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    let text = String::from_utf8(Raw::connect(api)?.ask(request)?.body)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| name.to_owned())?.parse()?)
}

/// Makes noise, has the quiet clients work as soon as all of `metrics` count, and returns what the noisy one was told.
fn beside(exeat: &mut Exeat, threads: &[(Noise, usize)], metrics: &[String]) -> Result<Vec<(Noise, Told)>> {
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let noisy = threads.iter().map(|(kind, threads)| scope.spawn(move || kind.make(*threads, over)));
        let noisy: Vec<_> = noisy.collect();
        let mut missing = Vec::new();
        let loud = exeat.until("the noise to be at its limits", |_| {
            // The noise may be in the way.
            let counts = |name: &&String| metric(name).is_ok_and(|count| count > 0);
            missing = metrics.iter().filter(|name| !counts(name)).collect();
            Ok(missing.is_empty().then_some(()))
        });
        let served = loud.with_context(|| format!("not at {missing:?}")).and_then(|()| at_once(QUIET, quiet));
        over.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        for (thread, (kind, _)) in noisy.into_iter().zip(threads) {
            told.push((*kind, thread.join().ok().context("noise")??));
        }
        served.map(|_| told)
    })
}

/// The quiet are in the records with nothing but what succeeded.
fn quiet_were_served(exeat: &mut Exeat) -> Result<()> {
    let records = exeat.audit_until("all records of the quiet", |records| {
        of_quiet(records).filter(|record| record["event"] == "end").count() == QUIET
    })?;
    let denied =
        of_quiet(&records).find(|record| record["verdict"] != "allow" || record["reason"].is_string());
    ensure!(denied.is_none(), "{denied:#?}");
    let requests = of_quiet(&records).filter(|record| record["event"] == "request").count();
    ensure!(requests == QUIET * 2 * REQUESTS, "{requests} requests");
    Ok(())
}

/// With the limits that everybody has.
pub(crate) fn guessed_passwords_leave_room_for_right_ones() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &configuration("")?, PROXY)?;
    let busy = "exeat_auth_attempts_total{result=\"rate_limited\"}".to_owned();
    let told = beside(&mut exeat, &[(Noise::Guesses, GUESSES)], &[busy])?;
    eprintln!("{told:?}");
    quiet_were_served(&mut exeat)?;
    exeat.stop()
}

pub(crate) fn a_noisy_client_takes_nothing_from_a_quiet_one() -> Result<()> {
    let world = World::new()?;
    noise::firehose()?;
    let mut exeat = Exeat::serve(world.directory(), &configuration(LIMITS)?, PROXY)?;
    let hit = HIT.map(|limit| format!("exeat_limit_hits_total{{limit=\"{limit}\"}}"));
    let told = beside(&mut exeat, &THREADS, &hit)?;
    for (kind, told) in &told {
        eprintln!("{}: {:?}", kind.word(), told.0);
        let limited = ["429 rate_limited", "429 connection_limit", "broke"];
        let due: &[&str] = match kind {
            Noise::Crowd => &["held"],
            Noise::Knocks => &["knocked"],
            Noise::Requests | Noise::Bulk => &["200"],
            Noise::Denied => &["403 host_not_allowed"],
            Noise::Guesses => &["407 auth_invalid"],
        };
        let other =
            told.0.keys().find(|said| !due.contains(&said.as_str()) && !limited.contains(&said.as_str()));
        ensure!(other.is_none(), "{kind:?} was told {other:?}");
        ensure!(due.iter().all(|due| told.count(due) > 0), "{kind:?} got nothing of its share: {told:?}");
    }
    quiet_were_served(&mut exeat)?;
    exeat.stop()
}

fn of_quiet(records: &[Value]) -> impl Iterator<Item = &Value> {
    let is_quiet =
        |record: &&Value| record["principal"]["name"].as_str().is_some_and(|name| name.starts_with("quiet"));
    records.iter().filter(is_quiet)
}

/// What one quiet client does. All of it succeeds.
fn quiet(number: usize) -> Result<()> {
    let source = SocketAddr::from(([93, 184, 216, 1 + u8::try_from(number)?], 0));
    let connect = || Raw::from(source, PROXY.parse()?);
    let fields = authorization(&format!("quiet{number}"), PASSWORD);
    let get = request_with(&format!("GET http://q{number}.example.org/"), &fields);
    for count in 0..REQUESTS {
        let reply = connect()?.ask(&get)?;
        ensure!(reply.status == 200, "connection {count}: {reply:?}");
    }
    let mut kept = connect()?;
    for count in 0..REQUESTS {
        let reply = kept.ask(&get)?;
        ensure!(reply.status == 200, "request {count}: {reply:?}");
    }
    let mut tunnel = connect()?;
    let reply = tunnel.ask(request_with("CONNECT mail.example.org:25", &fields))?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    for _ in 0..REQUESTS {
        echo(&mut tunnel, &[7; 1000])?;
    }
    tunnel.finish()?;
    tunnel.closed()
}
