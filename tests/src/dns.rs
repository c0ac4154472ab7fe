//! A recursive name server that answers from a table and writes down every question.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Seconds for which an answer or a denial may be kept.
const TTL: u32 = 60;
/// How far the server follows aliases in its own table: more than any client accepts, and an end to loops.
const CHAIN: usize = 70;

/// What the table says of one name.
#[derive(Clone, Default)]
pub struct Entry {
    addresses: Vec<IpAddr>,
    records: Vec<RData>,
    ttl: Option<u32>,
    alias: Option<String>,
    extra: Vec<(String, IpAddr)>,
    failure: Option<ResponseCode>,
    silent: bool,
    only_family: Option<RecordType>,
}

impl Entry {
    /// A name with addresses of either family.
    ///
    /// # Panics
    /// When one is not an address: a mistake in the test.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a wrong literal in a test should stop it")]
    pub fn addresses(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|a| a.parse().expect("an IP address")).collect();
        Self { addresses, ..Self::default() }
    }

    /// A name that is an alias of another.
    #[must_use]
    pub fn alias(of: &str) -> Self {
        Self { alias: Some(of.to_owned()), ..Self::default() }
    }

    /// A name with these records, of any type.
    #[must_use]
    pub fn records(records: Vec<RData>) -> Self {
        Self { records, ..Self::default() }
    }

    /// The same with another time to live, in seconds.
    #[must_use]
    pub fn kept_for(mut self, ttl: u32) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// A name for which the server fails: SERVFAIL, REFUSED and so on.
    #[must_use]
    pub fn failure(code: ResponseCode) -> Self {
        Self { failure: Some(code), ..Self::default() }
    }

    /// A name for which no answer ever comes.
    #[must_use]
    pub fn silence() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// Fails (SERVFAIL) for the family that is not `family`.
    #[must_use]
    pub fn only(mut self, family: RecordType) -> Self {
        self.only_family = Some(family);
        self
    }

    /// Adds an address record of another name to the answer and to the additional section: what a poisoner sends.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a wrong literal in a test should stop it")]
    pub fn with_extra(mut self, name: &str, address: &str) -> Self {
        self.extra.push((name.to_owned(), address.parse().expect("an IP address")));
        self
    }
}

/// One question that reached the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Lower case, without the trailing dot.
    pub name: String,
    /// `A`, `AAAA` and so on.
    pub kind: RecordType,
}

#[derive(Default)]
struct State {
    table: Mutex<HashMap<String, Entry>>,
    log: Mutex<Vec<Query>>,
    logged: Condvar,
}

/// A poisoned lock only means that another test thread failed first.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running server; it ends with the process.
pub struct Dns {
    state: Arc<State>,
}

impl Dns {
    /// Serves UDP and TCP on `address`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(address: SocketAddr) -> Result<Self> {
        let state = Arc::new(State::default());
        let udp = UdpSocket::bind(address).with_context(|| format!("bind udp {address}"))?;
        let tcp = TcpListener::bind(address).with_context(|| format!("bind tcp {address}"))?;
        let shared = Arc::clone(&state);
        thread::spawn(move || serve_udp(&udp, &shared));
        let shared = Arc::clone(&state);
        thread::spawn(move || serve_tcp(&tcp, &shared));
        Ok(Self { state })
    }

    /// Adds or replaces an entry. `*.x` answers for every name below `x` that has none of its own.
    pub fn set(&self, name: &str, entry: Entry) {
        lock(&self.state.table).insert(name.to_owned(), entry);
    }

    /// The addresses that the table has for a name, without following aliases.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        find(&lock(&self.state.table), name).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }

    /// Every question so far, in order.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        lock(&self.state.log).clone()
    }

    /// The names asked for so far, each once, in order of the first question.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for query in lock(&self.state.log).iter() {
            if !names.contains(&query.name) {
                names.push(query.name.clone());
            }
        }
        names
    }

    /// Forgets the questions so far.
    pub fn clear(&self) {
        lock(&self.state.log).clear();
    }

    /// Waits until somebody has asked for `name`; false when nobody did within `limit`.
    #[must_use]
    pub fn wait_for(&self, name: &str, limit: Duration) -> bool {
        let log = lock(&self.state.log);
        let (_log, timeout) = self
            .state
            .logged
            .wait_timeout_while(log, limit, |log| !log.iter().any(|q| q.name == name))
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

fn serve_udp(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let Some(reply) = buffer.get(..length).and_then(|bytes| answer(bytes, state)) else { continue };
        let limit = usize::from(reply.max_payload());
        let reply = match reply.to_vec() {
            Ok(bytes) if bytes.len() > limit => reply.truncate().to_vec(),
            other => other,
        };
        if let Ok(bytes) = reply {
            drop(socket.send_to(&bytes, peer));
        }
    }
}

fn serve_tcp(listener: &TcpListener, state: &Arc<State>) {
    while let Ok((stream, _)) = listener.accept() {
        let state = Arc::clone(state);
        thread::spawn(move || drop(serve_stream(stream, &state)));
    }
}

fn serve_stream(mut stream: TcpStream, state: &State) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut bytes)?;
        let Some(reply) = answer(&bytes, state).and_then(|m| m.to_vec().ok()) else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &reply].concat())?;
    }
}

/// The reply to one request; none when it cannot be read or the table says to keep silent.
fn answer(request: &[u8], state: &State) -> Option<Message> {
    let request = Message::from_vec(request).ok()?;
    let query = request.queries.first()?;
    let kind = query.query_type();
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    lock(&state.log).push(Query { name: name.clone(), kind });
    state.logged.notify_all();

    let table = lock(&state.table).clone();
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    if let Some(edns) = &request.edns {
        reply.set_edns(edns.clone());
    }
    let known = fill(&mut reply, &table, &name, kind)?;
    if !known {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    if reply.answers.is_empty() {
        reply.add_authority(start_of_authority()?);
    }
    Some(reply)
}

/// Puts the chain of aliases that begins at `name`, and the addresses at its end, into `reply`. False: no such name;
/// none: no reply at all.
fn fill(reply: &mut Message, table: &HashMap<String, Entry>, name: &str, kind: RecordType) -> Option<bool> {
    let mut owner = name.to_owned();
    for _ in 0..CHAIN {
        let Some(entry) = find(table, &owner) else { return Some(owner != name) };
        if entry.silent {
            return None;
        }
        let failure = entry
            .failure
            .or(entry.only_family.filter(|family| *family != kind).map(|_| ResponseCode::ServFail));
        if let Some(code) = failure {
            reply.metadata.response_code = code;
            return Some(true);
        }
        for (other, address) in &entry.extra {
            let record = address_record(other, *address)?;
            reply.add_answer(record.clone());
            reply.add_additional(record);
        }
        let Some(alias) = &entry.alias else {
            for address in entry.addresses.iter().filter(|a| family(a) == kind) {
                let mut record = address_record(&owner, *address)?;
                record.ttl = entry.ttl.unwrap_or(TTL);
                reply.add_answer(record);
            }
            for data in entry.records.iter().filter(|data| data.record_type() == kind) {
                let owner = Name::from_str(&format!("{owner}.")).ok()?;
                reply.add_answer(Record::from_rdata(owner, entry.ttl.unwrap_or(TTL), data.clone()));
            }
            return Some(true);
        };
        let target = Name::from_str(&format!("{alias}.")).ok()?;
        let record =
            Record::from_rdata(Name::from_str(&format!("{owner}.")).ok()?, TTL, RData::CNAME(CNAME(target)));
        reply.add_answer(record);
        owner.clone_from(alias);
    }
    Some(true)
}

fn find<'a>(table: &'a HashMap<String, Entry>, name: &str) -> Option<&'a Entry> {
    table.get(name).or_else(|| {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(entry) = table.get(&format!("*.{parent}")) {
                return Some(entry);
            }
            rest = parent;
        }
        None
    })
}

fn family(address: &IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn address_record(owner: &str, address: IpAddr) -> Option<Record> {
    let data = match address {
        IpAddr::V4(a) => RData::A(a.into()),
        IpAddr::V6(a) => RData::AAAA(a.into()),
    };
    Some(Record::from_rdata(Name::from_str(&format!("{owner}.")).ok()?, TTL, data))
}

fn start_of_authority() -> Option<Record> {
    let name = |text| Name::from_str(text).ok();
    let data = SOA::new(name("ns.example.")?, name("hostmaster.example.")?, 1, 3600, 600, 86400, TTL);
    Some(Record::from_rdata(name("example.")?, TTL, RData::SOA(data)))
}
