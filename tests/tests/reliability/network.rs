//! The network behind it fails: name servers and addresses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exeat_tests::dns::{Dns, Entry};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::get;
use exeat_tests::namespace::PROXY;
use exeat_tests::world::World;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record, RecordType};

use crate::{at_once, config, status};

/// A name server that comes and goes, beside the one of the world.
const SERVER: &str = "10.99.0.53:5353";
/// What one resolution may take: two tries of this length.
const TRY: Duration = Duration::from_millis(300);
/// How much longer than its bound an answer may take on a slow machine.
const SLACK: u32 = 10;

/// A name server that answers each query with what `reply` makes of it, until it is dropped.
struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(reply: fn(&[u8]) -> Option<Vec<u8>>) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        // Looked at often enough to end soon.
        let socket = UdpSocket::bind(SERVER)?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        let tcp = TcpListener::bind(SERVER)?;
        tcp.set_nonblocking(true)?;
        let stop = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut held = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // Over TCP it is silent.
                held.extend(tcp.accept());
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(bytes) = reply(buffer.get(..length).unwrap_or_default()) {
                    drop(socket.send_to(&bytes, peer));
                }
            }
        });
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn silence(_: &[u8]) -> Option<Vec<u8>> {
    None
}

fn garbage(query: &[u8]) -> Option<Vec<u8>> {
    Some(query.iter().rev().map(|byte| byte ^ 0x55).collect())
}

/// The right id, a response, and then nothing that makes sense.
fn garbage_with_the_id(query: &[u8]) -> Option<Vec<u8>> {
    Some([query.get(..2)?, &[0x81, 0x80, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0xc0, 0x0c, 0xff]].concat())
}

/// Says that the answer is too long for UDP; over TCP there is none.
fn truncated(query: &[u8]) -> Option<Vec<u8>> {
    let mut reply = query.to_vec();
    *reply.get_mut(2)? |= 0x82;
    Some(reply)
}

fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    let mut reply = query.to_vec();
    *reply.get_mut(2)? |= 0x80;
    *reply.get_mut(3)? |= 2;
    Some(reply)
}

/// An allowed name fails within the bound, a literal is not held up, and the name works once the server does. The
/// server is the only one: with a second one the first one's failure is not seen at all.
pub(crate) fn name_servers_that_fail_are_survived() -> Result<()> {
    type Fault = Option<fn(&[u8]) -> Option<Vec<u8>>>;
    let faults: [(&str, Fault, &[u16]); 6] = [
        ("down", None, &[502, 504]),
        ("silent", Some(silence), &[504]),
        ("garbage", Some(garbage), &[502, 504]),
        ("garbage with the id", Some(garbage_with_the_id), &[502, 504]),
        ("truncated", Some(truncated), &[502, 504]),
        ("SERVFAIL", Some(server_failure), &[502]),
    ];
    let world = World::new()?;
    let extra =
        format!("[resolver]\nservers = [\"{SERVER}\"]\ntimeout = \"{}ms\"\nattempts = 2\n", TRY.as_millis());
    let mut exeat =
        Exeat::serve(world.directory(), &config(r#""*.example.org", "93.184.216.34""#, &extra), PROXY)?;
    for (number, (fault, reply, statuses)) in faults.into_iter().enumerate() {
        let broken = reply.map(Server::start).transpose()?;
        at_once(8, |client| {
            if client % 2 == 1 {
                ensure!(status("93.184.216.34")? == 200, "{fault}: a literal");
                return Ok(());
            }
            let began = Instant::now();
            let (got, reason) = get(&format!("f{number}-c{client}.example.org/"))?;
            ensure!(
                statuses.contains(&got) && reason.as_deref() == Some("dns_failed"),
                "{fault}: {got} {reason:?}"
            );
            ensure!(began.elapsed() < 2 * TRY * SLACK, "{fault}: {:?}", began.elapsed());
            eprintln!("{fault}: {got} after {:?}", began.elapsed());
            Ok(())
        })
        .with_context(|| fault.to_owned())?;
        ensure!(get("evil.test/")?.0 == 403, "{fault}: a denial needs no name server");
        drop(broken);
        let repaired = Server::start(answer)?;
        let name = format!("f{number}-c0.example.org");
        exeat.until("the name server", |_| Ok((status(&name)? == 200).then_some(()))).context(fault)?;
        drop(repaired);
    }
    ensure!(world.dns.queries().is_empty(), "asked a server that is not configured");
    exeat.stop()
}

/// What a name server in working order says: that every name has one address.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let asked = query.queries.first()?;
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_available = true;
    reply.add_query(asked.clone());
    if asked.query_type() == RecordType::A {
        let address = RData::A(Ipv4Addr::new(93, 184, 216, 35).into());
        reply.add_answer(Record::from_rdata(asked.name().clone(), 60, address));
    }
    reply.to_vec().ok()
}

/// The first addresses of a name answer nothing; the others are reached within the budget for all of them, however many
/// there are. Where none answers, that budget is what it takes.
pub(crate) fn half_of_the_addresses_are_lost() -> Result<()> {
    const BUDGET: Duration = Duration::from_secs(2);
    let world = World::new()?;
    let lost = |count: usize| (1..=count).map(|last| format!("93.184.217.{last}"));
    let alive = |count: usize| (1..=count).map(|last| format!("93.184.216.{last}"));
    let set = |dns: &Dns, name: &str, addresses: Vec<String>| {
        dns.set(name, Entry::addresses(&addresses.iter().map(String::as_str).collect::<Vec<_>>()));
    };
    set(&world.dns, "few.example.org", lost(2).chain(alive(2)).collect());
    set(&world.dns, "many.example.org", lost(32).chain(alive(32)).collect());
    set(&world.dns, "none.example.org", lost(4).collect());
    let extra = format!("[limits]\nconnect_timeout = \"{}s\"\n", BUDGET.as_secs());
    let exeat =
        Exeat::serve(world.directory(), &config(r#""*.example.org", "*.example.org:25""#, &extra), PROXY)?;
    at_once(6, |client| {
        let name = ["few", "many", "none"][client % 3];
        let began = Instant::now();
        let got = if client < 3 {
            get(&format!("{name}.example.org/"))?
        } else {
            let (_, reply) = exeat_tests::fixture::ask(&format!("CONNECT {name}.example.org:25"))?;
            (reply.status, reply.head.field("x-deny-reason").map(str::to_owned))
        };
        let want = if name == "none" { (504, Some("connect_timeout".to_owned())) } else { (200, None) };
        ensure!(got == want, "{name}: {got:?}");
        ensure!(began.elapsed() < BUDGET * SLACK, "{name}: {:?}", began.elapsed());
        eprintln!("{name}: {got:?} after {:?}", began.elapsed());
        Ok(())
    })?;
    let strangers = |reached: &SocketAddr| !reached.ip().to_string().starts_with("93.184.216.");
    ensure!(!world.reached().iter().any(strangers), "{:?}", world.reached());
    exeat.stop()
}
