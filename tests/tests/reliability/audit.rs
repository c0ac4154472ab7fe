//! Where the records go is full, stuck or gone.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, PASSWORD, ask, get, request};
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::PATIENCE;
use exeat_tests::raw::Raw;
use exeat_tests::scrape::{API, scrape};
use exeat_tests::socks;
use exeat_tests::world::World;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::{at_once, config, echo, serve_under, status, tunnel};

/// Bytes of the small disk.
const DISK: usize = 4 * 1024 * 1024;
/// More requests than one page has room for records of.
const MANY: usize = 400;
/// What is allowed in these scenarios.
const ALLOW: &str = r#""example.com", "mail.example.org:25""#;

/// A configuration that records to `file`.
fn recording_to(file: &Path, required: bool) -> String {
    let audit = format!("file = \"{}\"\nrequired = {required}", file.display());
    config(ALLOW, "").replace("file = \"AUDIT\"", &audit)
}

/// A disk of [`DISK`] bytes that is full, and what fills it.
fn full_disk(world: &World) -> Result<(PathBuf, PathBuf)> {
    let disk = world.directory().join("disk");
    fs::create_dir(&disk)?;
    let size = format!("size={DISK}");
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
        .context("mount a tmpfs")?;
    let ballast = disk.join("ballast");
    // One page is left, so that the log begins well.
    fs::write(&ballast, vec![0; DISK - 4096])?;
    Ok((disk.join("audit.jsonl"), ballast))
}

/// The records of a file, each of whose lines must be whole.
fn records(text: &str) -> Result<Vec<Value>> {
    ensure!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// How many records the `lost` records say were lost.
fn lost(records: &[Value]) -> u64 {
    records.iter().filter(|r| r["event"] == "lost").filter_map(|r| r["count"].as_u64()).sum()
}

fn requests(records: &[Value]) -> usize {
    records.iter().filter(|r| r["event"] == "request").count()
}

/// Asks `count` times on one connection; every answer has `status`.
fn ask_often(host: &str, status: u16, count: usize) -> Result<()> {
    let mut client = Raw::proxy()?;
    for number in 0..count {
        let reply = client.ask(request(&format!("GET http://{host}/")))?;
        ensure!(reply.status == status, "request {number}: {reply:?}");
    }
    Ok(())
}

pub(crate) fn a_full_disk_stops_no_decision() -> Result<()> {
    let world = World::new()?;
    let (file, ballast) = full_disk(&world)?;
    let mut exeat = Exeat::serve(world.directory(), &recording_to(&file, false), PROXY)?;
    let mut open = tunnel("mail.example.org")?;
    ask_often("example.com", 200, MANY)?;
    exeat.wait_for_output("audit log cannot be written")?;
    ask_often("example.com", 200, MANY)?;
    ask_often("example.org", 403, MANY)?;
    echo(&mut open, b"unharmed")?;
    fs::remove_file(ballast)?;
    exeat.wait_for_output("audit log is written again")?;
    open.finish()?;
    open.closed()?;
    exeat.stop()?;
    let records = records(&fs::read_to_string(&file)?)?;
    ensure!((requests(&records), lost(&records)) == (3 * MANY, 0), "the queue had room for all of them");
    Ok(())
}

/// What a client is told while records cannot be kept and nothing is allowed without.
fn unavailable(got: &(u16, Option<String>)) -> bool {
    *got == (503, Some("audit_unavailable".to_owned()))
}

fn connect() -> Result<(u16, Option<String>)> {
    let (_, reply) = ask("CONNECT mail.example.org:25")?;
    Ok((reply.status, reply.head.field("x-deny-reason").map(str::to_owned)))
}

pub(crate) fn a_full_disk_stops_every_decision_that_must_be_recorded() -> Result<()> {
    let world = World::new()?;
    let (file, ballast) = full_disk(&world)?;
    let mut exeat = Exeat::serve(world.directory(), &recording_to(&file, true), PROXY)?;
    let mut open = tunnel("mail.example.org")?;
    exeat.until("the disk to be full", |_| Ok(unavailable(&get("example.com/")?).then_some(())))?;
    let (reached, accepts) = (world.http.requests().len(), world.accepts());
    let (get_told, connect_told) = (get("example.com/")?, connect()?);
    ensure!(unavailable(&get_told) && unavailable(&connect_told), "{get_told:?} {connect_told:?}");
    ensure!(world.accepts() == accepts, "somebody was connected to for what cannot be recorded");
    ensure!(status("example.org")? == 403, "a denial stands");
    echo(&mut open, b"decided before")?;
    ensure!(world.http.requests().len() == reached, "a request went out without a record");
    fs::remove_file(ballast)?;
    exeat.until("room", |_| Ok((status("example.com")? == 200).then_some(())))?;
    ensure!(connect()?.0 == 200);
    open.finish()?;
    open.closed()?;
    exeat.stop()?;
    let records = records(&fs::read_to_string(file)?)?;
    let of = |event: &str, status: u16| {
        records.iter().filter(|r| r["event"] == event && r["status"] == status).count()
    };
    ensure!(of("request", 200) == world.http.requests().len(), "every request that went out has its record");
    ensure!(of("decision", 200) == 2 && of("decision", 503) == 1, "{records:#?}");
    ensure!(lost(&records) == 0, "the refusals and what ended meanwhile had room in the queue");
    Ok(())
}

/// A limit on the size of files is a signal first, which would end a process that does not expect it.
pub(crate) fn a_file_that_may_not_grow_stops_no_decision() -> Result<()> {
    let world = World::new()?;
    let file = world.directory().join("audit.jsonl");
    let mut exeat = serve_under(&world, &["prlimit", "--fsize=16384"], &recording_to(&file, false))?;
    ask_often("example.com", 200, MANY)?;
    exeat.wait_for_output("audit log cannot be written")?;
    ask_often("example.com", 200, 10)?;
    ask_often("example.org", 403, 10)?;
    ensure!(fs::metadata(&file)?.len() <= 16384);
    exeat.signal(Signal::SIGKILL)
}

/// A FIFO that nobody reads, and more records than the pipe, the batch and the queue hold together.
fn stuck(world: &World, required: bool) -> Result<(Exeat, PathBuf)> {
    const RECORDS: usize = 10_000;
    const CLIENTS: usize = 4;
    let fifo = world.directory().join("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let exeat = Exeat::serve(world.directory(), &recording_to(&fifo, required), PROXY)?;
    at_once(CLIENTS, |_| ask_often("example.org", 403, RECORDS / CLIENTS))?;
    Ok((exeat, fifo))
}

/// Reads the FIFO until as many records are seen or told lost as were made; returns those that were lost.
fn read_until_all(fifo: &Path, made: u64) -> Result<u64> {
    let mut lines = BufReader::new(File::open(fifo)?).lines();
    let (mut seen, mut gone) = (0, 0);
    while seen + gone < made {
        let line = lines.next().context("the FIFO has ended")??;
        let record: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        match record["count"].as_u64() {
            Some(count) => gone += count,
            None => seen += 1,
        }
    }
    ensure!(seen + gone == made, "{seen} seen and {gone} lost of {made}");
    Ok(gone)
}

pub(crate) fn a_stuck_sink_loses_records_and_says_how_many() -> Result<()> {
    let world = World::new()?;
    let (exeat, fifo) = stuck(&world, false)?;
    ensure!(status("example.com")? == 200 && status("example.org")? == 403);
    ensure!(read_until_all(&fifo, 10_002)? > 0);
    ensure!(status("example.com")? == 200);
    exeat.stop()
}

pub(crate) fn a_stuck_sink_stops_every_decision_that_must_be_recorded() -> Result<()> {
    let world = World::new()?;
    let (mut exeat, fifo) = stuck(&world, true)?;
    let (get_told, connect_told) = (get("example.com/")?, connect()?);
    ensure!(unavailable(&get_told) && unavailable(&connect_told), "{get_told:?} {connect_told:?}");
    let (_, code) = socks::ask(CLIENT, PASSWORD, &socks::to_name(b"mail.example.org", 25))?;
    ensure!(code != 0, "SOCKS: a tunnel without a record");
    ensure!(world.accepts() == 0, "somebody was reached without a record: {:?}", world.reached());
    ensure!(read_until_all(&fifo, 10_003)? > 0);
    exeat.until("room", |_| Ok((status("example.com")? == 200).then_some(())))?;
    ensure!(connect()?.0 == 200);
    exeat.stop()
}

/// Whoever read its outputs has gone away: a pager, a log shipper, a shell that was closed.
pub(crate) fn closed_outputs_stop_nothing() -> Result<()> {
    let world = World::new()?;
    let to_stdout = config(ALLOW, "").replace("file = \"AUDIT\"", "stdout = true");
    for (name, config) in [("stdout", to_stdout.as_str()), ("stderr", &config(ALLOW, ""))] {
        Exeat::write_config(world.directory(), config)?;
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let args = ["serve", "--config", "exeat.toml"];
        let mut exeat = Exeat::spawn_as(world.directory(), &[], &args, |command| {
            let writer = Stdio::from(writer);
            if name == "stdout" {
                command.stdout(writer)
            } else {
                command.stderr(writer)
            };
        })?;
        exeat.wait_until_listening(PROXY.parse()?).context(name)?;
        ensure!(status("example.com")? == 200 && status("example.org")? == 403, "{name}");
        // It has something to say, and takes the new policy all the same.
        let changed = config.replace(ALLOW, r#""example.org", "other.example.org""#);
        Exeat::write_config(world.directory(), &changed)?;
        exeat.signal(Signal::SIGHUP)?;
        exeat.until("the new policy", |_| Ok((status("example.org")? == 200).then_some(())))?;
        ensure!(status("example.com")? == 403, "{name}");
        Exeat::write_config(world.directory(), "nonsense")?;
        exeat.signal(Signal::SIGHUP)?;
        ensure!(status("example.org")? == 200, "{name}");
        if name == "stderr" {
            exeat.audit_until("the records", |records| records.len() >= 5)?;
        }
        exeat.stop().context(name)?;
    }
    Ok(())
}

/// Whoever should read its standard error is there and does not: a stuck log shipper.
pub(crate) fn an_unread_standard_error_stops_nothing() -> Result<()> {
    /// Problems of one bad reload, as many as are told at once: more bytes than a pipe holds.
    const PROBLEMS: usize = 100;
    let world = World::new()?;
    let good = config(ALLOW, &format!("[api]\nlisten = \"{API}\"\nsocket = \"s\"\n"));
    let bad =
        format!("{good}{}", (0..PROBLEMS).map(|n| format!("[nonsense-{n:0100}]\n")).collect::<String>());
    Exeat::write_config(world.directory(), &good)?;
    let (reader, writer) = std::io::pipe()?;
    let args = ["serve", "--config", "exeat.toml"];
    let mut exeat = Exeat::spawn_as(world.directory(), &[], &args, |command| {
        command.stderr(Stdio::from(writer));
    })?;
    exeat.wait_until_listening(PROXY.parse()?)?;
    let mut echo_tunnel = tunnel("mail.example.org")?;
    let lost =
        || -> Result<f64> { scrape()?.get("exeat_log_lines_lost_total").copied().context("the metric") };
    ensure!(lost()? == 0.0);
    Exeat::write_config(world.directory(), &bad)?;
    exeat.until("lines to be lost", |exeat| {
        exeat.signal(Signal::SIGHUP)?;
        // Each of these is decided while the log is stuck.
        ensure!(status("example.com")? == 200 && status("example.org")? == 403);
        Ok((lost()? > 0.0).then_some(()))
    })?;
    echo(&mut echo_tunnel, b"are you there")?;
    Exeat::write_config(world.directory(), &good.replace(ALLOW, r#""example.org""#))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.until("the new policy", |_| Ok((status("example.org")? == 200).then_some(())))?;
    ensure!(status("example.com")? == 403);
    // The reader comes back, and is told what it has missed.
    let (tell, is_told) = channel();
    let rest = thread::spawn(move || -> Result<String> {
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        while !line.contains("log lines were lost") {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "nothing was said of what was lost");
        }
        tell.send(())?;
        let mut rest = String::new();
        reader.read_to_string(&mut rest)?;
        Ok(rest)
    });
    is_told.recv_timeout(PATIENCE).context("it never said what was lost")?;
    exeat.stop()?;
    let rest = rest.join().map_err(|_| anyhow!("the reader panicked"))??;
    ensure!(rest.contains("drained"), "the last lines are missing: {rest}");
    Ok(())
}
