//! Reloads, a kill and a stop while clients are being served.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{ask, request};
use exeat_tests::http::{Reply, Request};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::World;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{at_once, config, echo, status, tunnel};

/// Clients that ask at the same time, and those with a tunnel.
const CLIENTS: usize = 4;
const TUNNELS: usize = 8;
const RELOADS: usize = 20;
/// The time between two reloads: it is their pace, nothing is waited for.
const PACE: Duration = Duration::from_millis(100);
/// Bytes sent through a tunnel at a time.
const CHUNK: usize = 16 * 1024;

/// Bytes that look the same nowhere.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 | 1;
    let byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(byte).take(length).collect()
}

/// What one client of [`reloads_under_load_fail_nothing`] did.
#[derive(Default)]
struct Done {
    requests: usize,
    bytes: usize,
}

pub(crate) fn reloads_under_load_fail_nothing() -> Result<()> {
    let world = World::new()?;
    let allow = r#""*.example.org", "mail.example.org:25""#;
    let mut exeat = Exeat::serve(world.directory(), &config(allow, ""), PROXY)?;
    let over = AtomicBool::new(false);
    let done = thread::scope(|scope| -> Result<Vec<Done>> {
        let clients = scope.spawn(|| {
            at_once(CLIENTS + TUNNELS, |number| {
                if number < CLIENTS { ask_until(&over, number) } else { echo_until(&over, number) }
            })
        });
        let reloaded = reload_often(&world, &mut exeat, allow);
        over.store(true, Ordering::Relaxed);
        let done = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))?;
        reloaded?;
        done
    })?;
    let (requests, bytes) = done.iter().fold((0, 0), |(r, b), d| (r + d.requests, b + d.bytes));
    ensure!(requests >= CLIENTS * RELOADS && bytes >= TUNNELS * CHUNK, "{requests} requests, {bytes} bytes");

    let records = exeat.audit_until("all records", |records| {
        let count = |event| records.iter().filter(|r| r["event"] == event).count();
        count("request") == requests && count("end") == TUNNELS
    })?;
    let wrong = |r: &&Value| {
        let denied = r["name"] == "example.com";
        r["event"] != "end" && (r["verdict"] == "deny") != denied
    };
    ensure!(!records.iter().any(|r| wrong(&r)), "{:#?}", records.iter().find(wrong));
    let up: u64 = records.iter().filter(|r| r["event"] == "end").filter_map(|r| r["bytes_up"].as_u64()).sum();
    ensure!(up == bytes as u64, "{up} bytes in the records, {bytes} in the tunnels");
    revisions_grow(&records)?;
    exeat.stop()
}

/// A client on one connection decides by newer and newer policy.
fn revisions_grow(records: &[Value]) -> Result<()> {
    let mut last: HashMap<&str, u64> = HashMap::new();
    for record in records.iter().filter(|r| r["event"] == "request") {
        let revision = record["revision"].as_u64().with_context(|| format!("no revision: {record}"))?;
        let seen = last.entry(record["source"].as_str().context("a source")?).or_default();
        ensure!(*seen <= revision, "after revision {seen}: {record}");
        *seen = revision;
    }
    let most = last.values().max().copied();
    ensure!(most > Some(RELOADS as u64 / 2), "the newest that a client saw is {most:?}");
    Ok(())
}

/// Swaps the policy for one that allows the same by other words, and back.
fn reload_often(world: &World, exeat: &mut Exeat, allow: &str) -> Result<()> {
    for round in 2..RELOADS + 2 {
        let entries = if round % 2 == 0 { format!("\"only-now.test\", {allow}") } else { allow.to_owned() };
        Exeat::write_config(world.directory(), &config(&entries, ""))?;
        exeat.signal(Signal::SIGHUP)?;
        exeat.wait_for_output(&format!("reloaded revision={round}\n"))?;
        thread::sleep(PACE);
    }
    Ok(())
}

/// One allowed and one denied request after the other on one connection.
fn ask_until(over: &AtomicBool, number: usize) -> Result<Done> {
    let mut done = Done::default();
    let mut client = Raw::proxy()?;
    while !over.load(Ordering::Relaxed) {
        for (host, want) in [(format!("c{number}.example.org"), 200), ("example.com".to_owned(), 403)] {
            let reply = client.ask(request(&format!("GET http://{host}/")))?;
            ensure!(reply.status == want, "{host}, request {}: {reply:?}", done.requests);
            done.requests += 1;
        }
    }
    Ok(done)
}

/// One tunnel for the whole time.
fn echo_until(over: &AtomicBool, number: usize) -> Result<Done> {
    let mut done = Done::default();
    let mut tunnel = tunnel("mail.example.org")?;
    while done.bytes == 0 || !over.load(Ordering::Relaxed) {
        echo(&mut tunnel, &noise(number * 1000 + done.bytes, CHUNK))?;
        done.bytes += CHUNK;
    }
    tunnel.finish()?;
    tunnel.closed()?;
    Ok(done)
}

/// What is written survives, what is lost are the last records only, and a line that was torn harms no other.
pub(crate) fn a_kill_loses_no_record_but_the_last() -> Result<()> {
    const BEFORE_THE_KILL: usize = 200;
    let world = World::new()?;
    let config = config(r#""*.example.org""#, "");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let asked = AtomicUsize::new(0);
    let (answered, written) = thread::scope(|scope| -> Result<_> {
        let clients = scope.spawn(|| at_once(CLIENTS, |number| ask_until_refused(&asked, number)));
        exeat.until("requests", |_| Ok((asked.load(Ordering::Relaxed) >= BEFORE_THE_KILL).then_some(())))?;
        let written = exeat.audit()?;
        exeat.signal(Signal::SIGKILL)?;
        exeat.wait()?;
        let answered = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        Ok((answered, written))
    })?;
    let left = exeat.audit()?;
    ensure!(left.starts_with(&written), "what was in the file is no longer there");
    for (number, answered) in answered.iter().enumerate() {
        let mine = left.iter().filter_map(|r| r["name"].as_str()?.strip_prefix(&format!("c{number}-")));
        let mine: Vec<usize> =
            mine.filter_map(|name| name.strip_suffix(".example.org")?.parse().ok()).collect();
        // One more than was answered may be there: it was recorded and the client killed before it knew.
        ensure!(mine.iter().copied().eq(0..mine.len()) && mine.len() <= answered + 1, "{number}: {mine:?}");
        eprintln!("client {number}: {answered} answered, {} recorded", mine.len());
    }

    // A kernel may stop a write half way where a kill always ends it at a line: it is made so here.
    let path = world.directory().join("audit.jsonl");
    OpenOptions::new().append(true).open(&path)?.write_all(b"{\"v\":1,\"torn")?;
    let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    ensure!(status("after.example.org")? == 200);
    exeat.stop()?;
    let text = fs::read_to_string(&path)?;
    let lines: Vec<Option<Value>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(lines.iter().filter(|line| line.is_none()).count() == 1, "one torn line: {text}");
    ensure!(lines[..left.len()].iter().flatten().eq(&left), "the records before the kill");
    let last = lines.last().cloned().flatten().context("the last line is whole")?;
    ensure!(last["name"] == "after.example.org" && text.ends_with('\n'), "{last}");
    Ok(())
}

/// Asks for `c<number>-0.example.org`, `-1` and so on until the proxy is gone; returns how many were answered.
fn ask_until_refused(asked: &AtomicUsize, number: usize) -> Result<usize> {
    let mut client = Raw::proxy()?;
    for count in 0.. {
        match client.ask(request(&format!("GET http://c{number}-{count}.example.org/"))) {
            Ok(reply) => ensure!(reply.status == 200, "{reply:?}"),
            Err(_) => return Ok(count),
        }
        asked.fetch_add(1, Ordering::Relaxed);
    }
    Ok(0)
}

/// What a client was told is allowed has its record in the file, however the program ends.
pub(crate) fn a_kill_loses_no_required_record() -> Result<()> {
    const BEFORE_THE_KILL: usize = 200;
    let world = World::new()?;
    let config = config(r#""*.example.org""#, "").replace("[audit]", "[audit]\nrequired = true");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let allowed = Mutex::new(Vec::new());
    thread::scope(|scope| -> Result<()> {
        let clients = scope.spawn(|| at_once(CLIENTS, |number| be_allowed_until_refused(&allowed, number)));
        exeat.until("requests", |_| Ok((locked(&allowed).len() >= BEFORE_THE_KILL).then_some(())))?;
        exeat.signal(Signal::SIGKILL)?;
        exeat.wait()?;
        clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        Ok(())
    })?;
    let records = exeat.audit()?;
    let kept: HashSet<&str> = records
        .iter()
        .filter(|record| record["event"] == "decision" && record["verdict"] == "allow")
        .filter_map(|record| record["name"].as_str())
        .collect();
    let allowed = locked(&allowed);
    let missing: Vec<&String> = allowed.iter().filter(|name| !kept.contains(name.as_str())).collect();
    ensure!(missing.is_empty(), "{} of {} have no record: {missing:?}", missing.len(), allowed.len());
    Ok(())
}

/// Takes turns between a tunnel of its own and a request on one connection, until the proxy is gone. Notes the names that
/// were answered with 200.
fn be_allowed_until_refused(allowed: &Mutex<Vec<String>>, number: usize) -> Result<()> {
    let mut client = Raw::proxy()?;
    for count in 0.. {
        let name = format!("c{number}-{count}.example.org");
        let asked = if count % 2 == 0 {
            client.ask(request(&format!("GET http://{name}/")))
        } else {
            ask(&format!("CONNECT {name}:80")).map(|(_, reply)| reply)
        };
        match asked {
            Ok(reply) => ensure!(reply.status == 200, "{reply:?}"),
            Err(_) => return Ok(()),
        }
        locked(allowed).push(name);
    }
    Ok(())
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds every answer back until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        drop(self.changed.wait_while(state, |(open, _)| !*open));
    }

    fn waiting(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
        self.changed.notify_all();
    }
}

/// Every request that had reached the proxy is answered in full, though the origin answers after the signal.
pub(crate) fn a_stop_under_load_finishes_what_was_accepted() -> Result<()> {
    const REQUESTS: usize = 50;
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let world = World::serving(Arc::new(move |request: &Request| {
        held.pass();
        Reply::new(200, noise(request.host().len(), 256 * 1024))
    }))?;
    let allow = r#""*.example.org", "mail.example.org:25""#;
    let mut exeat = Exeat::serve(world.directory(), &config(allow, ""), PROXY)?;
    let mut open = tunnel("mail.example.org")?;
    thread::scope(|scope| -> Result<()> {
        let clients = scope.spawn(|| {
            at_once(REQUESTS, |number| {
                let host = format!("c{number}.example.org");
                let reply = Raw::proxy()?.ask(request(&format!("GET http://{host}/")))?;
                ensure!(
                    reply.status == 200 && reply.body == noise(host.len(), 256 * 1024),
                    "{}",
                    reply.status
                );
                Ok(())
            })
        });
        exeat.until("all requests", |_| Ok((gate.waiting() == REQUESTS).then_some(())))?;
        exeat.signal(Signal::SIGTERM)?;
        exeat.wait_until_closed(PROXY.parse()?)?;
        gate.open();
        clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        Ok(())
    })?;
    echo(&mut open, b"still there")?;
    open.finish()?;
    open.closed()?;
    ensure!(exeat.wait()?.success());
    let records = exeat.audit()?;
    ensure!(records.iter().filter(|r| r["event"] == "request" && r["status"] == 200).count() == REQUESTS);
    Ok(())
}

/// The kernel has accepted them and their requests, so they were accepted.
pub(crate) fn connections_in_the_backlog_are_served_before_the_end() -> Result<()> {
    const REQUESTS: usize = 50;
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, ""), PROXY)?;
    // Stopped, it cannot take them; and it cannot be told to end before it goes on.
    exeat.freeze()?;
    let mut clients = (0..REQUESTS).map(|_| Raw::proxy()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.send(request("GET http://example.com/"))?;
    }
    exeat.signal(Signal::SIGTERM)?;
    exeat.signal(Signal::SIGCONT)?;
    for (number, client) in clients.iter_mut().enumerate() {
        let reply = client.reply("GET").with_context(|| format!("client {number}"))?;
        ensure!(reply.status == 200, "{reply:?}");
    }
    ensure!(exeat.wait()?.success());
    Ok(())
}
