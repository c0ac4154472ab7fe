//! A DNS server on loopback, by UDP and TCP, that counts what it is asked.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

/// What the server says to one query.
#[derive(Clone, Debug)]
pub(super) enum Say {
    /// NOERROR with these answers.
    Records(Vec<Record>),
    /// NOERROR with these answers and an SOA record whose negative time to live is given.
    End(Vec<Record>, u32),
    /// NXDOMAIN with these answers and an SOA record whose negative time to live is given.
    NoSuchName(Vec<Record>, u32),
    /// A response code alone.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
}

/// Ends the server when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    asked: Arc<Asked>,
    _tasks: JoinSet<()>,
}

/// The queries so far. A retransmission has the id of its original, and counts as one with it.
#[derive(Default)]
struct Asked {
    seen: Mutex<HashSet<(u16, String, RecordType)>>,
    log: Mutex<Vec<(String, RecordType, Transport)>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

type Answers = dyn Fn(&str, RecordType) -> Say + Send + Sync;

impl Server {
    /// Starts a server that answers as `answers` says, which is given the name in lower case without final dot.
    pub(super) async fn start(answers: impl Fn(&str, RecordType) -> Say + Send + Sync + 'static) -> Self {
        let (udp, tcp) = bind().await;
        let address = udp.local_addr().unwrap();
        let (answers, asked): (Arc<Answers>, _) = (Arc::new(answers), Arc::new(Asked::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&answers), Arc::clone(&asked)));
        tasks.spawn(serve_tcp(tcp, answers, Arc::clone(&asked)));
        Self { address, asked, _tasks: tasks }
    }

    /// Returns how often it was asked for this name and type.
    pub(super) fn count(&self, name: &str, kind: RecordType) -> usize {
        let log = self.asked.log.lock().unwrap();
        log.iter().filter(|(asked, of, _)| asked == name && *of == kind).count()
    }

    /// Returns every name that it was asked for.
    pub(super) fn names(&self) -> HashSet<String> {
        self.asked.log.lock().unwrap().iter().map(|(name, ..)| name.clone()).collect()
    }

    /// Returns whether a query came by this transport.
    pub(super) fn was_asked_by(&self, transport: Transport) -> bool {
        self.asked.log.lock().unwrap().iter().any(|(_, _, by)| *by == transport)
    }
}

/// Binds both to one port.
async fn bind() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(socket: UdpSocket, answers: Arc<Answers>, asked: Arc<Asked>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer[..length]).unwrap();
        if let Some(response) = respond(&query, Transport::Udp, &*answers, &asked) {
            socket.send_to(&response, client).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, answers: Arc<Answers>, asked: Arc<Asked>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve_stream(stream, Arc::clone(&answers), Arc::clone(&asked)));
    }
}

async fn serve_stream(mut stream: TcpStream, answers: Arc<Answers>, asked: Arc<Asked>) {
    while let Ok(length) = stream.read_u16().await {
        let mut buffer = vec![0; length.into()];
        stream.read_exact(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer).unwrap();
        if let Some(response) = respond(&query, Transport::Tcp, &*answers, &asked) {
            stream.write_u16(u16::try_from(response.len()).unwrap()).await.unwrap();
            stream.write_all(&response).await.unwrap();
        }
    }
}

fn respond(query: &Message, transport: Transport, answers: &Answers, asked: &Asked) -> Option<Vec<u8>> {
    let question = query.queries.first().unwrap();
    let (name, kind) = (question.name().to_lowercase().to_ascii(), question.query_type());
    let name = name.trim_end_matches('.').to_owned();
    // Ids of TCP and UDP are apart.
    let id = if transport == Transport::Udp { query.metadata.id } else { query.metadata.id ^ 0x8000 };
    if asked.seen.lock().unwrap().insert((id, name.clone(), kind)) {
        asked.log.lock().unwrap().push((name.clone(), kind, transport));
    }
    let (code, records, negative_ttl) = match answers(&name, kind) {
        Say::Records(records) => (ResponseCode::NoError, records, None),
        Say::End(records, ttl) => (ResponseCode::NoError, records, Some(ttl)),
        Say::NoSuchName(records, ttl) => (ResponseCode::NXDomain, records, Some(ttl)),
        Say::Code(code) => (code, Vec::new(), None),
        Say::Silence => return None,
    };
    let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    response.metadata.response_code = code;
    response.metadata.recursion_available = true;
    response.queries.push(question.clone());
    response.answers = records;
    response.authorities.extend(negative_ttl.map(soa));
    let bytes = response.to_vec().unwrap();
    if transport == Transport::Tcp || bytes.len() <= usize::from(query.max_payload()) {
        return Some(bytes);
    }
    response.answers.clear();
    response.metadata.truncation = true;
    Some(response.to_vec().unwrap())
}

fn soa(minimum: u32) -> Record {
    let soa = SOA::new(name("ns.test"), name("admin.test"), 1, 3600, 600, 86400, minimum);
    Record::from_rdata(name("test"), 3600, RData::SOA(soa))
}

/// Parses a name and makes it absolute.
pub(super) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// Returns the address record that fits the type of `address`, with a time to live of 60 s.
pub(super) fn address(owner: &str, address: IpAddr) -> Record {
    Record::from_rdata(name(owner), 60, address.into())
}

/// Returns an alias with a time to live of 60 s.
pub(super) fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
}
