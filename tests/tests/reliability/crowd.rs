//! Too many clients, too few descriptors, and sides that do not read.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{ask, get, request};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::World;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{at_once, config, echo, serve_under, status, tunnel};

/// Hostile clients where the machine has descriptors for them.
const HOSTILE: usize = 10_000;
/// Descriptors that this process needs for everything else.
const OWN_DESCRIPTORS: usize = 1000;
/// Memory that a connection without a whole head may cost, in bytes: its task, its timers and 4 KiB of its head.
const PER_CONNECTION: usize = 16 * 1024;
/// What the process may grow by whatever the number of connections, in bytes: the audit queue and the allocator's own.
const ONCE: usize = 24 * 1024 * 1024;

/// As many hostile clients as the limit on descriptors lets this process be; the proxy inherits the limit.
fn hostile_clients() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let room = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(OWN_DESCRIPTORS);
    ensure!(room > 1000, "a limit of {hard} descriptors is too low for this scenario");
    Ok(HOSTILE.min(room))
}

/// Half come from one address and half from 250, half say nothing and half the beginning of a head.
fn intrude(numbers: Range<usize>) -> Result<Vec<TcpStream>> {
    let proxy: SocketAddr = PROXY.parse()?;
    let mut streams = Vec::with_capacity(numbers.len());
    for number in numbers {
        let last = if number % 2 == 0 { 1 } else { 2 + u8::try_from(number / 2 % 250)? };
        let source = SocketAddr::from((Ipv4Addr::new(93, 184, 216, last), 0));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&source.into())?;
        socket.connect(&proxy.into())?;
        let mut stream = TcpStream::from(socket);
        if number / 2 % 2 == 0 {
            // One over the limit of its address may be closed already.
            drop(stream.write_all(b"GET http://example.com/ HTTP/1.1\r\nX-Slow: "));
        }
        streams.push(stream);
    }
    Ok(streams)
}

pub(crate) fn a_crowd_of_silent_clients_holds_up_nobody() -> Result<()> {
    const INTRUDERS: usize = 8;
    const HONEST: usize = 50;
    const REQUESTS: usize = 4;
    let count = hostile_clients()?;
    let world = World::new()?;
    let limits = "[limits]\nhead_timeout = \"8s\"\n";
    let mut exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, limits), PROXY)?;
    ensure!(status("example.com")? == 200);
    let (descriptors, memory) = (exeat.descriptors()?, exeat.resident_kib()?);
    let began = std::time::Instant::now();
    // Several at a time: a connection that the kernel has no room for costs its client a second.
    let hostile =
        at_once(INTRUDERS, |part| intrude(part * count / INTRUDERS..(part + 1) * count / INTRUDERS))?;
    eprintln!("connected after {:?}", began.elapsed());
    at_once(HONEST, |_| {
        for _ in 0..REQUESTS {
            ensure!(status("example.com")? == 200);
        }
        Ok(())
    })?;
    eprintln!("served after {:?}", began.elapsed());
    let held = exeat.descriptors()?.saturating_sub(descriptors);
    let grown = exeat.resident_kib()?.saturating_sub(memory) * 1024;
    eprintln!("{count} hostile, {held} held: {} KiB more, {} bytes each", grown / 1024, grown / held.max(1));
    ensure!(grown <= ONCE + held * PER_CONNECTION, "{grown} bytes for {held} connections");
    exeat
        .until("them to be gone", |exeat| Ok((exeat.descriptors()? <= descriptors + HONEST).then_some(())))?;
    ensure!(status("example.com")? == 200);
    drop(hostile);
    exeat.stop()
}

pub(crate) fn descriptors_run_out() -> Result<()> {
    const DESCRIPTORS: usize = 256;
    let world = World::new()?;
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let limits = "[limits]\nhead_timeout = \"60s\"\n";
    let config = config(r#""example.com", "mail.example.org:25""#, limits);
    let mut exeat = serve_under(&world, &["prlimit", &limit], &config)?;
    let mut open = tunnel("mail.example.org")?;
    let before = exeat.descriptors()?;
    exeat.until_logged("too few file descriptors")?;
    let idle = (0..2 * DESCRIPTORS).map(|_| Raw::proxy()).collect::<Result<Vec<_>>>()?;
    exeat.until("its descriptors to be in use", |exeat| {
        Ok((exeat.descriptors()? > DESCRIPTORS / 3).then_some(()))
    })?;
    echo(&mut open, b"in progress")?;
    // One over the limit is told so, as soon as those before it have been.
    let limited = Some((429, Some("connection_limit".to_owned())));
    exeat.until("a refusal", |_| Ok((get("example.com/").ok() == limited).then_some(())))?;
    // A reload needs descriptors too. Whatever comes of it, the proxy goes on.
    exeat.signal(nix::sys::signal::Signal::SIGHUP)?;
    exeat.wait_for_output("reload")?;
    echo(&mut open, b"still in progress")?;
    drop(idle);
    exeat.until("room", |_| Ok((status("example.com")? == 200).then_some(())))?;
    echo(&mut open, b"to its end")?;
    exeat.until("what it had", |exeat| Ok((exeat.descriptors()? <= before + 2).then_some(())))?;
    open.finish()?;
    open.closed()?;
    exeat.stop()
}

/// Who takes nothing for this long will not: it is a local socket. On a slow machine less is in the way then.
const STALLED: Duration = Duration::from_millis(300);

/// Sends to everybody who connects, after the head of a response, until they take no more.
fn flood(address: SocketAddr) -> Result<Arc<AtomicUsize>> {
    let stalled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&stalled);
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                let mut head = [0; 1024];
                drop(stream.read(&mut head));
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"));
                drop(stream.set_write_timeout(Some(STALLED)));
                while let Ok(_taken) = stream.write(&[0; 64 * 1024]) {}
                count.fetch_add(1, Ordering::Relaxed);
                // It stays open: to end it here would be a reset.
                loop {
                    thread::park();
                }
            });
        }
    });
    Ok(stalled)
}

/// Sends until nothing is taken any more.
fn fill(client: &mut Raw) -> Result<()> {
    let mut writer = client.writer()?;
    writer.set_write_timeout(Some(STALLED))?;
    loop {
        match writer.write(&[0; 64 * 1024]) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Bodies and tunnels whose receiver does not read, in both directions.
pub(crate) fn slow_sides_hold_no_memory() -> Result<()> {
    const OF_EACH: usize = 25;
    /// A chunk for each direction and hyper's buffers, in bytes.
    const PER_FLOW: usize = 512 * 1024;
    let world = World::new()?;
    let stalled = flood("93.184.216.99:8000".parse()?)?;
    let allow = r#""93.184.216.99:8000""#;
    let limits = "[limits]\ndrain_timeout = \"500ms\"\n";
    let mut exeat = Exeat::serve(world.directory(), &config(allow, limits), PROXY)?;
    let memory = exeat.resident_kib()?;
    let flows = at_once(3 * OF_EACH, |number| {
        let mut client = if number % 3 == 0 {
            let (mut tunnel, reply) = ask("CONNECT 93.184.216.99:8000")?;
            ensure!(reply.status == 200, "{reply:?}");
            tunnel.send("begin")?;
            tunnel
        } else {
            let mut client = Raw::proxy()?;
            let text = request("GET http://93.184.216.99:8000/");
            if number % 3 == 1 {
                client.send(text)?;
            } else {
                client.send(
                    text.replace("GET", "POST").replace("\r\n\r\n", "\r\nContent-Length: 1073741824\r\n\r\n"),
                )?;
            }
            client
        };
        if number % 3 != 1 {
            fill(&mut client)?;
        }
        Ok(client)
    })?;
    exeat.until("all to stall", |_| Ok((stalled.load(Ordering::Relaxed) == flows.len()).then_some(())))?;
    let grown = exeat.resident_kib()?.saturating_sub(memory) * 1024;
    eprintln!("{} flows: {} KiB more, {} KiB each", flows.len(), grown / 1024, grown / 1024 / flows.len());
    ensure!(grown <= flows.len() * PER_FLOW, "{grown} bytes for {} flows", flows.len());
    exeat.stop()?;
    drop(flows);
    Ok(())
}
