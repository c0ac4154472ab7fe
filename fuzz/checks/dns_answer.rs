//! What holds for what a client is told, whatever the bytes of the name server's answer are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use crate::names_world::{self, Snapshot, Watched, World};
use exeat_dns::{ADDRESSES_MAX, Carrier, LIFETIME_MIN, Server};
use exeat_model::{AddressClass, CanonicalIp};
use exeat_policy::Entry;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::runtime::{Builder, Runtime};

/// What the name server says after each question: the header from its third octet on, without the number of questions,
/// and everything behind the question. The question and the id are right, or nobody would look.
static SAYS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Another name for each input, so that no answer is kept.
static NEXT: AtomicU64 = AtomicU64::new(0);

struct Stage {
    runtime: Runtime,
    server: Server,
    gate: Arc<Watched>,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let upstream: SocketAddr = socket.local_addr().unwrap();
    thread::spawn(move || say(&socket));
    let world = World::new(Snapshot::new(1, &[Entry::parse("*.example.com").unwrap()], &[]));
    let gate = Arc::new(Watched::default());
    // Long enough for loopback, and as short as what is thrown away allows.
    let server = names_world::server(&world, Arc::clone(&gate) as _, upstream, Duration::from_millis(20));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    Stage { runtime, server, gate }
});

fn say(socket: &UdpSocket) -> Option<()> {
    let mut buffer = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).ok()?;
        let query = Message::from_vec(&buffer[..length]).ok()?;
        let mut bare = Message::new(query.metadata.id, MessageType::Query, OpCode::Query);
        bare.queries = query.queries;
        let mut message = bare.to_vec().ok()?;
        let says = SAYS.lock().unwrap();
        let (head, rest) = says.split_at_checked(8)?;
        message[2..4].copy_from_slice(&head[..2]);
        // It is an answer, and no other operation.
        message[2] = message[2] & 0x07 | 0x80;
        message[6..12].copy_from_slice(&head[2..]);
        message.extend_from_slice(rest);
        socket.send_to(&message, client).ok()?;
        // Whoever throws that away would wait for another until the time is over. This is one; who has an answer does not
        // read it.
        bare.metadata.message_type = MessageType::Response;
        bare.metadata.response_code = ResponseCode::ServFail;
        socket.send_to(&bare.to_vec().ok()?, client).ok()?;
    }
}

/// Lets the name server say `bytes`, and asks. Returns how many records were told.
pub(crate) fn check(bytes: &[u8]) -> usize {
    if bytes.len() < 8 {
        return 0;
    }
    let mut records = 0;
    *SAYS.lock().unwrap() = bytes.to_vec();
    let Stage { runtime, server, gate } = &*STAGE;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = Name::from_ascii(format!("n{number:016x}.example.com.")).unwrap();
    for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
        gate.openings.lock().unwrap().clear();
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.queries.push(Query::query(name.clone(), kind));
        let answer = runtime.block_on(names_world::ask(server, &question.to_vec().unwrap(), Carrier::Tcp));
        let told = Message::from_vec(&answer.expect("a question has an answer")).expect("it can be read");
        check_told(&name, kind, &told, gate);
        records += told.answers.len();
    }
    records
}

fn check_told(name: &Name, kind: RecordType, told: &Message, gate: &Watched) {
    let codes = [ResponseCode::NoError, ResponseCode::NXDomain, ResponseCode::ServFail];
    assert!(codes.contains(&told.metadata.response_code), "{told}");
    assert!(told.authorities.is_empty() && told.additionals.is_empty(), "{told}");
    assert!(told.answers.len() <= ADDRESSES_MAX, "{}", told.answers.len());
    let openings = gate.openings.lock().unwrap();
    for record in &told.answers {
        assert_eq!(told.metadata.response_code, ResponseCode::NoError);
        assert!(record.name == *name && record.record_type() == kind && record.ttl <= 60, "{record}");
        let Some(address) = record.data.ip_addr() else { continue };
        assert_eq!(CanonicalIp::new(address).class(), AddressClass::Global, "{record}");
        assert_eq!(address, address.to_canonical(), "{record}");
        let is_open = |address: IpAddr| {
            openings.iter().any(|opening| {
                opening.lifetime >= LIFETIME_MIN
                    && opening.client == names_world::CLIENT.ip()
                    && opening.reach.iter().any(|reach| reach.addrs.contains(&address))
            })
        };
        assert!(is_open(address), "{address} is told and not open: {openings:?}");
    }
}
