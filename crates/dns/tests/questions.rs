//! The policy server with a policy, a name server and a gate of the test's: replays of the fuzzer's committed inputs, and
//! what happens between a question and its answer.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use exeat_audit::Outcome;
use exeat_dns::{Carrier, Gate, GateError, LIFETIME_MIN, Opened, Opening, Server};
use exeat_model::{IpBlock, PortSet, Transport};
use exeat_policy::{Answers, Entry, Reason, Revision};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, Record, RecordType},
};
use proptest::prelude::*;
use tokio::{net::UdpSocket, sync::Semaphore, task::JoinHandle};

#[path = "../../../fuzz/checks/dns_answer.rs"]
mod dns_answer;
#[path = "../../../fuzz/checks/dns_query.rs"]
mod dns_query;
#[path = "../../../fuzz/checks/names_world.rs"]
mod names_world;

use names_world::{CLIENT, Snapshot, Watched, World};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(folder).unwrap();
    let inputs: Vec<_> = files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(inputs.len() >= 40, "{target} has {} inputs", inputs.len());
    inputs
}

#[test]
fn every_question_its_prefixes_and_edits_have_an_answer() {
    for bytes in corpus("dns_query") {
        dns_query::check(&bytes);
        for at in 0..bytes.len().min(128) {
            dns_query::check(&bytes[..at]);
            for byte in [0, 1, 0x0c, 0x3f, 0x40, 0xc0, 0xff] {
                let mut edited = bytes.clone();
                edited[at] = byte;
                dns_query::check(&edited);
            }
        }
    }
}

#[test]
fn whatever_servers_say_is_told_as_far_as_the_policy_lets_it() {
    let told: usize = corpus("dns_answer").iter().map(|bytes| dns_answer::check(bytes)).sum();
    // The name server is heard at all: of 64 addresses in one answer, and of those that are fine.
    assert!(told > 64 + 8, "{told} records");
}

/// Any address, more often one of a few.
fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        2 => any::<[u8; 4]>().prop_map(IpAddr::from),
        2 => any::<u8>().prop_map(|last| IpAddr::from([93, 184, 216, last])),
        1 => any::<[u8; 16]>().prop_map(IpAddr::from),
        1 => any::<u16>().prop_map(|last| IpAddr::from([0x2606, 0x2800, 0, 0, 0, 0, 0, last])),
        1 => any::<[u8; 4]>().prop_map(|v4| Ipv4Addr::from(v4).to_ipv6_mapped().into()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The property of `dns_answer` over answers that can be read, of any addresses with any owner.
    #[test]
    fn no_address_is_told_that_is_not_open(
        addresses in prop::collection::vec((any_address(), prop::bool::weighted(0.8), any::<u32>()), 0..8),
        code in prop_oneof![9 => Just(0u8), 1 => 1u8..6],
    ) {
        let count = u16::try_from(addresses.len()).unwrap();
        let mut bytes = [&[0x81, 0x80 | code][..], &count.to_be_bytes(), &[0; 4]].concat();
        for (address, is_own, ttl) in addresses {
            // A pointer to the question's name, or another name.
            bytes.extend(if is_own { &[0xc0, 12][..] } else { b"\x04evil\x04test\0" });
            let (kind, data) = match address {
                IpAddr::V4(address) => (1u16, address.octets().to_vec()),
                IpAddr::V6(address) => (28, address.octets().to_vec()),
            };
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(ttl.to_be_bytes());
            bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(data);
        }
        dns_answer::check(&bytes);
    }
}

/// A name server that answers with these addresses, once it is let.
struct Upstream {
    address: SocketAddr,
    let_through: Arc<Semaphore>,
    serving: JoinHandle<()>,
}

impl Upstream {
    async fn start(addresses: &[&str], ttl: u32) -> Self {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let let_through = Arc::new(Semaphore::new(0));
        let (address, allowance) = (socket.local_addr().unwrap(), Arc::clone(&let_through));
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                allowance.acquire().await.unwrap().forget();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let asked = query.queries[0].clone();
                let mut reply = Message::response(query.metadata.id, OpCode::Query);
                for address in &addresses {
                    let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
                    if kind == asked.query_type() {
                        reply.add_answer(Record::from_rdata(asked.name().clone(), ttl, (*address).into()));
                    }
                }
                reply.add_query(asked);
                socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
            }
        });
        Self { address, let_through, serving }
    }

    /// Answers at once.
    async fn prompt(addresses: &[&str], ttl: u32) -> Self {
        let upstream = Self::start(addresses, ttl).await;
        upstream.let_through.add_permits(1000);
        upstream
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask(server: &Server, name: &str, kind: RecordType) -> Message {
    let answer = names_world::ask(server, &question(name, kind), Carrier::Udp).await;
    Message::from_vec(&answer.unwrap()).unwrap()
}

fn told(message: &Message) -> String {
    let mut words = vec![format!("{:?}", message.metadata.response_code)];
    words.extend(message.answers.iter().map(|record| record.data.to_string()));
    words.join(" ")
}

fn entry(text: &str, set: impl Fn(&mut Entry)) -> Entry {
    let mut entry = Entry::parse(text).unwrap();
    set(&mut entry);
    entry
}

fn allowing(revision: u64, names: &[&str]) -> Arc<Snapshot> {
    let entries: Vec<Entry> = names.iter().map(|name| Entry::parse(name).unwrap()).collect();
    Snapshot::new(revision, &entries, &[])
}

#[tokio::test]
async fn what_is_told_was_opened_for_this_client_before() {
    let upstream = Upstream::prompt(&["93.184.216.34", "10.20.0.9", "2606:2800::1", "fd00::1"], 700).await;
    let rule = entry("www.example.com", |entry| {
        entry.settings.ports = Some(PortSet::parse("5432").unwrap());
        entry.settings.answers = Some(Answers::Filter);
    });
    let world = World::new(Snapshot::new(3, &[rule], &[]));
    let gate = Arc::new(Watched::default());
    let server = names_world::server(&world, Arc::clone(&gate) as _, upstream.address, PATIENCE);
    for (kind, want) in [(RecordType::A, "NoError 93.184.216.34"), (RecordType::AAAA, "NoError 2606:2800::1")]
    {
        assert_eq!(told(&ask(&server, "WWW.example.com.", kind).await), want);
        let opening = gate.openings.lock().unwrap().pop().expect("an opening");
        assert_eq!((opening.client, opening.name.as_str()), (CLIENT.ip(), "www.example.com"));
        assert_eq!((&*opening.principal.name, opening.revision), ("app", Revision(3)));
        assert_eq!(opening.place.address, Some(CLIENT.ip()));
        assert!(opening.lifetime > LIFETIME_MIN && opening.lifetime <= Duration::from_secs(700));
        let [reach] = opening.reach.as_slice() else { panic!("{:?}", opening.reach) };
        assert_eq!((reach.transport, reach.ports.to_string().as_str()), (Transport::Tcp, "5432"));
        let open: Vec<String> = reach.addrs.iter().map(ToString::to_string).collect();
        assert_eq!(open, ["2606:2800::1", "93.184.216.34"], "both families, whichever was asked for");
    }
    // What is not told opens nothing.
    ask(&server, "www.example.com.", RecordType::HTTPS).await;
    ask(&server, "other.example.com.", RecordType::A).await;
    assert!(gate.openings.lock().unwrap().is_empty());
}

#[tokio::test]
async fn every_answer_opens_also_one_that_was_kept() {
    let upstream = Upstream::prompt(&["93.184.216.34"], 1).await;
    let world = World::new(allowing(1, &["www.example.com"]));
    let gate = Arc::new(Watched::default());
    let server = names_world::server(&world, Arc::clone(&gate) as _, upstream.address, PATIENCE);
    for times in 1..=3 {
        let answer = ask(&server, "www.example.com.", RecordType::A).await;
        assert!(answer.answers[0].ttl <= 1);
        let openings = gate.openings.lock().unwrap();
        assert_eq!(openings.len(), times);
        assert!(openings.iter().all(|opening| opening.lifetime >= LIFETIME_MIN));
    }
}

/// A gate that says nothing before it is let.
struct Shut(Arc<Semaphore>);

impl Gate for Shut {
    fn open(&self, _: Opening) -> Opened<'_> {
        Box::pin(async {
            self.0.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

#[tokio::test]
async fn nothing_is_told_before_the_gate_is_open() {
    let upstream = Upstream::prompt(&["93.184.216.34"], 60).await;
    let world = World::new(allowing(1, &["www.example.com"]));
    let may_open = Arc::new(Semaphore::new(0));
    let gate = Arc::new(Shut(Arc::clone(&may_open)));
    let server = names_world::server(&world, gate, upstream.address, PATIENCE);
    let asking = tokio::spawn({
        let server = server.clone();
        async move { ask(&server, "www.example.com.", RecordType::A).await }
    });
    // The record is made before the gate is asked.
    while world.records.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!asking.is_finished());
    may_open.add_permits(1);
    assert_eq!(told(&asking.await.unwrap()), "NoError 93.184.216.34");
}

#[tokio::test]
async fn what_cannot_be_opened_is_not_told() {
    let upstream = Upstream::prompt(&["93.184.216.34"], 60).await;
    let world = World::new(allowing(1, &["www.example.com"]));
    let gate = Arc::new(Watched::default());
    let server = names_world::server(&world, Arc::clone(&gate) as _, upstream.address, PATIENCE);
    for error in [GateError::Full, GateError::Kernel(io::Error::other("no"))] {
        gate.says.lock().unwrap().push_back(error);
        world.records.lock().unwrap().clear();
        assert_eq!(told(&ask(&server, "www.example.com.", RecordType::A).await), "ServFail");
        let records = world.records.lock().unwrap();
        let record = records.last().unwrap();
        assert_eq!((record.verdict, record.reason), (Some(Outcome::Allow), Some(Reason::PolicyUnavailable)));
        assert_eq!((record.rcode, &record.answers), (Some("SERVFAIL"), &None));
    }
    // Nor is it told as the name of its address.
    let name = "34.216.184.93.in-addr.arpa.";
    assert_eq!(told(&ask(&server, name, RecordType::PTR).await), "NXDomain");
    assert_eq!(told(&ask(&server, "www.example.com.", RecordType::A).await), "NoError 93.184.216.34");
    assert_eq!(told(&ask(&server, name, RecordType::PTR).await), "NoError www.example.com.");
}

/// A gate that finds the policy changed, and changes it.
struct Overtaken {
    world: Arc<World>,
    next: Mutex<Option<Arc<Snapshot>>>,
}

impl Gate for Overtaken {
    fn open(&self, _: Opening) -> Opened<'_> {
        let next = self.next.lock().unwrap().take();
        let outdated = next.is_some();
        if let Some(next) = next {
            self.world.replace(next);
        }
        Box::pin(std::future::ready(if outdated { Err(GateError::Outdated) } else { Ok(()) }))
    }
}

#[tokio::test]
async fn a_policy_that_changes_meanwhile_decides() {
    for (names, want) in
        [(&["www.example.com"][..], "NoError 93.184.216.34"), (&["other.example.com"], "NXDomain")]
    {
        // While the way is being opened.
        let upstream = Upstream::prompt(&["93.184.216.34"], 60).await;
        let world = World::new(allowing(1, &["www.example.com"]));
        let next = Mutex::new(Some(allowing(2, names)));
        let gate = Arc::new(Overtaken { world: Arc::clone(&world), next });
        let server = names_world::server(&world, gate, upstream.address, PATIENCE);
        assert_eq!(told(&ask(&server, "www.example.com.", RecordType::A).await), want);
        let record = world.records.lock().unwrap().pop().unwrap();
        assert_eq!(record.revision, Some(Revision(2)));

        // While the servers are being asked.
        let upstream = Upstream::start(&["93.184.216.34"], 60).await;
        let world = World::new(allowing(1, &["www.example.com"]));
        let gate = Arc::new(Watched::default());
        let server = names_world::server(&world, Arc::clone(&gate) as _, upstream.address, PATIENCE);
        let asking = ask(&server, "www.example.com.", RecordType::A);
        let changing = async {
            tokio::task::yield_now().await;
            world.replace(allowing(2, names));
            upstream.let_through.add_permits(1000);
        };
        let (answer, ()) = tokio::join!(asking, changing);
        assert_eq!(told(&answer), want);
        let openings = gate.openings.lock().unwrap();
        assert!(openings.iter().all(|opening| opening.revision == Revision(2)), "{openings:?}");
    }
}

#[tokio::test]
async fn a_policy_that_never_stays_is_none() {
    let upstream = Upstream::prompt(&["93.184.216.34"], 60).await;
    let world = World::new(allowing(1, &["www.example.com"]));
    let gate = Arc::new(Watched::default());
    gate.says.lock().unwrap().extend((0..100).map(|_| GateError::Outdated));
    let server = names_world::server(&world, Arc::clone(&gate) as _, upstream.address, PATIENCE);
    assert_eq!(told(&ask(&server, "www.example.com.", RecordType::A).await), "ServFail");
    assert!(gate.openings.lock().unwrap().len() < 10);
}

#[tokio::test]
async fn addresses_within_the_rule_are_told_and_no_others() {
    let inside = entry("db.example.com", |entry| {
        entry.settings.addresses = Some(vec![IpBlock::parse("10.20.0.0/16").unwrap()]);
    });
    for (addresses, want) in [
        (&["10.20.0.9"][..], "NoError 10.20.0.9"),
        (&["10.21.0.9"], "NXDomain"),
        (&["10.20.0.9", "10.21.0.9"], "NXDomain"),
        (&["10.20.0.9", "2606:2800::1"], "NXDomain"),
        (&["93.184.216.34"], "NXDomain"),
        (&[], "NoError"),
    ] {
        let upstream = Upstream::prompt(addresses, 60).await;
        let world = World::new(Snapshot::new(1, std::slice::from_ref(&inside), &[]));
        let gate = Arc::new(Watched::default());
        let server = names_world::server(&world, Arc::clone(&gate) as _, upstream.address, PATIENCE);
        let answer = ask(&server, "db.example.com.", RecordType::A).await;
        assert_eq!(told(&answer), want, "{addresses:?}");
        assert_eq!(gate.openings.lock().unwrap().len(), answer.answers.len(), "{addresses:?}");
        assert_ne!(answer.metadata.response_code, ResponseCode::ServFail);
    }
}
